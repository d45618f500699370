"""Which service answers a request, and which of its instances. Pure; live state and the draw come as arguments.

Filling the lowest instance first lets the highest fall asleep: load is concentrated, never spread thin. Only one that has
read much more of the prompt already is taken before it, where its queue does not cost more than that saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from bastide.policy.affinity import Prospect, choose

# What another must have read more of the prompt than the first one that is free, or the first one is taken.
AHEAD_MIN = 0.2


def service_order(
    weighted: Sequence[tuple[str, int]], fallbacks: Sequence[str], usable: Callable[[str], bool], draw: float
) -> tuple[str, ...]:
    """Services to try, in order: one of the usable weighted ones by `draw` (0 <= draw < 1), the other weighted ones by
    falling weight, then the usable fallbacks. Empty where none is usable."""
    if len(weighted) == 1 and not fallbacks and weighted[0][1] > 0:  # nothing to choose
        return (weighted[0][0],) if usable(weighted[0][0]) else ()
    live = [(name, weight) for name, weight in weighted if weight > 0 and usable(name)]
    order: list[str] = []
    total = sum(weight for _, weight in live)
    mark = draw * total
    for name, weight in live:
        mark -= weight
        if mark < 0:
            order.append(name)
            break
    order += [name for name, _ in sorted(live, key=lambda pair: -pair[1]) if name not in order]
    order += [name for name in fallbacks if name not in order and usable(name)]
    return tuple(order)


class Stance(Enum):
    """How an instance stands, as this worker sees it."""

    LEASED = "leased"  # it may be used now
    WAKING = "waking"
    ASLEEP = "asleep"  # a lease must be acquired first, which wakes it
    REFUSED = "refused"  # it just failed to wake


@dataclass(slots=True, frozen=True)
class Candidate:
    stance: Stance
    in_flight: int


def nearest(ready: Sequence[tuple[int, float]], target_in_flight: int) -> int:
    """Which of the instances that may be used now, in their order, as (in flight, share of the prompt it has read).

    All in units of the whole prompt's work: a queue as full as it may be costs as much as reading all of it.
    Raises ValueError where there is none.
    """
    first_share = ready[0][1] if ready else 0.0
    worth = [index for index, (_, share) in enumerate(ready) if index == 0 or share >= first_share + AHEAD_MIN]
    prospects = [
        Prospect(queue_s=in_flight / target_in_flight, work_s=1.0 - share, load=in_flight / target_in_flight)
        for in_flight, share in (ready[index] for index in worth)
    ]
    return worth[choose(prospects).index]


class Act(Enum):
    USE = "use"
    WAKE = "wake"
    WAIT = "wait"
    GIVE_UP = "give up"


@dataclass(slots=True, frozen=True)
class Pick:
    """What to do for the first request that waits; `index` is into the candidates, -1 where none is meant."""

    act: Act
    index: int
    reason: str


_WAIT_WAKING = Pick(Act.WAIT, -1, "an instance is waking for those who wait")
_WAIT_BUSY = Pick(Act.WAIT, -1, "every instance is at its target")
_GIVE_UP = Pick(Act.GIVE_UP, -1, "no instance could be woken")


def pick(candidates: Sequence[Candidate], target_in_flight: int, waiting: int) -> Pick:
    """What to do while `waiting` requests (the one asked for included) want an instance.

    The first leased one below target is used; else one more is woken, where those already waking are too few for
    those who wait; else the request waits. Given up only when nothing is leased, waking or left to wake.
    """
    waking = 0
    asleep = -1
    leased = False
    for index, candidate in enumerate(candidates):
        if candidate.stance is Stance.LEASED:
            if candidate.in_flight < target_in_flight:
                return Pick(Act.USE, index, "the first awake instance below its target")
            leased = True
        elif candidate.stance is Stance.WAKING:
            waking += 1
        elif candidate.stance is Stance.ASLEEP and asleep < 0:
            asleep = index
    if asleep >= 0 and waiting > waking * target_in_flight:
        return Pick(Act.WAKE, asleep, "all awake instances are at their target" if leased else "no instance is awake")
    if waking:
        return _WAIT_WAKING
    return _WAIT_BUSY if leased else _GIVE_UP
