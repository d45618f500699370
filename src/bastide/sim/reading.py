"""Reading what people write into values, strictly: every problem with its line, and all of them at once.

Owns the walk over a file's tree. What the values mean is for whoever asks (calibrations, scenarios).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from bastide.control.specvalues import Reader
from bastide.control.yamltree import BYTES_MAX, Branch, Leaf, Row, Tree, read
from bastide.domain.errors import InvalidSpec, Problem
from bastide.domain.units import format_duration, parse_bytes, parse_duration_s

Parser = Callable[[Any], Any]
REQUIRED: Any = None


def text_in(path: Path, what: str) -> str:
    """The text of a file. Raises InvalidSpec with why it can't be read; `what` says what to name instead."""
    try:
        # No more than is read at all: a device never ends.
        with path.open(encoding="utf-8") as file:
            return file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        said = f"there is no such file; name {what}"
    except IsADirectoryError:
        said = f"is a directory; name {what}"
    except UnicodeDecodeError:
        said = f"is not text (UTF-8); name {what}"
    except OSError as error:
        said = f"can't be read: {error.strerror or error}; name {what}"
    raise in_file(InvalidSpec((Problem(0, "", said),)), path)


def in_file(error: InvalidSpec, path: Path) -> InvalidSpec:
    """The error, knowing the file that its lines are of."""
    error.file = str(path)  # type: ignore[attr-defined]
    return error


