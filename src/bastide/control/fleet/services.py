"""A service as control of a fleet knows it, and what it remembers of it. Owns how many copies it should have; the shipped
autoscaling decides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bastide.policy.autoscale import Memory, Target, scale
from bastide.policy.fleet import Request
from bastide.policy.forecast import Forecast
from bastide.ports.fleet import Demand

# A copy should spend no more of its time than this on prompts, so that answers go on beside them.
PREFILL_PART = 0.5


@dataclass(frozen=True, slots=True)
class Way:
    """How one copy may run. `slots`: requests it takes at once; `cached_s`, `light_s`: to wake from the node's disk, from its
    memory (None: that rung doesn't hold); `sleep_s`: to go to rest."""

    request: Request
    slots: int
    prefill_tokens_per_s: float
    cached_s: float
    light_s: float | None
    sleep_s: float


@dataclass(frozen=True, slots=True)
class FleetService:
    """What was declared. `ways` differ by model of device; `borders`: locations it may be in, empty for any; `most`: copies,
    of which `least` are always awake; `first_token_s`: what is in time."""

    name: str
    weights: str
    weights_bytes: int
    ways: tuple[Way, ...]
    least: int
    most: int
    borders: frozenset[str]
    first_token_s: float


@dataclass(slots=True, eq=False)
class Managed:
    """One service under control. Nothing of it is started before `hold_until_s`; `asked_s`: when others made room for it."""

    spec: FleetService
    demand: Demand
    requests: tuple[Request, ...] = ()
    target: Target = field(init=False)
    memory: Memory = field(default_factory=Memory)
    forecast: Forecast | None = None
    wanted: int = 0
    failures: int = 0
    hold_until_s: float = 0.0
    looks_again: bool = False
    asked_s: float = -1.0

    def __post_init__(self) -> None:
        spec = self.spec
        self.requests = tuple(way.request for way in spec.ways)
        slots = max(way.slots for way in spec.ways)
        tokens = PREFILL_PART * min(way.prefill_tokens_per_s for way in spec.ways)
        self.target = Target(slots, spec.least, spec.most, tokens, first_token_s=spec.first_token_s)

    def copies_wanted(self, now_s: float, clock_s: float, every_s: float, predict: bool) -> int:
        """`now_s` never runs backwards, `clock_s` is the time of day; this is asked `every_s`; `predict`: by a forecast too."""
        load = self.demand.load(now_s)
        if predict and self.target.most > 1:
            if self.forecast is None:
                self.forecast = Forecast()
            lead_s = every_s + self.spec.ways[0].cached_s
            self.forecast.saw(clock_s, load.in_flight, lead_s)
            load = replace(load, expected=self.forecast.expected(clock_s, load.in_flight, lead_s))
        chosen, self.memory = scale(load, self.target, self.memory, now_s)
        return chosen.copies
