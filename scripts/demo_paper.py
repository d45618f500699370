"""What the demo prints with: chapters, figures, small tables. Owns the look; knows nothing of Bastide.

Must never write a control code where nobody looks at a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDTH_MAX = 100
INDENT = 3


class Paper:
    """Prints in order, once: calm, no redrawing."""

    def __init__(self) -> None:
        on_terminal = sys.stdout.isatty()
        wide = Console().width if on_terminal else WIDTH_MAX
        self.console = Console(
            width=min(WIDTH_MAX, wide),
            highlight=False,
            force_terminal=on_terminal,
            color_system="auto" if on_terminal else None,
        )
        self._chapters = 0

    def title(self, text: str, below: str) -> None:
        self.console.print()
        self.console.print(Text(text, "bold"))
        self.console.print(Text(below, "bright_black"))

    def chapter(self, text: str) -> None:
        """The next chapter begins."""
        self._chapters += 1
        self.console.print()
        self.console.print(Text.assemble((f"{self._chapters}  ", "bold cyan"), (text, "bold")))

    def say(self, text: str, style: str = "") -> None:
        self._put(Text(text, style))

    def quiet(self, text: str) -> None:
        self._put(Text(text, "bright_black"))

    def figure(self, value: str, what: str, more: str = "") -> None:
        """One measured value, and what it is."""
        line = Text.assemble((f"{value:>11}", "bold green"), "  ", what)
        if more:
            line.append(f"  ({more})", "bright_black")
        self._put(line, hang=13)

    def quote(self, pieces: Iterable[str]) -> None:
        """Text that comes piece by piece, printed as it comes and wrapped at words."""
        room = self.console.width - INDENT - 4
        indent = " " * (INDENT + 2)
        self._write(indent)
        column, word = 0, ""
        for piece in pieces:
            for character in piece:
                if character in " \n":
                    column = self._word(word, column, room, indent)
                    word = ""
                else:
                    word += character
        self._word(word, column, room, indent)
        self._write("\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], last_style: str = "bold") -> None:
        """Columns that begin with '>' stand right. The last row is set apart by its style."""
        made = Table(box=None, header_style="bright_black", pad_edge=False, padding=(0, 3, 0, 0))
        for column in columns:
            made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
        all_rows = list(rows)
        for number, row in enumerate(all_rows, 1):
            made.add_row(*row, style=last_style if number == len(all_rows) else "")
        self.console.print(Padding(made, (0, 0, 0, INDENT + 2), expand=False))

    def good(self, text: str) -> None:
        self._put(Text.assemble(("ok  ", "bold green"), text), hang=4)

    def bad(self, text: str) -> None:
        self._put(Text.assemble(("no  ", "bold red"), text), hang=4)

    def line(self) -> None:
        self.console.print()
        self.console.print(Rule(style="bright_black", characters="─" if self.console.is_terminal else "-"))

    def _word(self, word: str, column: int, room: int, indent: str) -> int:
        if not word:
            return column
        if column and column + 1 + len(word) > room:
            self._write("\n" + indent)
            column = 0
        self._write((" " if column else "") + word)
        return column + len(word) + (1 if column else 0)

    def _put(self, text: Text, hang: int = 0) -> None:
        lines = text.wrap(self.console, self.console.width - INDENT - hang)
        for number, line in enumerate(lines):
            self.console.print(" " * (INDENT + (hang if number else 0)), line, sep="", soft_wrap=True)

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()
