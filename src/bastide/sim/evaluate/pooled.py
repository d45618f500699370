"""What arrives in E3: many models, each asked as one of ServeGen's clients. Owns the drawing, by seed.

`poisson_MxRATE`: M models of one rate, Poisson; lengths of one client a model. `servegen_M`: M clients as models, each with its own
rate, regularity and lengths, of a window of ten minutes that is drawn for it from the trace.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate.table import find, parquet_rows

LENGTHS = "servegen_client_length_quantiles.parquet"
RATES = "servegen_client_rates_nonzero.parquet"
GRID = tuple(f"poisson_{models}x{rate:g}" for rate in (0.1, 0.5) for models in (20, 40, 60, 80, 100))
OWN_RATES = ("servegen_20", "servegen_40", "servegen_80")
LASTS_S = 300.0
NAME = re.compile(r"(?:(poisson)_([0-9]{1,5})x([0-9]*[.]?[0-9]+)|(servegen)_([0-9]{1,5}))")
REQUESTS_MAX = 5_000_000
TOKENS_MAX = 10_000_000
# A client that asks more often needs devices of its own; and one that asks less than once in all that time is not there.
RATE_MAX, RATE_MIN = 0.5, 1 / LASTS_S
CV_MAX = 4.0  # beyond, everything comes at once or not at all

Arrival = tuple[float, int, int, int]  # when, model, tokens of prompt and answer
Quantiles = dict[str, tuple[float, ...]]
Window = tuple[float, float]  # requests a second, coefficient of variation of the gaps


@dataclass(frozen=True, slots=True)
class Clients:
    """Lengths by client, in the order of names; windows by the same client, read once they are needed."""

    names: tuple[tuple[str, str], ...]
    lengths: tuple[Quantiles, ...]
    windows: Callable[[], dict[tuple[str, str], list[Window]]]


def read_clients(data: Path) -> Clients:
    """ServeGen's clients of language models."""
    path = find(data, LENGTHS)
    rows = parquet_rows(
        path,
        "select cast(model as varchar), cast(client as varchar), cast(field as varchar), "
        + ", ".join(f"cast(p{share} as double)" for share in (5, 25, 50, 75, 90, 95, 99))
        + " from trace where category = 'language' order by 1, try_cast(client as bigint), 2, 3",
    )
    clients: dict[tuple[str, str], Quantiles] = {}
    for model, client, name, *quantiles in rows:
        if any(value is None or not 0 <= value <= TOKENS_MAX for value in quantiles) or sorted(quantiles) != quantiles:
            raise InvalidRequest(
                f"{path}: the {name} of client {client} of {model} has no proper quantiles: they rise from p5 to p99, "
                f"between 0 and {TOKENS_MAX:,}"
            )
        if name in clients.setdefault((model, client), {}):
            raise InvalidRequest(f"{path}: the {name} of client {client} of {model} is there twice")
        clients[model, client][name] = tuple(quantiles)
    found = {name: one for name, one in clients.items() if {"input_tokens", "output_tokens"} <= one.keys()}
    if not found:
        raise InvalidRequest(f"{path} has no client with both lengths")
    return Clients(tuple(found), tuple(found.values()), lambda: _read_windows(data))


def _read_windows(data: Path) -> dict[tuple[str, str], list[Window]]:
    path = find(data, RATES)
    rows = parquet_rows(
        path,
        "select cast(model as varchar), cast(client as varchar), cast(t_s as double), cast(rate_rps as double), "
        "cast(cv as double) from trace where category = 'language' order by 1, try_cast(client as bigint), 2, 3",
    )
    windows: dict[tuple[str, str], list[Window]] = {}
    for model, client, at_s, rate, cv in rows:
        if any(value is None or not math.isfinite(value) or value < 0 for value in (rate, cv)):
            raise InvalidRequest(f"{path}: client {client} of {model} has no proper rate at {at_s} s")
        if RATE_MIN <= rate <= RATE_MAX:
            windows.setdefault((model, client), []).append((rate, cv))
    return windows


def grid(data: Path) -> list[str]:
    """All traces there are; those of clients with their own rates only where the trace knows rates, of enough clients."""
    if not (data / RATES).exists():
        return list(GRID)
    able = sum(name in read_clients(data).names for name in _read_windows(data))
    return [*GRID, *(trace for trace in OWN_RATES if int(trace.partition("_")[2]) <= able)]


def draw_arrivals(trace: str, clients: Clients, seed: int) -> tuple[int, list[Arrival]]:
    """How many models, and what arrives."""
    chance = random.Random(seed)
    named = NAME.fullmatch(trace)
    kind, models = ("", 0) if named is None else (named[1] or named[4], int(named[2] or named[5]))
    rate = float(named[3]) if named is not None and named[3] else 1.0
    if not 0 < models <= 10_000 or not 0 < rate < math.inf:
        raise InvalidRequest(
            f"there is no trace {trace[:80]!r} in E3; give poisson_MxRATE, such as poisson_40x0.1, or servegen_M"
        )
    if kind == "poisson" and models * rate * LASTS_S > REQUESTS_MAX:
        raise InvalidRequest(f"{trace}: {models * rate * LASTS_S:,.0f} requests are too many, at most {REQUESTS_MAX:,}")
    arrivals: list[Arrival] = []
    if kind == "poisson":
        for number in range(models):
            lengths = clients.lengths[chance.randrange(len(clients.lengths))]
            arrivals.extend(_asked(number, lengths, lambda: chance.expovariate(rate), chance))
        return models, sorted(arrivals)
    windows = clients.windows()
    able = [index for index, name in enumerate(clients.names) if name in windows]
    if models > len(able):
        raise InvalidRequest(
            f"{trace}: of the clients in {LENGTHS} and {RATES} only {len(able)} ask at most {RATE_MAX:g} times a second in some window"
        )
    for number, index in enumerate(chance.sample(able, models)):
        own, cv = chance.choice(windows[clients.names[index]])
        shape = 1 / min(max(cv, 0.05), CV_MAX) ** 2  # gaps of a gamma law have that variation
        gap_s = _gamma(chance, shape, 1 / (own * shape))
        arrivals.extend(_asked(number, clients.lengths[index], gap_s, chance))
    return models, sorted(arrivals)


def _gamma(chance: random.Random, shape: float, scale: float) -> Callable[[], float]:
    return lambda: chance.gammavariate(shape, scale)


def _asked(number: int, lengths: Quantiles, gap_s: Callable[[], float], chance: random.Random) -> Sequence[Arrival]:
    """All that one model is asked."""
    found: list[Arrival] = []
    at_s = gap_s()
    while at_s < LASTS_S:
        prompt, answer = (_length(lengths[name], chance.random()) for name in ("input_tokens", "output_tokens"))
        found.append((at_s, number, prompt, answer))
        at_s += gap_s()
    return found


def _length(quantiles: tuple[float, ...], draw: float) -> int:
    """A length by its quantiles; beyond the outermost it stays there."""
    shares = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    for low, high, first, last in zip(shares, shares[1:], quantiles, quantiles[1:], strict=False):
        if draw <= high:
            return max(1, round(first + max(0.0, draw - low) / (high - low) * (last - first)))
    return max(1, round(quantiles[-1]))
