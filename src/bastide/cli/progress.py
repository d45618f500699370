"""What a deploy or a rollback says while it is on its way: a board on a terminal, a line for every step elsewhere."""

from __future__ import annotations

import re
from typing import Any

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bastide.cli.show import err, out, phase


def follow(lines: Any, *, quiet: bool) -> dict[str, dict[str, Any]]:
    """Show live progress. Returns the last line of each service."""
    last: dict[str, dict[str, Any]] = {}
    if quiet or not out.is_terminal:
        for line in lines:
            if not quiet and (line["name"] not in last or _gist(last[line["name"]]) != _gist(line)):
                out.print(f"{line['name']}: {line['phase']}, {line['reason']}")
            last[line["name"]] = line
        return last
    with Live(console=out, refresh_per_second=20, transient=False) as live:
        for line in lines:
            last[line["name"]] = line
            live.update(_board(last))
    return last


def _gist(line: dict[str, Any]) -> tuple[str, str]:
    """What a line says but for its figures: in a log, how far something is would be a line for every percent."""
    return line["phase"], re.sub(r"[\d.]+( ?[KMGT]?i?B)?", "", line["reason"])


def show_failed(ends: dict[str, dict[str, Any]]) -> bool:
    """Say which failed and why; returns whether any did."""
    failed = [line for line in ends.values() if line["failed"]]
    for line in failed:
        err.print(Text.assemble((f"{line['name']} failed: ", "bold red"), line["reason"]))
    return bool(failed)


def _board(last: dict[str, dict[str, Any]]) -> Table:
    board = Table.grid(padding=(0, 2, 0, 0))
    for line in last.values():
        mark = (
            Text("x", "bold red") if line["failed"] else Text("ok", "green") if line["done"] else Text("..", "yellow")
        )
        progress = line["progress"] or {}
        bar: Any = ""
        if progress.get("fraction") is not None and not line["done"]:
            bar = ProgressBar(total=1.0, completed=progress["fraction"], width=30)
        board.add_row(
            mark, Text(line["name"], "bold"), phase(line["phase"]), bar, Text(line["reason"], overflow="fold")
        )
    return board
