"""Who gives way when a device is full. Pure.

One device has a budget of bytes. Somebody wants to wake and needs some. Idle residents give way first, by the least
regret per byte: the demand expected of them (policy/keepalive.py) times what waking them costs. Nobody with a request in flight
gives way. To bound thrash, a resident keeps its place for a quantum once it is in, however many want it, unless it is idle
and little time went into swapping lately: then it is better that nobody waits. To bound waiting, when its quantum is over and somebody waits, a busy resident is drained (its next requests wait) and goes.
Who waits is served by turns, so that no project can starve another (`turn`).
"""

from __future__ import annotations

from dataclasses import dataclass

from bastide.domain.units import format_bytes, format_duration

QUANTUM_S_MIN = 5.0
QUANTUM_S_MAX = 60.0
# A stay must be worth its wake: at most a tenth of the time goes into swapping, but for so many seconds of it in advance.
QUANTUM_WAKES = 10.0
SWAPPING_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Resident:
    """An instance that holds memory on the device. Times in seconds; `idle_s` is 0 while requests are in flight."""

    instance: str
    name: str  # of its service, for the reasons
    held_bytes: int
    freed_bytes: int  # what it gives back when it gives way
    in_flight: int
    idle_s: float
    resident_s: float
    wake_s: float
    demand_per_s: float  # requests per second that are expected of it from now on
    pinned: bool = False  # among the least replicas: never gives way
    moving: bool = False  # already stepping down or starting


@dataclass(frozen=True, slots=True)
class GiveWay:
    """These give way now. `drain`: those among them that are busy and must finish first."""

    victims: tuple[str, ...]
    drain: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Fits:
    reason: str = "there is room"


@dataclass(frozen=True, slots=True)
class WaitForRoom:
    """Nobody may give way yet; look again in `look_again_s` seconds, or when something changes."""

    look_again_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class CannotFit:
    """No giving way can make enough room."""

    reason: str


RoomDecision = Fits | GiveWay | WaitForRoom | CannotFit


def quantum_s(wake_s: float) -> float:
    """How long a resident that takes `wake_s` to wake may stay, however many wait for its place."""
    return min(QUANTUM_S_MAX, max(QUANTUM_S_MIN, QUANTUM_WAKES * wake_s))


def idle_quantum_s(wake_s: float, swapping_s: float) -> float:
    """How long an idle one keeps its place. `swapping_s`: what went into swaps lately, as `swapping` counts."""
    if swapping_s + wake_s <= SWAPPING_S_MAX:
        return min(QUANTUM_S_MAX, wake_s)  # or waking it was for nothing
    return min(QUANTUM_S_MAX, QUANTUM_WAKES * wake_s)


def swapping(before_s: float, since_s: float) -> float:
    """What went into swaps lately, `since_s` after it was `before_s`: a tenth of the time is allowed for it."""
    return max(0.0, before_s - since_s / QUANTUM_WAKES)


def turn(served: float, last: float | None) -> float:
    """The turn of somebody who begins to wait for a place; the least is served first, equal ones as they came.

    `served`: the turn that was served last; `last`: the last that one of the same project was given. So every project
    has each second, third and so on place in turn, however many its services that wait, and nobody waits for ever
    (start-time fair queueing, Goyal et al., 1996).
    """
    return served if last is None else max(served, last + 1.0)


def make_room(
    budget_bytes: int,
    need_bytes: int,
    residents: tuple[Resident, ...],
    leaving_bytes: int = 0,
    swapping_s: float = 0.0,
) -> RoomDecision:
    """Whether `need_bytes` more fit, and who gives way if not. `leaving_bytes`: already on their way out. `swapping_s`:
    seconds that went into swaps lately, as `swapping` counts."""
    held = sum(resident.held_bytes for resident in residents)
    missing = held + need_bytes - budget_bytes
    if missing <= 0:
        return Fits()
    pinned = sum(resident.held_bytes for resident in residents if resident.pinned)
    if need_bytes > budget_bytes - pinned:
        kept = f", of which {format_bytes(pinned)} must stay awake" if pinned else ""
        return CannotFit(
            f"needs {format_bytes(need_bytes)}, but the device's budget is {format_bytes(budget_bytes)}{kept}"
        )
    if leaving_bytes >= missing:
        return WaitForRoom(1.0, "somebody is already giving way")
    missing -= leaving_bytes
    may_go = [r for r in residents if not r.pinned and not r.moving and r.freed_bytes > 0]
    idle = [r for r in may_go if r.in_flight == 0 and r.resident_s >= idle_quantum_s(r.wake_s, swapping_s)]
    chosen = _cheapest(idle, missing)
    if chosen is not None:
        return GiveWay(tuple(r.instance for r in chosen), (), "; ".join(_why(r) for r in chosen))
    ready = idle + [r for r in may_go if r.in_flight > 0 and r.resident_s >= quantum_s(r.wake_s)]
    chosen = _cheapest(ready, missing)
    if chosen is not None:
        drain = tuple(r.instance for r in chosen if r.in_flight > 0)
        return GiveWay(tuple(r.instance for r in chosen), drain, "; ".join(_why(r) for r in chosen))
    waits = [
        max(0.0, (idle_quantum_s(r.wake_s, swapping_s) if r.in_flight == 0 else quantum_s(r.wake_s)) - r.resident_s)
        for r in may_go
        if r not in ready
    ]
    look_again_s = max(0.05, min(waits, default=1.0))
    return WaitForRoom(
        look_again_s,
        f"{format_bytes(missing)} short; nobody may give way for another {format_duration(look_again_s)}"
        if waits
        else f"{format_bytes(missing)} short; everybody who could give way is busy or moving",
    )


def _regret_per_byte(resident: Resident) -> float:
    # What its absence would cost: each request that is expected waits for a wake.
    return resident.wake_s * resident.demand_per_s / resident.freed_bytes


def _cheapest(candidates: list[Resident], missing: int) -> list[Resident] | None:
    chosen: list[Resident] = []
    freed = 0
    for resident in sorted(candidates, key=lambda r: (r.in_flight > 0, _regret_per_byte(r), r.instance)):
        if freed >= missing:
            break
        chosen.append(resident)
        freed += resident.freed_bytes
    if freed < missing:
        return None
    # Whoever turns out not to be needed stays: drop the dearest that the rest can spare.
    for resident in list(reversed(chosen)):
        if freed - resident.freed_bytes >= missing:
            chosen.remove(resident)
            freed -= resident.freed_bytes
    return chosen


def _why(resident: Resident) -> str:
    if resident.in_flight:
        return (
            f"{resident.name} has had its place for {format_duration(resident.resident_s)} and another waits; "
            f"it finishes {resident.in_flight} in flight first"
        )
    return (
        f"{resident.name} gives way: idle for {format_duration(resident.idle_s)}, "
        f"wanted every {format_duration(1 / max(resident.demand_per_s, 1e-9))} as it seems, "
        f"gives back {format_bytes(resident.freed_bytes)}, wakes in {format_duration(resident.wake_s)}"
    )
