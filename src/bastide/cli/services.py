"""deploy, ps, logs, scale, sleep, wake, why, rm, usage, confirm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from bastide.cli import apps
from bastide.cli.context import JsonOption, client_of
from bastide.cli.progress import follow, show_failed
from bastide.cli.show import ago, as_json, err, out, phase, table
from bastide.domain.errors import InvalidRequest, InvalidSpec
from bastide.domain.units import format_bytes, format_count, format_duration, format_money

SPEC_NAMES = ("bastide.yaml", "bastide.yml")
FOLLOW_S = 0.5
RUNGS_TO_SLEEP_ON = ("frozen", "light", "deep")
ServiceName = Annotated[str, typer.Argument(help="Name of the service.", metavar="SERVICE")]


def register(app: typer.Typer) -> None:
    for command in (deploy, ps, logs, scale, sleep, wake, why, usage, confirm):
        app.command()(command)
    app.command("rm")(remove)


def deploy(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            help="A spec file, a directory with a bastide.yaml, an app's directory, or an OCI image (.tar, layout, docker://…).",
            metavar="FILE|DIR|IMAGE",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of an app's directory or image: the app's name (default: the directory's).")
    ] = None,
    command: Annotated[str | None, typer.Option(help="What to run (default: found out).")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, or NAME from this environment (repeat).")] = None,
    secret: Annotated[list[str] | None, typer.Option(help="A secret it is given (repeat).")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where it listens (default: 8080, told as PORT).")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Who asks needs no key.")] = False,
    replicas: Annotated[str | None, typer.Option(help="N, or LEAST..MOST (default: 0..1).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until every service is ready or has failed.")] = True,
    json: JsonOption = False,
) -> None:
    """Declare services, or deploy an app's directory, and wait until they are ready.

    Exits with 1 where one failed, or was removed or replaced meanwhile; the reason is shown. What served before serves on.
    """
    client = client_of(context)
    began = time.monotonic()
    own = {
        "name": name, "command": command, "env": apps.pairs(env), "secrets": secret, "port": port, "public": public,
        "replicas": replicas,
    }  # fmt: skip
    image = apps.image_of(path)
    file = _spec_file(path) if image is None else None
    if image is not None:
        text, base = apps.text_of_image(image, path, own), Path(".")
    elif file is None:
        apps.check_directory(path, command)
        text, base = apps.text_of_directory(path, own), path
    elif any(own.values()):
        raise InvalidRequest(
            f"{file} says how its services are run; options such as --name are for a directory without one"
        )
    else:
        base = file.parent
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{file} can't be read: {error}") from None
    text = apps.uploaded(client, text, base, quiet=json)
    try:
        answer = client.deploy(text, dry_run=dry_run)
    except InvalidSpec as error:
        error.file = str(file or path)  # type: ignore[attr-defined]
        raise
    changed = [s for s in answer["services"] if s["change"] != "unchanged"]
    if dry_run:
        _show_changes(answer, json)
        return
    made = [f"{service['name']}@{service['generation']}" for service in answer["services"]]
    ends = follow(client.progress(made), quiet=json) if wait and made else {}
    if json:
        as_json({**answer, "ends": list(ends.values())})
    elif not changed:
        out.print("nothing changed")
    failed = show_failed(ends)
    if not json and not failed and wait:
        took = format_duration(time.monotonic() - began)
        where = {s["name"]: apps.address_of(client, s) for s in client.services()["services"] if s["name"] in ends}
        reached = [address for address in where.values() if address]
        if len(reached) < len(ends):
            reached.append(f"models at {client.url}/v1")
        out.print(f"{format_count(len(ends), 'service')} ready in {took}; {', '.join(reached)}")
    if failed:
        raise typer.Exit(1)


def _spec_file(path: Path) -> Path | None:
    """None: it is a directory without one, to be deployed as an app."""
    if path.is_dir():
        return next((path / name for name in SPEC_NAMES if (path / name).is_file()), None)
    if not path.exists():
        raise InvalidRequest(f"there is no file {path}")
    if not path.is_file():
        raise InvalidRequest(f"{path} is neither a file nor a directory")
    return path


def _show_changes(answer: dict[str, Any], json: bool) -> None:
    if json:
        as_json(answer)
        return
    for service in answer["services"]:
        out.print(Text.assemble((service["name"], "bold"), f" would be {service['change']}"))
        for field in service["fields"]:
            out.print(f"  {field['field']}: {field['from']} -> {field['to']}")


def ps(
    context: typer.Context,
    all_projects: Annotated[bool, typer.Option("--all", "-a", help="Of every project.")] = False,
    json: JsonOption = False,
) -> None:
    """Services and instances: phase, memory, and why."""
    client = client_of(context)
    answer = client.services(all_projects=all_projects)
    if json:
        as_json(answer)
        return
    shown = table("SERVICE", "PHASE", "FOR", ">PID", ">MEMORY", ">IN FLIGHT", "WHY")
    for service in answer["services"]:
        name = f"{service['project']}/{service['name']}" if all_projects else service["name"]
        shown.add_row(Text(name, "bold"), phase(service["phase"]), ago(service["since"]), "", "", "", service["reason"])
        if (address := apps.address_of(client, service)) is not None:
            shown.add_row(
                "", "", "", "", "", "", Text(address + (" (public)" if service["app"]["public"] else ""), "cyan")
            )
        for instance in service["instances"]:
            shown.add_row(
                Text(f"  {instance['id'].rpartition('.')[2]}", "bright_black"),
                phase(instance["phase"]),
                ago(instance["since"]),
                str(instance["pid"] or ""),
                format_bytes(instance["memory_bytes"]) if instance["memory_bytes"] else "",
                str(instance["in_flight"] or ""),
                Text(instance["reason"], "bright_black"),
            )
    if answer["services"]:
        out.print(shown)
    else:
        out.print("no services yet; `bastide deploy FILE` declares some")
    node = answer["node"]
    held, budget = format_bytes(node["memory_held_bytes"]), format_bytes(node["memory_budget_bytes"])
    out.print(
        Text(
            f"node {node['name']}: {held} of {budget} held" + ("" if node["here"] else " (its agent is away)"),
            "bright_black",
        )
    )
    for reason in answer["refused"]:
        err.print(Text.assemble(("refused: ", "bold red"), reason))


def logs(
    context: typer.Context,
    service: ServiceName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
) -> None:
    """What a service's instances wrote and went through."""
    client = client_of(context)
    after = ""
    while True:
        answer = client.logs(service, after)
        for part in answer["parts"]:
            prefix = part["id"].rpartition(".")[2]
            for line in part["text"].splitlines():
                out.print(Text.assemble((f"{prefix} ", "bright_black"), line))
        after = answer["next"]
        if not follow:
            return
        time.sleep(FOLLOW_S)


