"""Printing: tables and colours for people, JSON for programs, errors with what to do. Owns exit statuses.

0 done · 1 it failed · 2 wrong usage or invalid input · 3 not found · 4 not allowed · 5 Bastide can't be reached or can't now
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bastide.domain.errors import (
    BastideError,
    EngineError,
    Forbidden,
    InvalidRequest,
    InvalidSpec,
    NotFound,
    PlatformError,
    Unauthenticated,
)
from bastide.domain.units import format_count, format_duration

CHANGED_NOTHING = "nothing was changed"
# Where nobody reads along (a pipe, a file) tables keep their full width.
WIDE = 200


class _Output(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """A table's lines are filled up with blanks; where nobody reads along they would only be in the way."""
        if self.is_terminal or not any(isinstance(one, Table | Group) for one in objects):
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


# Words in square brackets are words: much of what is printed was said by programs that nobody has read.
out = _Output(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, width=None if sys.stderr.isatty() else WIDE)

PHASE_STYLES = {
    "ready": "green", "awake": "green", "asleep": "cyan", "deep": "cyan", "light": "cyan", "frozen": "cyan",
    "off": "bright_black", "failed": "bold red", "deploying": "yellow", "starting": "yellow", "waking": "yellow",
    "sinking": "yellow", "stopping": "yellow", "pending": "yellow", "removing": "yellow",
}  # fmt: skip


def status_of(error: BastideError) -> int:
    """The exit status for an error."""
    if isinstance(error, InvalidRequest | InvalidSpec):
        return 2
    if isinstance(error, NotFound):
        return 3
    if isinstance(error, Unauthenticated | Forbidden):
        return 4
    if isinstance(error, PlatformError) and not isinstance(error, EngineError):
        return 5
    return 1


def show_error(error: BastideError, file: str | None = None, after: str = CHANGED_NOTHING) -> int:
    """Print it; returns the exit status. `after`: what a file that is wrong came to."""
    if isinstance(error, InvalidSpec):
        for problem in error.problems:
            where = f"{file or 'spec'}:{problem.line}" if problem.line else (file or "spec")
            err.print(
                Text.assemble(
                    (where, "bold"), " ", (problem.where, "yellow"), " " if problem.where else "", problem.message
                )
            )
        count = len(error.problems)
        err.print(Text(f"{format_count(count, 'problem')}; {after}", "red"))
    else:
        err.print(Text.assemble(("error: ", "bold red"), error.message))
    return status_of(error)


def as_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def told(answer: Any, text: str, json_wanted: bool) -> None:
    """The answer for programs, or one line of text for people."""
    if json_wanted:
        as_json(answer)
    else:
        out.print(text)


def table(*columns: str) -> Table:
    """A plain table; columns that begin with '>' are numbers and stand right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return made


def phase(text: str) -> Text:
    return Text(text, PHASE_STYLES.get(text, ""))


def ago(moment: str | None) -> str:
    """How long ago an ISO moment was, in whole seconds (nobody reads finer ones in a table)."""
    if not moment:
        return "-"
    at = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return format_duration(max(1, round(time.time() - at.timestamp())))
