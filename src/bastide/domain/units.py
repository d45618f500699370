"""Units people write and units programs count in. Owns parsing and printing of durations, bytes and money.

Money is counted in pico-units (10^-12 of the currency unit) as whole numbers, so that a token price of 0.10 per
million tokens is exactly 100,000 pico-units a token and sums never drift.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

PICO_PER_UNIT = 10**12

_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_duration_s(text: str | int | float) -> float:
    """Seconds in `text`: `60s`, `5m`, `1.5h`, `250ms`, or a bare number of seconds. ValueError says what is wrong."""
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a duration; write for example 60s, 5m or 1h")
    if isinstance(text, int | float):
        if not 0 <= text < float("inf"):
            raise ValueError(f"{text!r} is not a duration; it must be 0 or more seconds")
        return float(text)
    total, rest = 0.0, text.strip()
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f"{text!r} is not a duration; write for example 250ms, 60s, 5m, 1h30m or 1d")
    for number, unit in parts:
        total += float(number) * _DURATION_S[unit]
    return total


def format_duration(seconds: float) -> str:
    """A short text for people: `12 ms`, `3.4 s`, `5m 20s`, `2h 05m`, `3d 4h`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_count(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def parse_bytes(text: str | int) -> int:
    """Bytes in `text`: `512MiB`, `6GiB`, `1.5GB`, or a bare number of bytes. ValueError says what is wrong."""
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a size; write for example 512MiB or 6GiB")
    if isinstance(text, int):
        if text < 0:
            raise ValueError(f"{text} is not a size; it must be 0 or more bytes")
        return text
    match = _QUANTITY.fullmatch(str(text))
    if match is None or (match[2] or "B") not in _BYTES:
        raise ValueError(f"{text!r} is not a size; write for example 512MiB, 6GiB or 1.5GB")
    return int(Decimal(match[1]) * _BYTES[match[2] or "B"])


def format_bytes(count: float) -> str:
    """A short text for people, in powers of 1024: `3.1 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def parse_money_pico(text: str | int | float) -> int:
    """Pico-units in an amount of money such as `0.10` or `25`. ValueError where it is negative or no number."""
    try:
        amount = Decimal(str(text))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not an amount of money; write for example 0.10") from None
    if not amount.is_finite() or amount < 0 or amount > 10**6:
        raise ValueError(f"{text!r} is not an amount of money between 0 and 1000000")
    return int(amount * PICO_PER_UNIT)


def format_money(pico: int) -> str:
    """A text for people, never rounded to nothing: `0.00001234`."""
    text = f"{Decimal(pico) / PICO_PER_UNIT:.12f}".rstrip("0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"


def money_number(pico: int) -> float:
    """The amount as a JSON number, in currency units."""
    return pico / PICO_PER_UNIT