def scale(
    context: typer.Context,
    service: ServiceName,
    replicas: Annotated[str, typer.Argument(help="N, or LEAST..MOST, such as 0..4.")],
    json: JsonOption = False,
) -> None:
    """Change how many instances a service has."""
    answer = client_of(context).scale(service, replicas)
    if json:
        as_json(answer)
    else:
        out.print(f"{service}: {answer['replicas']} replicas (generation {answer['generation']})")


def sleep(
    context: typer.Context,
    service: ServiceName,
    rung: Annotated[str | None, typer.Option(help="frozen, light or deep (default: deep).")] = None,
    json: JsonOption = False,
) -> None:
    """Put a service to sleep now. A busy instance is never put to sleep."""
    if rung not in (None, *RUNGS_TO_SLEEP_ON):
        raise InvalidRequest(f"--rung {rung!r} must be {', '.join(RUNGS_TO_SLEEP_ON[:-1])} or {RUNGS_TO_SLEEP_ON[-1]}")
    answer = client_of(context).sleep(service, rung)
    if json:
        as_json(answer)
        return
    for instance in answer["instances"]:
        gave = format_bytes(instance["gave_back_bytes"])
        out.print(
            f"{instance['id']}: {instance['rung']}, gave back {gave}, holds {format_bytes(instance['held_bytes'])}"
        )


