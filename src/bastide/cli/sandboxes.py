"""bastide sandbox: isolated computers from the command line."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bastide.cli.context import JsonOption, client_of
from bastide.cli.show import as_json, out, table, told
from bastide.domain.errors import InvalidRequest, NotFound
from bastide.domain.units import format_bytes, format_duration
from bastide.sdk import Sandbox, Snapshot

sandbox_app = typer.Typer(
    help="Sandboxes: isolated computers to run code in that nobody has read.", no_args_is_help=True
)
Identity = Annotated[str, typer.Argument(help="The sandbox's id, as `create` prints it.", metavar="SANDBOX")]


def register(app: typer.Typer) -> None:
    app.add_typer(sandbox_app, name="sandbox")


def _one(context: typer.Context, identity: str) -> Sandbox:
    return Sandbox.connect(identity, client_of(context))


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    for pair in given or ():
        if "=" not in pair:
            raise InvalidRequest(f"{option} {pair!r} must be NAME=VALUE")
    return dict(pair.partition("=")[::2] for pair in given or ())


@sandbox_app.command("create")
def create(
    context: typer.Context,
    template: Annotated[str, typer.Option(help="base, python, node, your own, or snapshot:ID.")] = "python",
    timeout: Annotated[float, typer.Option(help="Seconds until it ends by itself.")] = 300.0,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable.")] = None,
    egress: Annotated[
        list[str] | None, typer.Option(help="A name, CIDR or set that may be reached, repeatable.")
    ] = None,
    egress_tier: Annotated[
        str | None, typer.Option(help="proxy (default), or packet: for any TCP client, needs root.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="What it may hold, such as 512MiB.")] = None,
    cpu: Annotated[float | None, typer.Option(help="Cores.")] = None,
    processes: Annotated[int | None, typer.Option(help="How many there may be at once, threads counted.")] = None,
    disk: Annotated[str | None, typer.Option(help="Size of its home, such as 1GiB; held in memory.")] = None,
    tier: Annotated[str | None, typer.Option(help="gvisor (default) or namespace; never lowered unasked.")] = None,
    json: JsonOption = False,
) -> None:
    """Make one; prints its id."""
    made = Sandbox.create(
        template, timeout=timeout, env=_pairs(env, "--env"), metadata=_pairs(metadata, "--metadata"), egress=egress, egress_tier=egress_tier,
        memory=memory, cpu=cpu, processes=processes, disk=disk, tier=tier, client=client_of(context),
    )  # fmt: skip
    if json:
        as_json(made.about)
    else:
        out.print(made.id)


@sandbox_app.command("ls")
def list_sandboxes(
    context: typer.Context,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE that it must have, repeatable.")] = None,
    json: JsonOption = False,
) -> None:
    """Those that live."""
    found = Sandbox.list(_pairs(metadata, "--metadata"), client_of(context))
    if json:
        as_json({"sandboxes": [one.about for one in found]})
        return
    shown = table("SANDBOX", "STATE", "TEMPLATE", "TIER", ">ENDS IN", "MEMORY", "METADATA")
    for one in found:
        memory = one.about["limits"]["memory_bytes"]
        shown.add_row(
            one.id, one.about["state"], one.about["template"], one.about["tier"], format_duration(one.seconds_left),
            memory if isinstance(memory, str) else format_bytes(memory),
            " ".join(f"{name}={value}" for name, value in one.about["metadata"].items()),
        )  # fmt: skip
    out.print(shown)


@sandbox_app.command(
    "exec",
    context_settings={"allow_extra_args": False, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def execute(
    context: typer.Context,
    sandbox: Identity,
    command: Annotated[list[str], typer.Argument(help="After --: the program and its arguments.", metavar="COMMAND")],
    cwd: Annotated[str | None, typer.Option(help="Directory to run in.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds; then it is killed.")] = None,
) -> None:
    """Run a command in it; ends with its exit status. One word with spaces goes to the shell."""
    if command and command[0] == "--":
        command = command[1:]
    if not command:
        raise InvalidRequest("what shall it run? bastide sandbox exec SANDBOX -- COMMAND")
    what: str | tuple[str, ...] = command[0] if len(command) == 1 else tuple(command)
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    outputs = {1: sys.stdout.buffer, 2: sys.stderr.buffer}

    def write(number: int, data: bytes) -> None:
        outputs[number].write(data)
        outputs[number].flush()

    result = _one(context, sandbox).exec(what, cwd=cwd, timeout=timeout, stdin=stdin or None, on_bytes=write)
    raise typer.Exit(result.exit_code)


@sandbox_app.command("cp")
def copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="PATH, or SANDBOX:PATH.")],
    target: Annotated[str, typer.Argument(help="PATH, or SANDBOX:PATH.")],
) -> None:
    """Copy a file or a tree in or out: one of the two is SANDBOX:PATH."""
    inward = target.startswith("sb-") and ":" in target
    outward = source.startswith("sb-") and ":" in source
    if inward == outward:
        raise InvalidRequest("one of the two, and one only, must be SANDBOX:PATH")
    if inward:
        identity, _, path = target.partition(":")
        if not Path(source).exists():
            raise InvalidRequest(f"there is no {source}")
        _one(context, identity).files.upload(source, path or "~")
    else:
        identity, _, path = source.partition(":")
        _one(context, identity).files.download(path, target)


@sandbox_app.command("url")
def url(
    context: typer.Context,
    sandbox: Identity,
    port: int,
    expires_in: Annotated[float, typer.Option(help="Seconds that it works.")] = 3600.0,
    own_origin: Annotated[
        bool, typer.Option("--own-origin", help="A host name of its own, for pages in a browser.")
    ] = False,
) -> None:
    """A signed address that leads to a port inside."""
    out.print(_one(context, sandbox).url(port, expires_in, own_origin=own_origin))


@sandbox_app.command("egress")
def egress(
    context: typer.Context,
    sandbox: Identity,
    allow: Annotated[
        list[str] | None,
        typer.Argument(help="Names, CIDRs or sets that it may reach from now on; none given: what it may reach now."),
    ] = None,
    nothing: Annotated[bool, typer.Option("--nothing", help="Nothing may leave from now on.")] = False,
) -> None:
    """What it may reach, or change that, at once."""
    one = _one(context, sandbox)
    if nothing and allow:
        raise InvalidRequest("either names or --nothing, not both")
    if allow or nothing:
        one.set_egress(allow or [])
    now = one.about["egress"]
    out.print(f"{one.id} may reach {', '.join(now) if now else 'nothing'}")


@sandbox_app.command("timeout")
def set_timeout(context: typer.Context, sandbox: Identity, seconds: float) -> None:
    """Let it end that many seconds from now."""
    _one(context, sandbox).set_timeout(seconds)


@sandbox_app.command("metrics")
def metrics(context: typer.Context, sandbox: Identity, json: JsonOption = False) -> None:
    """What it uses now. Looking does not wake it."""
    found = _one(context, sandbox).metrics()
    if json:
        as_json(found)
        return
    memory, processes = format_bytes(int(found["memory_bytes"])), int(found["processes"])
    out.print(f"{found['state']}: {memory}, {processes} processes, {found.get('cpu_s', 0.0):.1f} s of processor time")


@sandbox_app.command("pause")
def pause(context: typer.Context, sandbox: Identity) -> None:
    """Save it with its processes and end them; any use brings it back."""
    _one(context, sandbox).pause()


@sandbox_app.command("resume")
def resume(context: typer.Context, sandbox: Identity) -> None:
    """Bring a paused one back now."""
    _one(context, sandbox).resume()


@sandbox_app.command("snapshot")
def snapshot(context: typer.Context, sandbox: Identity, name: str = "", json: JsonOption = False) -> None:
    """Save it while it runs on; `create --template snapshot:ID` makes others from it."""
    made = _one(context, sandbox).snapshot(name)
    told({"id": made.id, "size_bytes": made.size_bytes, "sha256": made.sha256}, made.template, json)


@sandbox_app.command("snapshots")
def snapshots(
    context: typer.Context,
    remove: Annotated[list[str] | None, typer.Option("--rm", help="Forget this one (repeat).", metavar="ID")] = None,
    json: JsonOption = False,
) -> None:
    """What was saved with `snapshot`, oldest first; --rm forgets some."""
    client = client_of(context)
    found = {one.id: one for one in Snapshot.list(client)}
    for identity in (word.removeprefix("snapshot:") for word in remove or ()):
        if identity not in found:
            raise NotFound(f"there is no snapshot {identity!r}; `bastide sandbox snapshots` lists them")
        found.pop(identity).remove(client)
    if json:
        as_json({"snapshots": [asdict(one) for one in found.values()]})
        return
    shown = table("SNAPSHOT", "NAME", ">SIZE", ">AGE")
    for one in found.values():
        shown.add_row(
            one.template,
            one.name,
            format_bytes(one.size_bytes),
            format_duration(max(1, round(time.time() - one.created_s))),
        )
    out.print(shown)


@sandbox_app.command("fork")
def fork(context: typer.Context, sandbox: Identity, count: int = 1) -> None:
    """Make that many more of it, as it is now; prints their ids."""
    for one in _one(context, sandbox).fork(count):
        out.print(one.id)


@sandbox_app.command("templates")
def templates(context: typer.Context, json: JsonOption = False) -> None:
    """What sandboxes can be made from, and which tiers hold on this machine."""
    found = client_of(context).transport.ask("GET", "/api/v1/templates")
    if json:
        as_json(found)
        return
    shown = table("TEMPLATE", "WHAT IT IS")
    for one in found["templates"]:
        shown.add_row(one["name"], one["meaning"])
    out.print(shown)
    shown = table("TIER", "HOLDS", "WHY", "VERSION")
    for one in found["tiers"]:
        shown.add_row(one["tier"], "yes" if one["holds"] else "no", one["detail"], one["version"])
    out.print(shown)


@sandbox_app.command("rm")
def remove(context: typer.Context, sandboxes: Annotated[list[str], typer.Argument(metavar="SANDBOX...")]) -> None:
    """End them now, with everything in them."""
    for identity in sandboxes:
        _one(context, identity).kill()
