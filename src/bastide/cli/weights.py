"""models ls, pull, rm; backup."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bastide.cli.context import JsonOption, client_of
from bastide.cli.show import as_json, out, table, told
from bastide.domain.errors import InvalidRequest, error_types
from bastide.domain.units import format_bytes

models_app = typer.Typer(help="Weights on this node.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(models_app, name="models")
    app.command()(backup)


@models_app.command("ls")
def list_models(context: typer.Context, json: JsonOption = False) -> None:
    """Weights that are on this node, and who uses them."""
    answer = client_of(context).models()
    if json:
        as_json(answer)
        return
    shown = table("URL", ">SIZE", "SHA256", "USED BY")
    for model in answer["models"]:
        users = ", ".join(model["used_by"][:4]) + (" …" if len(model["used_by"]) > 4 else "")
        shown.add_row(model["url"], format_bytes(model["weights_bytes"]), model["sha256"][:12], users)
    out.print(shown)


@models_app.command("pull")
def pull(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="builtin://, hf://, https://, s3:// or file://")],
    sha256: Annotated[str | None, typer.Option(help="The checksum it must have.")] = None,
    json: JsonOption = False,
) -> None:
    """Fetch weights before they are needed. A broken download goes on where it stopped."""
    if url.startswith(("https://", "http://")) and sha256 is None:
        raise InvalidRequest("a download needs its checksum: add --sha256")
    lines = client_of(context).pull(url, sha256)
    last: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, disable=json or not out.is_terminal) as progress:
        task = progress.add_task(url, total=None)
        for last in lines:
            if "done_bytes" in last:
                progress.update(task, completed=last["done_bytes"], total=last["total_bytes"])
    if "error" in last:
        error = last["error"]
        raise error_types().get(error["code"], InvalidRequest)(error["message"])
    if json:
        as_json(last)
    else:
        out.print(f"{url}: {format_bytes(last['weights_bytes'])}, sha256 {last['sha256']}")


@models_app.command("rm")
def remove(context: typer.Context, url: str, json: JsonOption = False) -> None:
    """Forget weights that no service uses."""
    answer = client_of(context).remove_model(url)
    told(answer, f"{url} is forgotten, {format_bytes(answer['gave_back_bytes'])} given back", json)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write it.", metavar="FILE")],
) -> None:
    """Back up everything but weights. The file holds the key of the secrets: guard it."""
    client = client_of(context)
    fresh = file.with_name(file.name + ".partial")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            count = client.backup(target)
            target.flush()
            os.fsync(target.fileno())
        fresh.rename(file)
    except OSError as error:
        raise InvalidRequest(f"{file} can't be written: {error.strerror}") from None
    finally:
        fresh.unlink(missing_ok=True)
    out.print(f"{file}: {format_bytes(count)}")
