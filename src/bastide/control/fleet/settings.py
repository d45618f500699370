"""What a fleet's control is set up with, and what it counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Site:
    """A location. `power_w`: what its devices may draw together beyond their idle draw; bytes a second from the source, over one
    link, and from a neighbour."""

    name: str
    power_w: int | None
    source_bytes_per_s: float
    neighbour_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """`tick_s`: how often active services are looked at; `react_s`: from a hint to the next plan; `inventory_s`: how often each node is asked what
    it has; `predict`: by a forecast too; `give_way`: whether idle copies make room for who waits."""

    tick_s: float = 15.0
    react_s: float = 0.02
    inventory_s: float = 30.0
    predict: bool = True
    give_way: bool = True
    starts_per_minute: int = 6000


@dataclass(slots=True)
class Counts:
    """What was done, for metrics. `starts_failed` by why."""

    plans: int = 0
    starts: int = 0
    rests: int = 0
    stops: int = 0
    refused_actions: int = 0
    unplaced: int = 0
    gave_way: int = 0
    starts_failed: Counter[str] = field(default_factory=Counter)
