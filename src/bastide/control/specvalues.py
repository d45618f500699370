"""Values of the spec file, one by one: each parser says what to write instead. And reading them with their lines."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bastide.control.yamltree import Branch, Leaf
from bastide.domain.errors import Problem
from bastide.domain.identity import NAME_RULE, is_name
from bastide.domain.units import PICO_PER_UNIT, parse_bytes, parse_duration_s, parse_money_pico


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a service, for validation and for the reference. `values` and `default` are as a user writes them."""

    name: str
    values: str
    default: str
    meaning: str


class Reader:
    """Reads trees into values; what is wrong is gathered with its line, and a default stands in."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems

    def wrong(self, line: int, where: str, message: str) -> None:
        self._problems.append(Problem(line, where, message))

    def unknown(self, branch: Branch, known: tuple[str, ...], where: str) -> None:
        for key, line in branch.lines.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.5)
                hint = f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(known)}"
                self.wrong(line, f"{where}{key}", f"unknown key; {hint}")

    def leaf(self, branch: Branch, name: str, key: str, default: Any, parse_value: Callable[[Any], Any]) -> Any:
        tree = branch.entries.get(key)
        if tree is None:
            return default
        if not isinstance(tree, Leaf):
            self.wrong(branch.lines[key], f"{name}.{key}", "must be a single value")
            return default
        try:
            return parse_value(tree.value)
        except ValueError as error:
            self.wrong(tree.line, f"{name}.{key}", str(error))
            return default

    def group(
        self, branch: Branch, name: str, key: str, fields: dict[str, tuple[Any, Callable[[Any], Any]]]
    ) -> dict[str, Any]:
        values = {field: default for field, (default, _) in fields.items()}
        tree = branch.entries.get(key)
        if tree is None:
            return values
        if not isinstance(tree, Branch):
            self.wrong(branch.lines[key], f"{name}.{key}", f"must be a mapping of {', '.join(fields)}")
            return values
        self.unknown(tree, tuple(fields), f"{name}.{key}.")
        return {
            field: self.leaf(tree, f"{name}.{key}", field, default, parse_value)
            for field, (default, parse_value) in fields.items()
        }


def whole(least: int, most: int) -> Callable[[Any], int]:
    def parse_value(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {value!r}")
        return value

    return parse_value


def a_number(least: float, most: float) -> Callable[[Any], float]:
    def parse_value(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"must be a number from {least:g} to {most:g}, not {value!r}")
        return float(value)

    return parse_value


def a_time(least_s: float, most_s: float) -> Callable[[Any], float]:
    def parse_value(value: Any) -> float:
        if not isinstance(value, str | int | float):
            raise ValueError(f"{value!r} is not a time; write for example 60s, 5m or 1h")
        seconds = parse_duration_s(value)
        if not least_s <= seconds <= most_s:
            raise ValueError(f"must be between {least_s:g} and {most_s:g} seconds, not {value!r}")
        return seconds

    return parse_value


def one_of(known: tuple[str, ...]) -> Callable[[Any], str]:
    def parse_value(value: Any) -> str:
        if value not in known:
            near = difflib.get_close_matches(str(value), known, 1, 0.5)
            raise ValueError(
                f"{value!r} is not one of {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else "")
            )
        return str(value)

    return parse_value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def sha256(value: Any) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", str(value)):
        raise ValueError("sha256 must be 64 hexadecimal digits")
    return str(value).lower()


def a_name(value: Any) -> str:
    if not is_name(str(value)):
        raise ValueError(f"{value!r} is no name: {NAME_RULE}")
    return str(value)


def http_url(value: Any) -> str:
    parts = urlsplit(str(value))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{value!r} must be http://HOST[:PORT]/v1 or https://…")
    return str(value).rstrip("/")


def money(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not an amount of money")
    return parse_money_pico(value)


def per_token(value: Any) -> int:
    per_million = money(value)
    pico, rest = divmod(per_million, 10**6)
    if rest:
        raise ValueError(f"{value!r} per million tokens is finer than {10**6 / PICO_PER_UNIT:g}; round it")
    return pico


def memory(value: Any) -> int | None:
    if value == "auto":
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a size; write auto, 512MiB or 6GiB")
    size = parse_bytes(value)
    if size < 2**20:
        raise ValueError(f"{value!r} is less than any model needs; write for example 512MiB")
    return size
