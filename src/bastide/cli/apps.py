"""url, open, exec, cp, rollback, build: what only apps have; and making a deploy out of a directory."""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
import yaml

from bastide.cli.context import JsonOption, client_of
from bastide.cli.progress import follow, show_failed
from bastide.cli.show import as_json, err, out, table, told
from bastide.domain.errors import Conflict, InvalidRequest, NotFound
from bastide.domain.identity import NAME_RULE, is_name
from bastide.domain.units import format_bytes
from bastide.sdk import Client
from bastide.sdk.source import Packed, pack, pack_file

AppName = Annotated[str, typer.Argument(help="Name of the app.", metavar="APP")]


def register(app: typer.Typer) -> None:
    for command in (url, open_app, rollback, build):
        app.command(command.__name__.removesuffix("_app"))(command)
    app.command()(jobs)
    app.command()(run)
    app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(execute)
    app.command("cp")(copy)


# --- a deploy --------------------------------------------------------------------------------------------------------


def check_directory(directory: Path, command: str | None) -> None:
    """Before all of it is read: does it look like an app at all? Raises InvalidRequest."""
    files = ("requirements.txt", "pyproject.toml", "package.json")
    if command is None and not any((directory / name).is_file() for name in files) and not any(directory.glob("*.py")):
        raise InvalidRequest(
            f"{directory} holds no bastide.yaml, and no {', '.join(files)} or *.py that would tell how to run it as an app; "
            "add one, or say --command"
        )


def text_of_directory(directory: Path, options: dict[str, Any]) -> str:
    """A spec for one app out of a directory and the command line's options."""
    return _text("app", ".", {**options, "name": options["name"] or _name_of(directory)})


def _text(kind: str, what: str, options: dict[str, Any]) -> str:
    name = options.pop("name")
    if not is_name(name):
        raise InvalidRequest(f"{name!r} can't be the app's name ({NAME_RULE}); say another with --name")
    service: dict[str, Any] = {kind: what}
    service |= {key: value for key, value in options.items() if value not in (None, [], {}, False)}
    return json.dumps({"services": {name: service}})  # JSON is YAML


def image_of(path: Path) -> str | None:
    """The image that a deploy's argument names, as a spec file would; None where it names none."""
    if str(path).startswith("docker:/"):
        return "docker://" + str(path).removeprefix("docker:").lstrip("/")  # a path loses one of two slashes
    if (path / "oci-layout").is_file() or (path.is_file() and path.suffix == ".tar"):
        return str(path)
    return None


def text_of_image(image: str, path: Path, options: dict[str, Any]) -> str:
    """A spec for one app out of an image and the command line's options."""
    name = options["name"] or _name_of(
        path.with_suffix("") if path.suffix == ".tar" else Path(path.name.partition(":")[0])
    )
    return _text("image", image, {**options, "name": name})


