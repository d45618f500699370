"""A service while the simulation runs: its copies, who waits, and what its policies remember."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from bastide.policy.autoscale import Memory, Target
from bastide.policy.fleet import Request
from bastide.policy.forecast import Forecast
from bastide.policy.keepalive import Rhythm, Warm
from bastide.sim.fleet.nodes import Running
from bastide.sim.fleet.setup import Arrival, Service

# A copy should spend no more of its time than this on prompts, so that answers go on beside them.
PREFILL_PART = 0.5
# Tokens are counted over about this long.
TOKENS_S = 60.0


@dataclass(slots=True, eq=False)
class Work:
    """A request, or an even stream of `weight` of them over `span_s` seconds. `attempts`: how often it was begun.

    `share`: of the copy's slots that it takes while it runs.
    """

    number: int
    service: Live
    at_s: float
    weight: float
    span_s: float
    prompt: int
    answer: int
    attempts: int = 0
    share: float = 0.0
    waiting: bool = False


class Live:
    """State of one service. `awake` in the order of waking: the first is filled first, so that the last can sleep."""

    __slots__ = (
        "arrivals", "asked", "asked_s", "awake", "copies", "demand_per_s", "demand_until_s", "epoch", "failures", "forecast", "gap_s", "hold_until_s",
        "in_flight", "kv_tokens", "last_s", "late_s", "looks_again", "memory", "missed", "origin_s", "queued", "requests", "rhythm",
        "spans", "spec", "starting", "target", "tokens", "tokens_at_s", "waiting", "wanted", "warm", "way_of",
    )  # fmt: skip

    def __init__(self, spec: Service, arrivals: Iterator[Arrival]) -> None:
        self.spec = spec
        self.arrivals = arrivals
        self.awake: list[Running] = []
        self.copies: dict[str, Running] = {}
        self.starting = 0
        self.waiting: deque[Work] = deque()
        self.queued = self.in_flight = self.tokens = self.kv_tokens = 0.0
        self.asked = self.missed = 0.0  # requests, and those of them that came too late or not
        self.rhythm: Rhythm | None = None
        self.forecast: Forecast | None = None
        self.memory = Memory()
        slots = max(way.slots for way in spec.ways)
        tokens = PREFILL_PART * min(way.prefill_tokens_per_s for way in spec.ways)
        self.target = Target(slots, spec.least, spec.most, tokens, first_token_s=spec.first_token_s)
        self.requests: tuple[Request, ...] = tuple(way.request for way in spec.ways)
        self.way_of = dict(zip(self.requests, spec.ways, strict=True))
        self.warm = False
        self.wanted = 0
        self.last_s = self.origin_s = -1.0
        self.gap_s = float("inf")
        self.late_s = 0.0
        self.asked_s = -1.0
        self.epoch = 0  # changes with every request: what was planned for an idle time is over then
        self.spans: Iterator[Warm] | None = None
        self.failures = 0
        self.hold_until_s = 0.0  # no starts before: it crashed lately
        self.looks_again = False
        self.demand_per_s = 0.0  # of one that is busy, as worked out lately
        self.demand_until_s = 0.0
        self.tokens_at_s = 0.0

    def prompts(self, now_s: float, tokens: float) -> float:
        """Tokens of prompts a second, lately, with so many more now."""
        self.tokens = self.tokens * math.exp((self.tokens_at_s - now_s) / TOKENS_S) + tokens
        self.tokens_at_s = now_s
        return self.tokens / TOKENS_S
