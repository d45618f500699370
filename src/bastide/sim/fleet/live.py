"""A service while the simulation runs: its copies, who waits, and what its policies remember."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bastide.control.fleet.services import Managed
from bastide.policy.autoscale import Load
from bastide.policy.keepalive import Rhythm, Warm
from bastide.sim.fleet.nodes import Running
from bastide.sim.fleet.setup import Arrival, Service

# Tokens are counted over about this long.
TOKENS_S = 60.0
# What was late is forgotten by so much at each look.
LATE_KEPT = 0.8
# What is expected of a busy one is worked out so often.
DEMAND_S = 60.0


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
    """State of one service. `awake` in the order of waking: the first is filled first, so that the last can sleep. To control
    it is the port `Demand`; `managed` is what control remembers of it."""

    __slots__ = (
        "arrivals", "asked", "awake", "copies", "demand_per_s", "demand_until_s", "epoch", "gap_s", "in_flight", "kv_tokens",
        "last_s", "late_s", "managed", "missed", "origin_s", "queued", "rhythm", "spans", "spec", "starting", "tokens",
        "tokens_at_s", "waiting", "warm", "way_of",
    )  # fmt: skip

    managed: Managed

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
        self.way_of = {way.request: way for way in spec.ways}
        self.warm = False
        self.last_s = self.origin_s = -1.0
        self.gap_s = float("inf")
        self.late_s = 0.0
        self.epoch = 0  # changes with every request: what was planned for an idle time is over then
        self.spans: Iterator[Warm] | None = None
        self.demand_per_s = 0.0  # of one that is busy, as worked out lately
        self.demand_until_s = 0.0
        self.tokens_at_s = 0.0

    # --- as control sees it --------------------------------------------------------------------------------------------

    def copies_there(self) -> int:
        return len(self.awake) + self.starting

    def awake_there(self) -> int:
        return len(self.awake)

    def busy(self) -> bool:
        return self.in_flight != 0

    def instances(self) -> Iterable[Running]:
        return self.copies.values()

    def waits_since_s(self) -> float | None:
        return self.waiting[0].at_s if self.waiting else None

    def load(self, now_s: float) -> Load:
        room = sum(one.way.kv_tokens for one in self.awake)
        used = sum(one.kv_tokens for one in self.awake)
        late_s = self.late_s
        self.late_s *= LATE_KEPT
        return Load(
            self.in_flight,
            self.queued,
            len(self.awake),
            self.starting,
            tokens_per_s=self.prompts(now_s, 0.0),
            kv_share=used / room if room else 0.0,
            first_token_s=late_s,
            warm=self.warm,
        )

    def expected_per_s(self, now_s: float, idle_s: float) -> float:
        """As learned, else by the gaps lately."""
        if self.rhythm is not None and self.rhythm.gaps_seen:
            if idle_s > 0:
                return self.rhythm.curve().demand_per_s(idle_s)
            # One request more changes little of what is expected of those who are asked all the time.
            if self.demand_until_s <= now_s:
                self.demand_per_s = self.rhythm.curve().demand_per_s(0.0)
                self.demand_until_s = now_s + DEMAND_S
            return self.demand_per_s
        return 1.0 / max(self.gap_s, idle_s, 1e-3)

    # --- what is remembered ----------------------------------------------------------------------------------------------

    def prompts(self, now_s: float, tokens: float) -> float:
        """Tokens of prompts a second, lately, with so many more now."""
        self.tokens = self.tokens * math.exp((self.tokens_at_s - now_s) / TOKENS_S) + tokens
        self.tokens_at_s = now_s
        return self.tokens / TOKENS_S