def _name_of(directory: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")[:63] or "app"


def uploaded(client: Client, text: str, base: Path, quiet: bool) -> str:
    """The spec's text with every app's directory, or image's file, replaced by its digest; what the server lacks is sent."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text  # the server says what is wrong, with its line
    images = [node for node in _named(tree, "image") if not str(node.value).startswith("docker:")]
    places = [node for node in (*_named(tree, "app"), *images) if not str(node.value).startswith("sha256:")]
    packs: dict[str, Packed] = {}
    for node in sorted(places, key=lambda node: -node.start_mark.index):
        directory = str(node.value)
        if directory not in packs:
            path = (base / directory).resolve()
            if node in images and not path.exists():
                raise InvalidRequest(f"there is no image {directory}")
            packed = packs[directory] = pack_file(path) if path.is_file() and node in images else pack(path)
            sent = client.upload(packed)
            if not quiet:
                size, count = format_bytes(packed.source_bytes), len(packed.entries)
                err.print(f"{directory}: {count} files, {size}" + (", uploaded" if sent else ", already there"))
        source = json.dumps({"source": packs[directory].digest})
        text = text[: node.start_mark.index] + source + text[node.end_mark.index :]
    return text


def _named(tree: Any, key: str) -> list[Any]:
    """The nodes that name an app's directory, or its image."""
    found = []
    for service in _values(_value(tree, "services")):
        given = _value(service, key)
        if isinstance(given, yaml.ScalarNode) and given.value.strip():
            found.append(given)
    return found


def _value(node: Any, key: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return value
    return None


def _values(node: Any) -> list[Any]:
    return [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else []


def pairs(given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options. NAME alone: from this environment."""
    found = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            if name not in os.environ:
                raise InvalidRequest(f"--env {name}: there is no {name} in this environment; write --env {name}=VALUE")
            value = os.environ[name]
        found[name] = value
    return found


# --- reaching it -----------------------------------------------------------------------------------------------------


def address_of(client: Client, service: dict[str, Any]) -> str | None:
    app = service.get("app")
    return f"{client.url}{app['path']}" if app and app["path"] else None


def _app(client: Client, name: str) -> dict[str, Any]:
    service = client.service(name)
    if service.get("app") is None:
        raise Conflict(f"{name} is no app")
    return service


def _reached(client: Client, name: str) -> tuple[dict[str, Any], str]:
    """(the app, its address). Raises Conflict for a job: it has none."""
    service = _app(client, name)
    address = address_of(client, service)
    if address is None:
        raise Conflict(f"{name} is a job: nobody can ask it anything; `bastide jobs {name}` shows its runs")
    return service, address


def url(context: typer.Context, app: AppName, json: JsonOption = False) -> None:
    """Where an app is reached."""
    client = client_of(context)
    service, address = _reached(client, app)
    told({"url": address, "hosts": service["app"]["hosts"], "public": service["app"]["public"]}, address, json)


def open_app(context: typer.Context, app: AppName) -> None:
    """Open an app in the browser."""
    client = client_of(context)
    _, address = _reached(client, app)
    out.print(address)
    typer.launch(address)


def rollback(
    context: typer.Context,
    service: AppName,
    wait: Annotated[bool, typer.Option(help="Wait until it serves, or has failed.")] = True,
    json: JsonOption = False,
) -> None:
    """Go back to what served before, and wait until it serves. Exits with 1 where it does not; what served serves on."""
    client = client_of(context)
    answer = client.rollback(service)
    if wait and show_failed(follow(client.progress([f"{service}@{answer['generation']}"]), quiet=json)):
        raise typer.Exit(1)
    told(answer, f"{service} {'went' if wait else 'goes'} back, as generation {answer['generation']}", json)


def build(context: typer.Context, app: AppName, json: JsonOption = False) -> None:
    """What the newest build of an app said."""
    answer = client_of(context).build(app)
    if json:
        as_json(answer)
        return
    out.file.write(answer["log"])
    if answer["build_bytes"] is not None:
        out.print(f"{answer['reason']}; {format_bytes(answer['build_bytes'])}")


def jobs(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(help="Of one job, with what it said.", metavar="JOB")] = None,
    json: JsonOption = False,
) -> None:
    """Jobs and their last runs."""
    answer = client_of(context).jobs(job)
    if json:
        as_json(answer)
        return
    shown = table("JOB", ">RUN", "WHY", "BEGAN (UTC)", ">TRIES", "HOW IT ENDED", "DUE (UTC)")
    for found in answer["jobs"]:
        for entry in found["runs"][-1:] if job is None else found["runs"]:
            ended = entry["reason"] if entry["ended"] else "runs"
            shown.add_row(
                found["name"], str(entry["run"]), entry["cause"], entry["began"][:19].replace("T", " "),
                str(entry["attempts"]), ended, (found["due"] or "")[:16].replace("T", " "),
            )  # fmt: skip
        if not found["runs"]:
            shown.add_row(found["name"], "", "", "", "", "has not run", (found["due"] or "")[:16].replace("T", " "))
    out.print(shown)
    if job is not None and answer["jobs"] and answer["jobs"][0]["runs"]:
        out.file.write(answer["jobs"][0]["runs"][-1]["said"])


def run(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="Name of the job.", metavar="JOB")],
    json: JsonOption = False,
) -> None:
    """Run a job now, beside its schedule."""
    answer = client_of(context).run(job)
    told(answer, f"run {answer['run']} of {job} has begun; `bastide jobs {job}` shows it", json)


# --- inside ----------------------------------------------------------------------------------------------------------


def execute(
    context: typer.Context,
    app: AppName,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.", metavar="COMMAND…")],
) -> None:
    """Run a command inside an app, waking it. Ends with the command's status."""
    argv = command[1:] if command[0] == "--" else command
    status = 1
    for line in client_of(context).exec(app, argv):
        if "exit_code" in line:
            status = int(line["exit_code"])
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            if name in line:
                stream.buffer.write(line[name])
                stream.buffer.flush()
    raise typer.Exit(status)


def copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="APP:PATH, or a path here.", metavar="FROM")],
    target: Annotated[str, typer.Argument(help="A path here, or APP:PATH.", metavar="TO")],
) -> None:
    """Copy a file or a tree out of an app, or into it (its volumes, /tmp and home are writable)."""
    client = client_of(context)
    (from_app, from_path), (to_app, to_path) = _place(source), _place(target)
    if (from_app is None) == (to_app is None):
        raise InvalidRequest("one of the two is inside an app: bastide cp APP:PATH PATH, or bastide cp PATH APP:PATH")
    if from_app is not None:
        _copy_out(client, from_app, from_path, Path(to_path))
    elif to_app is not None:
        _copy_in(client, Path(from_path), to_app, to_path)


def _place(text: str) -> tuple[str | None, str]:
    name, colon, path = text.partition(":")
    return (name, path) if colon and is_name(name) else (None, text)


def _copy_out(client: Client, app: str, path: str, target: Path) -> None:
    with tempfile.TemporaryFile() as file:
        client.download(app, path, file)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            first = tar.next()
            if first is None:
                raise NotFound(f"{app}:{path} is not there")
            top = first.name.split("/")[0]
            into = target if target.is_dir() else target.parent
            name = top if target.is_dir() else target.name
            for member in (first, *tar):
                member.name = name + member.name[len(top) :]
                tar.extract(member, into, filter="data")
    out.print(f"{into / name}")


def _copy_in(client: Client, source: Path, app: str, path: str) -> None:
    if not source.exists():
        raise InvalidRequest(f"there is no {source}")
    pure = PurePosixPath(path)
    folder, name = (str(pure), source.name) if path.endswith("/") or not pure.name else (str(pure.parent), pure.name)
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(source, arcname=name)
        file.seek(0)
        client.upload_files(app, folder, file)
    out.print(f"{app}:{folder.rstrip('/')}/{name}")
