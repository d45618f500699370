"""What every subcommand needs: which Bastide, which project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bastide.sdk import Client

JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]


@dataclass(frozen=True, slots=True)
class Context:
    """Options of the command itself."""

    data: Path | None
    project: str | None

    def client(self) -> Client:
        """Raises Unavailable where no Bastide is found."""
        return Client.discover(self.data, self.project)


def client_of(context: typer.Context) -> Client:
    assert isinstance(context.obj, Context)
    return context.obj.client()
