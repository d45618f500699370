"""projects, keys, secrets."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer
from rich.text import Text

from bastide.cli.context import JsonOption, client_of
from bastide.cli.show import as_json, err, out, table, told
from bastide.domain.errors import InvalidRequest

projects_app = typer.Typer(help="Projects: who owns services, keys and budgets.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys and what they may use.", no_args_is_help=True)
secrets_app = typer.Typer(help="Secrets, encrypted at rest and never shown.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(projects_app, name="projects")
    app.add_typer(keys_app, name="keys")
    app.add_typer(secrets_app, name="secrets")


@projects_app.command("ls")
def list_projects(context: typer.Context, json: JsonOption = False) -> None:
    """Every project."""
    answer = client_of(context).projects()
    if json:
        as_json(answer)
        return
    shown = table("PROJECT", ">SERVICES", ">KEYS")
    for project in answer["projects"]:
        shown.add_row(project["name"], str(project["services"]), str(project["keys"]))
    out.print(shown)


@projects_app.command("create")
def create_project(context: typer.Context, name: str, json: JsonOption = False) -> None:
    """Make a project."""
    answer = client_of(context).create_project(name)
    told(answer, f"project {answer['name']} is there", json)


@projects_app.command("rm")
def remove_project(context: typer.Context, name: str, json: JsonOption = False) -> None:
    """Remove a project that has no services left."""
    told(client_of(context).remove_project(name), f"project {name} is gone, with its keys and secrets", json)


@keys_app.command("ls")
def list_keys(context: typer.Context, json: JsonOption = False) -> None:
    """Keys of the project, never the keys themselves."""
    answer = client_of(context).keys()
    if json:
        as_json(answer)
        return
    shown = table("ID", "NAME", "STATE", "MAY", "MODELS", "LIMITS", "EXPIRES")
    for key in answer["keys"]:
        may = "everything" if key["admin"] else "deploy" if key["can_deploy"] else "use models"
        if key["can_use_sandboxes"] and not key["can_deploy"] and not key["admin"]:
            may += " and sandboxes"
        limits = [
            f"{key[field]} {unit}"
            for field, unit in (
                ("requests_per_minute", "requests/min"),
                ("tokens_per_minute", "tokens/min"),
                ("in_flight_max", "in flight"),
            )
            if key[field] is not None
        ]
        if key["budget"] is not None:
            limits.append(f"{key['budget']['amount']:g} a {key['budget']['window']}")
        models = ", ".join(key["models"]) or "all"
        shown.add_row(
            key["id"],
            key["name"],
            key["state"],
            may,
            models,
            ", ".join(limits) or "none",
            (key["expires"] or "never")[:10],
        )
    out.print(shown)


@keys_app.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="A model it may use (repeat; default: all).")] = None,
    expires: Annotated[str | None, typer.Option(help="After this time, such as 30d.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests it may begin in a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Tokens, input and output, in a minute.")] = None,
    in_flight: Annotated[int | None, typer.Option(min=1, help="Requests at once.")] = None,
    budget: Annotated[str | None, typer.Option(help="Money per window, such as 5.00; it can't be overrun.")] = None,
    per: Annotated[str, typer.Option(help="The budget's window: day or month.")] = "month",
    can_deploy: Annotated[bool, typer.Option("--can-deploy", help="May declare services in its project.")] = False,
    can_use_sandboxes: Annotated[
        bool, typer.Option("--can-use-sandboxes", help="May make and use sandboxes in its project.")
    ] = False,
    admin: Annotated[bool, typer.Option("--admin", help="May do everything.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a key. It is shown once."""
    if per not in ("day", "month"):
        raise InvalidRequest("--per must be day or month")
    answer = client_of(context).create_key(
        name=name,
        models=model,
        expires_in=expires,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        in_flight_max=in_flight,
        budget=budget,
        budget_window=per,
        can_deploy=can_deploy,
        can_use_sandboxes=can_use_sandboxes,
        admin=admin,
    )
    if json:
        as_json(answer)
        return
    out.print(answer["key"])
    err.print(Text(f"{answer['id']}: keep it now, it is not shown again", "bright_black"))


@keys_app.command("revoke")
def revoke_key(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The key's id, as in `keys ls`.")],
    json: JsonOption = False,
) -> None:
    """End a key at once."""
    told(client_of(context).revoke_key(key_id), f"{key_id} is revoked", json)


@secrets_app.command("ls")
def list_secrets(context: typer.Context, json: JsonOption = False) -> None:
    """Names of the project's secrets."""
    answer = client_of(context).secrets()
    if json:
        as_json(answer)
        return
    shown = table("SECRET", "SET")
    for secret in answer["secrets"]:
        shown.add_row(secret["name"], secret["set"])
    out.print(shown)


@secrets_app.command("set")
def set_secret(context: typer.Context, name: str, json: JsonOption = False) -> None:
    """Set a secret; its value is asked for, or read from standard input."""
    value = getpass.getpass("value: ") if sys.stdin.isatty() else sys.stdin.read().rstrip("\n")
    if not value:
        raise InvalidRequest("an empty secret is no secret")
    told(client_of(context).set_secret(name, value), f"secret {name} is set", json)


@secrets_app.command("rm")
def remove_secret(context: typer.Context, name: str, json: JsonOption = False) -> None:
    """Forget a secret."""
    told(client_of(context).remove_secret(name), f"secret {name} is gone", json)
