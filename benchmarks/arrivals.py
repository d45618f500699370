"""Who asks when, in the benchmark of a shared device: ServeGen's clients as services, a day of theirs in minutes of ours.

Owns the choice of clients and the drawing of arrivals. The same seed gives the same arrivals to the bit.

The rule: clients of one model (m-large) with a rate in at least two thirds of the first day's windows, ranked by mean
rate; the busiest and the quietest tenth are left out, and of the rest as many as asked are taken at even distances in rank. Time is
compressed; rates are scaled by one factor for all, so that so many requests are expected in all. In each window the gaps
have the variation (cv) that the trace says, drawn from a gamma law in the window's own pace.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from bastide.sim.evaluate.table import parquet_rows

DAY_S = 86_400
WINDOW_S = 600
WINDOWS = DAY_S // WINDOW_S
MODEL = "m-large"
FILE = "servegen_client_rates_nonzero.parquet"


@dataclass(frozen=True, slots=True)
class Client:
    """One of the trace, over a day: (rate per second, coefficient of variation of gaps) of every window."""

    name: str
    windows: tuple[tuple[float, float], ...]

    @property
    def mean_rps(self) -> float:
        return sum(rate for rate, _ in self.windows) / len(self.windows)


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    at_s: float
    service: int


def clients(data: Path, count: int) -> list[Client]:
    """The chosen ones, busiest first."""
    query = (
        f"select client, t_s, rate_rps, cv from trace where model = '{MODEL}' and t_s < {DAY_S} order by client, t_s"
    )
    found: dict[int, dict[int, tuple[float, float]]] = {}
    for client, at_s, rate, cv in parquet_rows(data / FILE, query):
        found.setdefault(int(client), {})[int(at_s) // WINDOW_S] = (float(rate), float(cv))
    ranked = sorted(
        (
            Client(f"{MODEL}-{number}", tuple(seen.get(window, (0.0, 1.0)) for window in range(WINDOWS)))
            for number, seen in found.items()
            if len(seen) >= WINDOWS * 2 // 3
        ),
        key=lambda client: (-client.mean_rps, client.name),
    )
    tenth = len(ranked) // 10
    middle = ranked[tenth : len(ranked) - tenth]
    return [middle[round(place * (len(middle) - 1) / (count - 1))] for place in range(count)]


def made_up(count: int) -> list[Client]:
    """Without the trace, for a quick run: the n-th asks an n-th as often, steadily."""
    return [Client(f"made-up-{n}", ((1.0 / n, 1.0),) * WINDOWS) for n in range(1, count + 1)]


def arrivals(chosen: list[Client], seconds: float, requests: float, seed: int) -> list[Arrival]:
    """About so many requests within so many seconds, in order."""
    window_s = seconds / WINDOWS
    scale = requests / seconds / sum(client.mean_rps for client in chosen)
    found = []
    for number, client in enumerate(chosen):
        chance = random.Random(f"{seed} {client.name}")
        # Each gap is drawn in mean gaps, and laid along the rates of the windows it crosses.
        left = chance.random() * _gap(chance, client.windows[0][1])
        for window, (rate, cv) in enumerate(client.windows):
            at, speed = 0.0, rate * scale
            while speed and left <= (window_s - at) * speed:
                at += left / speed
                found.append(Arrival(round(window * window_s + at, 6), number))
                left = _gap(chance, cv)
            left -= (window_s - at) * speed
    return sorted(found)


def _gap(chance: random.Random, cv: float) -> float:
    shape = 1 / max(0.05, min(cv, 10.0)) ** 2
    return chance.gammavariate(shape, 1 / shape)
