"""E2: services kept warm or not after their requests, over a day of arrivals by the minute. Owns baselines and metrics.

A service is warm in some of the minutes after a request; the next request, `gap` minutes later, starts cold unless that
minute is one of them. `cold_rate`: cold starts / requests; `cold_rate_p75`: its 75th percentile over services;
`waste`: minutes warm and idle / the same under a fixed ten minutes. The first request of a service is always cold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bastide.domain.errors import InvalidRequest
from bastide.policy.keepalive import HORIZON_BINS, WORTH_S, Rhythm, warm_times
from bastide.sim.evaluate.table import find, parquet_rows, whole

TRACE = "azure_functions_2019_day_sample1000"
FIXED_MINUTES = (5, 10, 30, 60, 120)
# The knob's settings on the curve: minutes of idle warm time that one cold start is worth.
WORTH_MINUTES = (15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 360, 420, 480, 540, 570, 600, 630, 660, 720)
BASELINES = (*(f"fixed_{minutes}m" for minutes in FIXED_MINUTES), "hybrid_4h")
POLICIES = (*BASELINES, "bastide", *(f"bastide_{minutes}m" for minutes in WORTH_MINUTES))

# (first, last) minutes after a request, both included, in which the service is warm.
Spans = Sequence[tuple[int, int]]


class Fixed:
    """Warm for a fixed time after every request."""

    def __init__(self, minutes: int) -> None:
        self._spans = ((1, minutes),)

    def spans(self, until: int) -> Spans:
        return self._spans

    def saw(self, gap: int) -> None:
        pass


class Hybrid:
    """The hybrid histogram of Serverless in the Wild (Shahrad et al., ATC'20): bins of a minute over a range; warmed
    again before the 5th percentile and let go after the 99th, with 10 % margin; where the bins say little (their
    coefficient of variation is below 2, or most gaps are out of range), warm over the whole range."""

    def __init__(self, range_minutes: int = 240) -> None:
        self._bins = np.zeros(range_minutes)
        self._total = self._beyond = 0
        self._kept: Spans | None = None

    def saw(self, gap: int) -> None:
        self._total += 1
        if gap <= len(self._bins):
            self._bins[gap - 1] += 1
        else:
            self._beyond += 1
        self._kept = None

    def spans(self, until: int) -> Spans:
        if self._kept is None:
            self._kept = self._decide()
        return self._kept

    def _decide(self) -> Spans:
        mean = self._bins.mean()
        if mean == 0 or 2 * self._beyond > self._total or self._bins.std() / mean < 2:
            return ((1, len(self._bins)),)
        gone = np.cumsum(self._bins)
        first = int(np.searchsorted(gone, 0.05 * gone[-1])) + 1
        last = int(np.searchsorted(gone, 0.99 * gone[-1] - 1e-9)) + 1
        warm_from = int(first * 0.9)
        return ((warm_from + 1 if warm_from > 1 else 1, int(np.ceil(last * 1.1))),)


class Learned:
    """The shipped policy."""

    def __init__(self, worth_s: float) -> None:
        self._rhythm, self._worth_s = Rhythm(), worth_s

    def saw(self, gap: int) -> None:
        self._rhythm.saw(60.0 * gap)

    def spans(self, until: int) -> Spans:
        found = warm_times(self._rhythm, self._worth_s, 60.0 * until)
        return [(round(warm.from_s / 60) + 1, round(warm.to_s / 60)) for warm in found]


Keeper = Fixed | Hybrid | Learned


def maker(policy: str) -> Callable[[], Keeper]:
    """Makes the keeper of one service. Raises InvalidRequest where the policy is unknown."""
    kind, _, setting = policy.partition("_")
    digits = setting.removesuffix("m").removesuffix("h")
    if kind == "bastide" and not setting:
        return lambda: Learned(WORTH_S)
    if digits.isdigit() and int(digits) > 0:
        if kind == "bastide" and setting.endswith("m"):
            return lambda: Learned(60.0 * int(digits))
        if kind == "fixed" and setting.endswith("m"):
            return lambda: Fixed(int(digits))
        if kind == "hybrid" and setting.endswith("h"):
            return lambda: Hybrid(60 * int(digits))
    raise InvalidRequest(
        f"there is no policy {policy!r} in E2; there are fixed_10m, hybrid_4h, bastide and bastide_240m, with any number"
    )


Service = tuple[list[int], int]  # the minutes with requests, in order, and how many requests


def read(data: Path, trace: str = TRACE) -> list[Service]:
    """Every service of the trace that was asked at all."""
    path = find(data, f"{trace}.parquet")
    rows = parquet_rows(path, "select func, minute, count from trace order by func, minute")
    services: dict[Any, tuple[list[int], list[int]]] = {}
    for number, (func, minute, count) in enumerate(rows, 1):
        what = f"{path}, row {number} of func {func}"
        minutes, counts = services.setdefault(func, ([], []))
        at, asked = whole(minute, 0, f"{what}, minute"), whole(count, 0, f"{what}, count")
        if minutes and minutes[-1] == at:
            raise InvalidRequest(f"{what}: minute {at} is there twice")
        if asked:
            minutes.append(at)
            counts.append(asked)
    found = [(minutes, sum(counts)) for minutes, counts in services.values() if minutes]
    if not found:
        raise InvalidRequest(f"{path} has no requests")
    return found


def run(services: Sequence[Service], policy: str) -> dict[str, float]:
    """Cold starts and idle minutes of all services under one policy."""
    make = maker(policy)
    colds, idle = [], 0
    for minutes, _ in services:
        keeper = make()
        cold = 1
        for before, now in itertools.pairwise(minutes):
            gap = now - before
            hit = False
            for first, last in keeper.spans(gap):
                idle += max(0, min(last, gap) - first + 1)
                hit = hit or first <= gap <= last
            cold += not hit
            keeper.saw(gap)
        idle += sum(last - first + 1 for first, last in keeper.spans(HORIZON_BINS))
        colds.append(cold)
    asked = np.array([requests for _, requests in services], dtype=np.float64)
    rates = np.array(colds) / asked
    return {
        "cold_rate": float(sum(colds) / asked.sum()),
        "cold_rate_p75": float(np.percentile(rates, 75)),
        "idle_minutes": float(idle),
    }


def rows(data: Path, traces: Sequence[str], policies: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per trace and policy; nothing is drawn, so the seed is always 0."""
    for policy in policies:
        maker(policy)
    for trace in traces or (TRACE,):
        services = read(data, trace)
        unit = run(services, "fixed_10m")["idle_minutes"]
        for policy in policies or POLICIES:
            found = run(services, policy)
            yield {
                "trace": trace,
                "policy": policy,
                "seed": 0,
                "cold_rate": round(found["cold_rate"], 7),
                "cold_rate_p75": round(found["cold_rate_p75"], 6),
                "waste": round(found["idle_minutes"] / unit, 5),
            }
