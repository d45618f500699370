"""The `bastide` command and its subcommands that are clients. Those that run things are added by wiring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bastide import __version__
from bastide.cli import apps, chat, keys, sandboxes, services, weights
from bastide.cli.context import Context

app = typer.Typer(
    name="bastide",
    help="The whole AI cloud on machines you own: models that scale to zero and wake in milliseconds.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Data directory of the Bastide on this machine (BASTIDE_DATA, ~/.bastide).")
    ] = None,
    project: Annotated[str | None, typer.Option(envvar="BASTIDE_PROJECT", help="Project to act in.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = Context(data, project)


services.register(app)
apps.register(app)
chat.register(app)
keys.register(app)
weights.register(app)
sandboxes.register(app)
