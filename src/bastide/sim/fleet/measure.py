"""What a run shows: counts, latencies, device time, energy, cost, and a timeline of samples. Owns adding up, decides nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bastide.control.fleet.settings import Counts

# Latencies in bins of 4 %, from a millisecond on.
FIRST_S, RATIO = 0.001, 1.04
_LOG_RATIO = math.log(RATIO)
BINS = 420  # up to four hours
REASONS_MAX = 200


class Latencies:
    """A histogram of seconds. Percentiles are right within a bin."""

    __slots__ = ("bins", "sum_s", "total")

    def __init__(self) -> None:
        self.bins = [0.0] * BINS
        self.total = self.sum_s = 0.0

    def add(self, seconds: float, weight: float) -> None:
        place = 0 if seconds <= FIRST_S else min(BINS - 1, 1 + int(math.log(seconds / FIRST_S) / _LOG_RATIO))
        self.bins[place] += weight
        self.total += weight
        self.sum_s += seconds * weight

    def at(self, part: float) -> float:
        """Below this are `part` of them; 0 where there are none."""
        if not self.total:
            return 0.0
        left = part * self.total
        for place, weight in enumerate(self.bins):
            left -= weight
            if left <= 1e-9 * self.total and weight:
                return FIRST_S * RATIO ** (place - 0.5) if place else FIRST_S
        return FIRST_S * RATIO**BINS

    def over(self, seconds: float) -> float:
        """The part that took longer, to a bin."""
        place = 0 if seconds <= FIRST_S else 1 + int(math.log(seconds / FIRST_S) / _LOG_RATIO)
        return sum(self.bins[place + 1 :]) / self.total if self.total else 0.0


@dataclass(slots=True)
class Sample:
    """One moment of the timeline; counts and rates are of the time since the sample before."""

    at_s: float
    allocated: float  # part of all devices that awake copies hold
    busy: float  # part of all devices that had work, mean
    awake: int
    resting: int
    queued: float
    in_flight: float
    requests: float
    wakes: dict[str, int]
    first_token_p50_s: float
    first_token_p99_s: float
    power_w: float
    energy_kwh: float  # since the beginning
    cost: float  # since the beginning: of what was held, and of energy
    nodes_open: int


@dataclass(slots=True)
class Measured:
    """All that was counted in a run."""

    arrived: float = 0.0
    answered: float = 0.0
    refused: float = 0.0
    timed_out: float = 0.0
    failed: float = 0.0
    moved: float = 0.0
    held: float = 0.0  # had to wait for a wake or for room
    wakes: Counter[str] = field(default_factory=Counter)
    wake_s: dict[str, float] = field(default_factory=dict)
    first_token: Latencies = field(default_factory=Latencies)
    whole: Latencies = field(default_factory=Latencies)
    late: float = 0.0  # first token after the service's target
    waiting: float = 0.0  # when time was over, and still in time
    waiting_late: float = 0.0  # the same, for longer than was promised
    control: Counts = field(default_factory=Counts)
    reasons: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    reasons_left_out: int = 0
    allocated_device_s: dict[str, float] = field(default_factory=dict)
    busy_device_s: dict[str, float] = field(default_factory=dict)
    timeline: list[Sample] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> float:
        """Requests that were answered, or never will be."""
        return self.answered + self.refused + self.timed_out + self.failed

    @property
    def missed(self) -> float:
        """Requests that were answered too late, or not."""
        return self.late + self.refused + self.timed_out + self.failed + self.waiting_late

    @property
    def in_time_share(self) -> float:
        """Of the requests whose fate is known; 0 where none is."""
        known = self.arrived - self.waiting
        return max(0.0, 1 - self.missed / known) if known > 1e-9 else 0.0

    def reason(self, at_s: float, what: str, service: str, why: str) -> None:
        """Remembered for the report: when it first was so, how often, and why the last time. Only so many kinds."""
        known = self.reasons.get((what, service))
        if known is not None:
            known["times"] += 1
            known["why"] = why
        elif len(self.reasons) < REASONS_MAX:
            self.reasons[what, service] = {
                "at_s": round(at_s, 3),
                "what": what,
                "service": service,
                "times": 1,
                "why": why,
            }
        else:
            self.reasons_left_out += 1


def digest(value: Any) -> str:
    """Twelve digits that change with any figure: two runs with the same are the same to the bit."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=True).encode()).hexdigest()[:12]
