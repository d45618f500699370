"""The subcommands that run things on this machine: up, doctor, restore, models rebuild."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bastide.cli.context import Context, JsonOption
from bastide.cli.show import as_json, err, out, table
from bastide.cli.weights import models_app
from bastide.domain.errors import InvalidRequest, Unsupported
from bastide.domain.identity import is_name
from bastide.domain.units import format_bytes, format_duration, parse_bytes
from bastide.wiring.places import Places, default_data

# What is left to the system and to Bastide itself when no budget is given.
BUDGET_SHARE = 0.7
SANDBOX_SHARE = 0.25
LISTEN = "127.0.0.1:8787"


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(doctor)
    app.command()(restore)
    models_app.command("rebuild")(rebuild)


def places_of(context: typer.Context, data: Path | None) -> Places:
    given = data or (context.obj.data if isinstance(context.obj, Context) else None)
    return Places(given.absolute() if given is not None else default_data())


def up(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="Data directory (default: BASTIDE_DATA, ~/.bastide).")] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT to serve on; port 0 takes a free one.")] = LISTEN,
    memory: Annotated[
        str | None, typer.Option(help="What models may hold, such as 6GiB (default: 70 % of what is available).")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads an engine may use (default: all cores).")] = None,
    gateway_workers: Annotated[int, typer.Option(min=1, max=64, help="Gateway processes.")] = 1,
    node: Annotated[str | None, typer.Option(help="Name of this machine (default: its host name).")] = None,
    llama_server: Annotated[
        Path | None, typer.Option(help="Your own llama-server program, instead of the packaged engine.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Serve HTTPS with this certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    lease: Annotated[float, typer.Option(min=1.0, help="Seconds that engines live on when nobody claims them.")] = 60.0,
    sandbox_memory: Annotated[
        str | None, typer.Option(help="What running sandboxes may be promised, such as 4GiB (default: 25 % of all).")
    ] = None,
    sandbox_spares: Annotated[int, typer.Option(min=0, max=64, help="Warm sandboxes kept while they are in use.")] = 2,
    egress_set: Annotated[
        list[str] | None, typer.Option(help="NAME=HOST,HOST: a word for several hosts in egress rules. Repeatable.")
    ] = None,
) -> None:
    """Run Bastide on this machine, in the foreground, until Ctrl-C or SIGTERM."""
    import time

    from bastide.adapters.runtime import proc
    from bastide.wiring.launch import Launch
    from bastide.wiring.rungs import holding, test_rungs
    from bastide.wiring.up import Supervisor, check_listen

    began = time.monotonic()
    check_listen(listen)
    places = places_of(context, data)
    if (tls_certificate is None) != (tls_key is None):
        raise InvalidRequest("--tls-certificate and --tls-key go together")
    for file in (llama_server, tls_certificate, tls_key):
        if file is not None and not file.is_file():
            raise InvalidRequest(f"there is no file {file}")
    budget = _bytes_or(memory, "--memory", int(proc.memory_bytes()[1] * BUDGET_SHARE))
    sandbox_budget = _bytes_or(sandbox_memory, "--sandbox-memory", int(proc.memory_bytes()[0] * SANDBOX_SHARE))
    if budget < 2**20:
        raise InvalidRequest(f"--memory {memory}: no model fits into that; give for example 2GiB")
    name = node or platform.node().split(".")[0].lower() or "here"
    tests = test_rungs()
    launch = Launch(
        data=str(places.data),
        listen=listen,
        url=f"{'https' if tls_certificate else 'http'}://{listen}",
        budget_bytes=budget,
        threads=threads or len(os.sched_getaffinity(0)),
        node=name if is_name(name) else "here",
        workers=gateway_workers,
        lease_s=lease,
        llama_server=str(llama_server.absolute()) if llama_server else "",
        tls_certificate=str(tls_certificate.absolute()) if tls_certificate else "",
        tls_key=str(tls_key.absolute()) if tls_key else "",
        rungs=tuple(sorted(rung.value for rung in holding(tests))),
        sandbox_memory_bytes=sandbox_budget,
        sandbox_spares=sandbox_spares,
        egress_sets=tuple(egress_set or ()),
    )
    had_key = places.admin_key.exists()

    def ready(supervisor: Supervisor) -> None:
        out.print(
            Text.assemble(("Bastide is ready", "bold green"), f" after {format_duration(time.monotonic() - began)}")
        )
        out.print(f"  URL        {supervisor.launch.url}  (OpenAI clients: {supervisor.launch.url}/v1)")
        if not had_key and places.admin_key.exists():
            out.print(f"  admin key  {places.admin_key.read_text().strip()}")
            out.print(f"             shown this once; kept for you in {places.admin_key}")
        out.print(f"  memory     {format_bytes(budget)} for models")
        held = ", ".join(test.rung.value for test in tests if test.holds)
        out.print(f"  rungs      {held}")
        for test in tests:
            if not test.holds:
                out.print(Text(f"             no {test.rung.value}: {test.reason}; {test.allow}", "bright_black"))
        out.file.flush()

    supervisor = Supervisor(launch, places, lambda text: err.print(Text(text, "yellow")), ready)
    raise typer.Exit(supervisor.run())


def _bytes_or(text: str | None, option: str, otherwise: int) -> int:
    if text is None:
        return otherwise
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise InvalidRequest(f"{option}: {error}") from None


def doctor(
    explain: Annotated[str | None, typer.Option(help="How to set something up: zram, gvisor, namespace, criu.")] = None,
    json: JsonOption = False,
) -> None:
    """What this machine has and lacks. Exits with 1 where Bastide can't run."""
    from bastide.wiring.doctor import RECIPES, as_dictionaries, examine

    if explain is not None:
        if explain not in RECIPES:
            raise InvalidRequest(f"known: --explain {', '.join(RECIPES)}")
        out.print(RECIPES[explain])
        return
    findings = examine()
    if json:
        as_json({"findings": as_dictionaries(findings)})
    else:
        shown = table("", "", "WHAT", "FOUND", "TO MEND IT")
        styles = {"ok": "green", "lacks": "yellow", "bad": "bold red"}
        topic = ""
        for finding in findings:
            shown.add_row(
                Text(finding.topic if finding.topic != topic else "", "bold"),
                Text(finding.state, styles[finding.state]),
                finding.name,
                finding.detail,
                finding.mend,
            )
            topic = finding.topic
        out.print(shown)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file made by `bastide backup`.", metavar="FILE")],
    data: Annotated[Path | None, typer.Option(help="Where to: an empty or missing directory.")] = None,
) -> None:
    """Lay a backup out in an empty data directory; `bastide up` then goes on from it."""
    from bastide.control.backup import restore_backup

    places = places_of(context, data)
    if not file.is_file():
        raise InvalidRequest(f"there is no file {file}")
    manifest = restore_backup(str(file), str(places.data))
    out.print(f"{places.data} holds the backup of Bastide {manifest['bastide']}; weights are fetched again as needed")


def rebuild(
    name: Annotated[str, typer.Argument(help="The built-in model: tiny.")],
    directory: Annotated[Path, typer.Option(help="Where to write it.")] = Path("rebuilt"),
) -> None:
    """Train a built-in model anew from its recipe (needs the extra `train`; about 25 minutes on two cores)."""
    from bastide.builtin import tiny

    if name != "tiny":
        raise InvalidRequest(f"there is no built-in model {name!r}; there is tiny")
    try:
        made = tiny.rebuild(directory, lambda line: out.print(line))
    except RuntimeError as error:
        raise Unsupported(str(error)) from None
    out.print(f"{made}: {format_bytes(made.stat().st_size)}")
