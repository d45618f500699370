"""Public traces as services: each kind by its columns. Owns reading them and the errors of files that make no sense.

`func, minute, count` (Azure Functions): a service per function. `t_s, rate_rps, cv, …, client` (ServeGen): a service per client.
`timestamp, input_length, output_length` (Mooncake, JSON lines) and `TIMESTAMP, ContextTokens, GeneratedTokens` (Azure LLM,
CSV): one service.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate.table import csv_columns, csv_rows, parquet_rows, text_lines, whole
from bastide.sim.fleet.arrivals import Lengths, replayed
from bastide.sim.fleet.setup import Arrival

Source = Callable[[], Iterator[Arrival]]
WINDOW_S = 600.0  # of ServeGen's rates
FIELDS = ("timestamp", "input_length", "output_length")  # of a line of Mooncake's


def read(path: Path, services: int, lengths: Lengths, seed: str, until_s: float) -> list[tuple[str, Source]]:
    """Up to `services` services with their arrivals, the most asked first. Raises InvalidRequest with the line."""
    if not path.is_file():
        raise InvalidRequest(f"there is no trace at {path}; a `file` is looked for beside the scenario")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return [("", replayed(_json_lines(path, until_s)))]
    if path.name.endswith((".csv", ".csv.gz")):
        if {"func", "minute", "count"} <= set(csv_columns(path)):
            raise InvalidRequest(
                f"{path}: a trace of functions (func, minute, count) is read as Parquet only; write it as .parquet"
            )
        return [("", replayed(_azure_llm(path, until_s)))]
    columns = {str(row[0]) for row in parquet_rows(path, "select column_name from (describe select * from trace)")}
    if {"func", "minute", "count"} <= columns:
        return _functions(path, services, lengths, until_s)
    if {"t_s", "rate_rps", "cv", "client", "model"} <= columns:
        return _clients(path, services, lengths, seed, until_s, "category" in columns)
    raise InvalidRequest(
        f"{path} has none of the columns of a trace known here: func, minute, count; or t_s, rate_rps, cv, model, client"
    )


def _functions(path: Path, services: int, lengths: Lengths, until_s: float) -> list[tuple[str, Source]]:
    rows = parquet_rows(
        path,
        "select func, minute, count from trace where func in "
        "(select func from trace group by func order by sum(count) desc, func limit ?) order by func, minute",
        (services,),
    )
    found: dict[Any, list[Arrival]] = {}
    prompt, answer = max(1, round(lengths.prompt)), max(1, round(lengths.answer))
    for number, (func, minute, count) in enumerate(rows, 1):
        what = f"{path}, row {number} of func {func}"
        at_s = 60.0 * whole(minute, 0, f"{what}, minute")
        asked = whole(count, 0, f"{what}, count")
        own = found.setdefault(func, [])
        if own and own[-1][0] >= at_s:
            raise InvalidRequest(f"{what}: minute {minute} is there twice")
        if asked and at_s < until_s:
            own.append((at_s, float(asked), 60.0 if asked > 1 else 0.0, prompt, answer))
    if not any(found.values()):
        raise _empty(path, until_s)
    return [(str(func), replayed(own)) for func, own in found.items() if own]


def _clients(
    path: Path, services: int, lengths: Lengths, seed: str, until_s: float, of_kinds: bool
) -> list[tuple[str, Source]]:
    chosen = "trace" + (" where category = 'language'" if of_kinds else "")
    rows = parquet_rows(
        path,
        f"with chosen as (select model, client, t_s, rate_rps, cv from {chosen}) select * from chosen "
        "where (model, client) in (select (model, client) from chosen group by model, client "
        "order by sum(rate_rps) desc, model, client limit ?) order by model, client, t_s",
        (services,),
    )
    found: dict[str, list[tuple[float, float, float]]] = {}
    for number, (model, client, t_s, rate, cv) in enumerate(rows, 1):
        what = f"{path}, row {number} of client {client} of {model}"
        at_s = float(whole(t_s, 0, f"{what}, t_s"))
        if not _positive(rate):
            raise InvalidRequest(f"{what}, rate_rps: {rate!r} is not a rate above 0")
        steady = float(cv) if _positive(cv) else 1.0
        if at_s < until_s:
            found.setdefault(f"{model}-{client}", []).append((at_s, float(rate), steady))
    if not found:
        raise _empty(path, until_s)
    return [(name, _windows(own, lengths, f"{seed}/{name}", until_s)) for name, own in found.items()]


def _empty(path: Path, until_s: float) -> InvalidRequest:
    return InvalidRequest(f"{path} has no requests in the {until_s:g} s that are simulated (`duration`)")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and math.isfinite(value) and value > 0


def _windows(windows: list[tuple[float, float, float]], lengths: Lengths, seed: str, until_s: float) -> Source:
    def draw() -> Iterator[Arrival]:
        chance = random.Random(seed)
        for start_s, rate, cv in windows:
            shape, at_s = 1.0 / (cv * cv), start_s
            ends_s = min(until_s, start_s + WINDOW_S)
            while True:
                at_s += chance.gammavariate(shape, 1.0 / (shape * rate))
                if at_s >= ends_s:
                    break
                yield at_s, 1.0, 0.0, *lengths.draw(chance)

    return draw


def _json_lines(path: Path, until_s: float) -> list[Arrival]:
    found: list[Arrival] = []
    before = 0
    for line, text in text_lines(path):
        if not text.strip():
            continue
        what = f"{path}, line {line}"
        try:
            row = json.loads(text)
        except ValueError:
            raise InvalidRequest(f"{what}: is torn, or no JSON") from None
        lacks = [field for field in FIELDS if not isinstance(row, dict) or field not in row]
        if lacks:
            raise InvalidRequest(f"{what}: lacks {lacks[0]}; a line is an object with {', '.join(FIELDS)}")
        at, prompt, answer = (row[field] for field in FIELDS)
        at_ms = whole(at, 0, f"{what}, timestamp")
        if at_ms < before:
            raise InvalidRequest(f"{what}: the trace is not sorted by time")
        before = at_ms
        if at_ms / 1000 < until_s:
            lengths = whole(prompt, 1, f"{what}, input_length"), max(1, whole(answer, 0, f"{what}, output_length"))
            found.append((at_ms / 1000, 1.0, 0.0, *lengths))
    if not found:
        raise _empty(path, until_s)
    return found


def _azure_llm(path: Path, until_s: float) -> list[Arrival]:
    found: list[Arrival] = []
    first: datetime | None = None
    before_s = 0.0
    for line, row in csv_rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        what = f"{path}, line {line}"
        try:
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
        except ValueError:
            raise InvalidRequest(f"{what}, TIMESTAMP: {row['TIMESTAMP']!r} is no moment") from None
        first = first or at
        if (at.tzinfo is None) != (first.tzinfo is None):
            raise InvalidRequest(f"{what}, TIMESTAMP: some moments have a time zone and some have none")
        at_s = (at - first).total_seconds()
        if at_s < before_s:
            raise InvalidRequest(f"{what}: the trace is not sorted by time")
        before_s = at_s
        if at_s < until_s:
            prompt = whole(row["ContextTokens"], 1, f"{what}, ContextTokens")
            answer = max(1, whole(row["GeneratedTokens"], 0, f"{what}, GeneratedTokens"))
            found.append((at_s, 1.0, 0.0, prompt, answer))
    if not found:
        raise _empty(path, until_s)
    return found
