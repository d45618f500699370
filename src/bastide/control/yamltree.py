"""YAML as a tree that remembers its lines. Owns reading; knows nothing of services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from bastide.domain.errors import Problem

DEPTH_MAX = 32
BYTES_MAX = 4 * 2**20
# Counted as they are visited, so that a few aliases can't stand for billions.
VALUES_MAX = 1_000_000


class _TooMany(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar: its Python value and its 1-based line."""

    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class Branch:
    """A mapping: entries by key, the line of each key, and its own line."""

    entries: dict[str, Tree]
    lines: dict[str, int]
    line: int


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence."""

    items: tuple[Tree, ...]
    line: int


Tree = Leaf | Branch | Row


class _Loader(yaml.SafeLoader):
    """Safe, and without YAML 1.1's surprise that `on`, `off`, `yes` and `no` are booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", __import__("re").compile(r"^(?:true|false|True|False)$"), list("tfTF")
)


def read(text: str, problems: list[Problem]) -> Tree | None:
    """The tree of one YAML document; None where it can't be read, with why in `problems`."""
    if len(text) > BYTES_MAX:
        problems.append(Problem(0, "", f"the file is over {BYTES_MAX // 2**20} MiB"))
        return None
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return _Walk(loader, problems).tree(node, 0) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        problems.append(Problem(mark.line + 1 if mark else 0, "", f"not YAML: {what}"))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.append(Problem(line, "", f"not YAML: the character {error.character:#x} may not be in it"))
    except _TooMany:
        problems.append(Problem(0, "", f"the file stands for too many values (over {VALUES_MAX:,}, aliases counted)"))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problems.append(Problem(0, "", f"not YAML: {str(error)[:200] or type(error).__name__}"))
    return None


class _Walk:
    def __init__(self, loader: _Loader, problems: list[Problem]) -> None:
        self._loader, self._problems, self._left = loader, problems, VALUES_MAX

    def tree(self, node: yaml.Node, depth: int) -> Tree | None:
        self._left -= 1
        if self._left < 0:
            raise _TooMany
        line = node.start_mark.line + 1
        if depth > DEPTH_MAX:
            self._problems.append(Problem(line, "", f"nested more than {DEPTH_MAX} deep"))
            return None
        if isinstance(node, yaml.MappingNode):
            entries: dict[str, Tree] = {}
            lines: dict[str, int] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    self._problems.append(Problem(key_node.start_mark.line + 1, "", "a key must be a word"))
                    continue
                key = str(key_node.value)
                if key in entries:
                    self._problems.append(
                        Problem(key_node.start_mark.line + 1, key, f"is there twice (first on line {lines[key]})")
                    )
                    continue
                value = self.tree(value_node, depth + 1)
                lines[key] = key_node.start_mark.line + 1
                if value is not None:
                    entries[key] = value
            return Branch(entries, lines, line)
        if isinstance(node, yaml.SequenceNode):
            items = [self.tree(item, depth + 1) for item in node.value]
            return Row(tuple(item for item in items if item is not None), line)
        try:
            return Leaf(self._loader.construct_object(node, deep=True), line)
        except ValueError as error:
            self._problems.append(Problem(line, "", f"not YAML: {node.value!r}: {error}"))
            return None