def wake(context: typer.Context, service: ServiceName, json: JsonOption = False) -> None:
    """Wake a service now."""
    answer = client_of(context).wake(service)
    if json:
        as_json(answer)
    elif answer["woke_from"] == "awake":
        out.print(f"{answer['id']} was awake")
    else:
        out.print(f"{answer['id']}: awake from {answer['woke_from']} in {format_duration(answer['wake_s'])}")


def why(
    context: typer.Context,
    service: ServiceName,
    limit: Annotated[int, typer.Option("--last", help="How many decisions.", min=1, max=500)] = 50,
    json: JsonOption = False,
) -> None:
    """Every decision about a service, with its reason."""
    answer = client_of(context).why(service, limit)
    if json:
        as_json(answer)
        return
    shown = table("AT (UTC)", "BY", "WHAT", "WHY")
    for decision in answer["decisions"]:
        shown.add_row(
            Text(decision["at"][:-1].replace("T", " "), "bright_black"),
            decision["actor"],
            Text(decision["what"], "bold"),
            decision["reason"],
        )
    out.print(shown)
    out.print(Text.assemble("now: ", phase(answer["phase"]), f", {answer['reason']}"))


def remove(context: typer.Context, service: ServiceName, json: JsonOption = False) -> None:
    """Drain a service, end it and forget it. Its usage stays in the ledger."""
    answer = client_of(context).remove(service)
    if json:
        as_json(answer)
    else:
        out.print(f"{service} is being removed")


def usage(
    context: typer.Context,
    service: Annotated[str | None, typer.Option(help="Of one service.")] = None,
    key: Annotated[str | None, typer.Option(help="Of one key, by its id.")] = None,
    last: Annotated[str | None, typer.Option(help="Of the last while, such as 24h or 30d.")] = None,
    json: JsonOption = False,
) -> None:
    """The ledger: requests, tokens, money and instance-seconds."""
    answer = client_of(context).usage(service=service, key=key, last=last)
    if json:
        as_json(answer)
        return
    shown = table("DAY", "PROJECT", "SERVICE", "KEY", ">REQUESTS", ">INPUT", ">CACHED", ">OUTPUT", ">COST")
    for row in answer["rows"]:
        style = "" if row["account"] == "user" else "bright_black"
        shown.add_row(row["day"], row["project"], row["service"], row["key"], *_counts(row), style=style)
    total = answer["total"]
    shown.add_section()
    shown.add_row("", "", "users", "", *_counts(total), style="bold")
    shown.add_row("", "", "system", "", *_counts(answer["system"]), style="bright_black")
    if (engines := answer.get("engines")) is not None:
        counted = [str(engines[name]) for name in ("input_tokens", "cached_input_tokens", "output_tokens")]
        shown.add_row("", "", "engines' own count", "", "", *counted, "", style="bright_black")
    out.print(shown)
    if answer["instance_time"]:
        times = table("DAY", "SERVICE", "PHASE", ">INSTANCE-SECONDS")
        for row in answer["instance_time"]:
            times.add_row(
                row["day"], f"{row['project']}/{row['service']}", row["phase"], f"{row['instance_seconds']:.1f}"
            )
        out.print(times)


def _counts(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["requests"]),
        str(row["input_tokens"]),
        str(row["cached_input_tokens"]),
        str(row["output_tokens"]),
        format_money(row["cost_pico"]),
    )


def confirm(context: typer.Context, json: JsonOption = False) -> None:
    """Say yes to a plan that would end many instances."""
    answer = client_of(context).confirm()
    if json:
        as_json(answer)
        return
    for reason in answer["confirmed"] or ["nothing was refused"]:
        out.print(reason)
