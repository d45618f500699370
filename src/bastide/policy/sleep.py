"""When an idle instance steps down, and to which rung. Pure.

Two ways, by the service's settings. `timers`: the times the user gave. `auto`: a ski-rental ladder. Every rung r holds
m_r GiB and costs w_r seconds to wake from. Keeping m for t seconds is worth `WAIT_S_PER_GIB_S * m * t` seconds of
somebody's waiting, so at idle time t the rung with the least m_r * t * WAIT_S_PER_GIB_S + w_r is right; following that
lower envelope costs at most twice what one would pay knowing the next request (Karlin et al., 1988; Lotker et al., 2008).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bastide.domain.lifecycle import Rung
from bastide.domain.spec import SleepMode, SleepSettings
from bastide.domain.units import format_bytes, format_duration

GIB = 2**30
# The one knob of `auto`: how many seconds of a user's waiting a GiB held for a second is worth.
WAIT_S_PER_GIB_S = 0.01
# An awake engine also costs wake-ups of its threads; worth this much memory, so that `frozen` has a place.
AWAKE_OVERHEAD_BYTES = 16 * 2**20
# Never sleep within this time of the last request, however cheap waking is: a conversation pauses.
IDLE_S_MIN = 5.0


@dataclass(frozen=True, slots=True)
class RungCost:
    """What resting on a rung holds on the device, in bytes, and what waking from it costs, in seconds."""

    held_bytes: int
    wake_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """Step down to `rung` at idle time `at_idle_s` (seconds since the last request ended)."""

    rung: Rung
    at_idle_s: float
    reason: str


def ladder(settings: SleepSettings, costs: Mapping[Rung, RungCost], available: frozenset[Rung]) -> tuple[Step, ...]:
    """Every step down this instance will take while nobody asks for it, in order of time and of depth.

    `costs` must hold every rung in `available` and `awake`; `available` are the rungs that hold on this machine.
    A rung that was asked for and does not hold is replaced by the next colder one that does, and the reason says so.
    """
    if settings.mode is SleepMode.OFF:
        return ()
    steps = _timers(settings, available) if settings.mode is SleepMode.TIMERS else _envelope(costs, available)
    kept: list[Step] = []
    for step in sorted(steps, key=lambda step: (step.at_idle_s, step.rung.depth)):
        if not kept or step.rung.depth > kept[-1].rung.depth:
            if kept and step.at_idle_s == kept[-1].at_idle_s:
                kept.pop()
            kept.append(step)
    return tuple(kept)


def next_step(steps: tuple[Step, ...], resting: Rung) -> Step | None:
    """The first step that goes deeper than where the instance rests."""
    for step in steps:
        if step.rung.depth > resting.depth:
            return step
    return None


def step_due(steps: tuple[Step, ...], resting: Rung, idle_s: float) -> Step | None:
    """The deepest step whose time has come, or None."""
    due = [step for step in steps if step.rung.depth > resting.depth and idle_s >= step.at_idle_s]
    return due[-1] if due else None


def _timers(settings: SleepSettings, available: frozenset[Rung]) -> list[Step]:
    asked = ((Rung.FROZEN, settings.frozen_s), (Rung.LIGHT, settings.light_s), (Rung.DEEP, settings.deep_s))
    steps: list[Step] = []
    for rung, at_idle_s in asked:
        if at_idle_s is None:
            continue
        holding = _holding(rung, available)
        if holding is None:
            continue
        reason = f"idle for {format_duration(at_idle_s)}, as sleep.{rung.value} asks"
        if holding is not rung:
            reason += f"; {rung.value} does not hold on this machine, {holding.value} is the next colder rung that does"
        steps.append(Step(holding, at_idle_s, reason))
    return steps


def _holding(rung: Rung, available: frozenset[Rung]) -> Rung | None:
    for candidate in Rung:
        if candidate.depth >= rung.depth and candidate in available:
            return candidate
    return None


def _envelope(costs: Mapping[Rung, RungCost], available: frozenset[Rung]) -> list[Step]:
    steps: list[Step] = []
    current = Rung.AWAKE
    idle_s = 0.0
    while True:
        best: tuple[float, Rung] | None = None
        for rung in available:
            if rung.depth <= current.depth:
                continue
            freed = _cost_bytes(current, costs) - _cost_bytes(rung, costs)
            if freed <= 0:
                continue
            dearer_s = max(0.0, costs[rung].wake_s - costs[current].wake_s)
            crossing_s = max(dearer_s * GIB / (WAIT_S_PER_GIB_S * freed), IDLE_S_MIN, idle_s)
            if best is None or (crossing_s, rung.depth) < (best[0], best[1].depth):
                best = (crossing_s, rung)
        if best is None:
            return steps
        idle_s, rung = best
        freed = _cost_bytes(current, costs) - _cost_bytes(rung, costs)
        steps.append(
            Step(
                rung,
                idle_s,
                f"idle for {format_duration(idle_s)}: {rung.value} gives back {format_bytes(freed)} "
                f"and wakes in {format_duration(costs[rung].wake_s)}",
            )
        )
        current = rung


def _cost_bytes(rung: Rung, costs: Mapping[Rung, RungCost]) -> int:
    return costs[rung].held_bytes + (AWAKE_OVERHEAD_BYTES if rung is Rung.AWAKE else 0)