class Reading:
    """Gathers problems; a default stands in for what is wrong, so that the rest is read too. `finish` raises them all."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._reader = Reader(self.problems)

    def root(self, text: str) -> Branch:
        tree = read(text, self.problems)
        if isinstance(tree, Branch):
            return tree
        if not self.problems:
            empty = tree is None or (isinstance(tree, Leaf) and tree.value is None)
            self.wrong(1, "", "the file is empty" if empty else "the file must be a mapping of keys")
        self.finish()
        raise AssertionError("finish raised")

    def wrong(self, line: int, where: str, message: str) -> None:
        self.problems.append(Problem(line, where.removeprefix("."), message))

    def said(self, where: str) -> bool:
        """Whether something is wrong there already: what follows from it need not be said too."""
        below = (f"{where}.", f"{where}[")
        return any(one.where == where or one.where.startswith(below) for one in self.problems)

    def finish(self) -> None:
        """Raises InvalidSpec with all that was wrong, by line."""
        if self.problems:
            raise InvalidSpec(tuple(sorted(self.problems, key=lambda problem: problem.line)))

    def known(self, branch: Branch, where: str, keys: Sequence[str]) -> None:
        self._reader.unknown(branch, tuple(keys), f"{where}." if where else "")

    def value(self, branch: Branch, where: str, key: str, parser: Parser, default: Any) -> Any:
        """One value. A `default` of REQUIRED (None): it must be there, and None stands in where it is not."""
        tree = branch.entries.get(key)
        at = f"{where}.{key}" if where else key
        if tree is None:
            if default is REQUIRED:
                self.wrong(branch.lines.get(key, branch.line), at, "is missing")
            return default
        if not isinstance(tree, Leaf):
            self.wrong(branch.lines[key], at, "must be a single value")
            return default
        return self.parsed(tree.value, tree.line, at, parser, default)

    def optional(self, branch: Branch, where: str, key: str, parser: Parser) -> Any:
        """One value, None where it is not there."""
        return self.value(branch, where, key, parser, None) if key in branch.lines else None

    def parsed(self, value: Any, line: int, where: str, parser: Parser, default: Any) -> Any:
        try:
            return parser(value)
        except ValueError as error:
            self.wrong(line, where, str(error))
            return default

    def group(self, branch: Branch, where: str, key: str) -> Branch:
        """The mapping under a key; an empty one where it is not there."""
        tree = branch.entries.get(key)
        line = branch.lines.get(key, branch.line)
        if tree is None:
            return Branch({}, {}, line)
        if not isinstance(tree, Branch):
            self.wrong(line, f"{where}.{key}", "must be a mapping of keys")
            return Branch({}, {}, line)
        return tree

    def named(self, branch: Branch, where: str, key: str) -> Iterator[tuple[str, Branch]]:
        """The mappings under a key, by name."""
        group = self.group(branch, where, key)
        for name, tree in group.entries.items():
            if isinstance(tree, Branch):
                yield name, Branch(tree.entries, tree.lines, group.lines[name])
            else:
                self.wrong(group.lines[name], f"{where}.{key}.{name}", "must be a mapping of keys")

    def leaves(self, branch: Branch, where: str, key: str) -> Iterator[tuple[str, Any, int]]:
        """The single values under a key, by name and with their lines."""
        group = self.group(branch, where, key)
        for name, tree in group.entries.items():
            if isinstance(tree, Leaf):
                yield name, tree.value, tree.line
            else:
                self.wrong(group.lines[name], f"{where}.{key}.{name}", "must be a single value")

    def rows(self, branch: Branch, where: str, key: str) -> Iterator[tuple[str, Branch]]:
        """The mappings of a list under a key, with the place of each."""
        tree: Tree | None = branch.entries.get(key)
        if tree is None:
            return
        if not isinstance(tree, Row):
            self.wrong(branch.lines[key], f"{where}.{key}", "must be a list")
            return
        for index, item in enumerate(tree.items):
            if isinstance(item, Branch):
                yield f"{where}.{key}[{index}]".removeprefix("."), item
            else:
                self.wrong(item.line, f"{where}.{key}[{index}]", "must be a mapping of keys")

    def words(self, branch: Branch, where: str, key: str) -> tuple[str, ...]:
        """A list of words under a key, or one word."""
        tree = branch.entries.get(key)
        if tree is None:
            return ()
        items = tree.items if isinstance(tree, Row) else (tree,)
        found = []
        for item in items:
            if isinstance(item, Leaf) and isinstance(item.value, str | int | float):
                found.append(str(item.value))
            else:
                self.wrong(branch.lines[key], f"{where}.{key}", "must be a word or a list of words")
        return tuple(found)


def number(least: float, most: float = math.inf) -> Parser:
    """A finite number; `12e9` counts as one, which YAML reads as text."""

    def parse_value(value: Any) -> float:
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found) or not least <= found <= most:
            until = "" if math.isinf(most) else f" to {most:g}"
            raise ValueError(f"must be a number from {least:g}{until}{'' if until else ' up'}, not {value!r}")
        return found

    return parse_value


def whole(least: int, most: int = 10**9) -> Parser:
    def parse_value(value: Any) -> int:
        found = number(least, most)(value)
        if found != int(found):
            raise ValueError(f"must be a whole number, not {value!r}")
        return int(found)

    return parse_value


def bytes_of(value: Any) -> int:
    """`80GB`, `512MiB`, `16e9` or a number of bytes."""
    if isinstance(value, str) and not value.strip()[-1:].isalpha():
        value = number(0.0)(value)
    if isinstance(value, float):
        return int(number(0.0)(value))
    if not isinstance(value, str | int):
        raise ValueError(f"{value!r} is not a size; write for example 80GB or 512MiB")
    return parse_bytes(value)


def duration(value: Any) -> float:
    if not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a time; write for example 60s, 5m or 1h")
    return parse_duration_s(value)


def text_of(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a text, not {value!r}")
    return value


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def time_of(least_s: float, most_s: float = math.inf) -> Parser:
    def parse_value(value: Any) -> float:
        seconds = duration(value)
        if not least_s <= seconds <= most_s:
            until = f" to {format_duration(most_s)}" if math.isfinite(most_s) else " up"
            raise ValueError(f"must be from {format_duration(least_s)}{until}, not {value!r}")
        return seconds

    return parse_value


def among(known: tuple[str, ...], what: str) -> Parser:
    def parse_value(value: Any) -> str:
        if str(value) not in known:
            raise ValueError(f"there is no {what} {value!r}; there are: {', '.join(known[:40])}")
        return str(value)

    return parse_value


def one_of(kinds: type[StrEnum]) -> Parser:
    return among(tuple(kind.value for kind in kinds), "kind")
