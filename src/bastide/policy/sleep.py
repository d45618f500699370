"""When an idle instance steps down, to which rung, and when it is woken ahead of its next request. Pure.

By the service's settings. `timers`: the times the user gave. `auto`: by what is learned of its own arrivals
(policy/keepalive.py); while little is, by a ski-rental ladder. Every rung r holds m_r GiB and costs w_r seconds to wake
from. Keeping m for t seconds is worth `WAIT_S_PER_GIB_S * m * t` seconds of somebody's waiting.

The ladder: at idle time t the rung with the least m_r * t * WAIT_S_PER_GIB_S + w_r is right; following that lower
envelope costs at most twice what one would pay knowing the next request (Karlin et al., 1988; Lotker et al., 2008).

Learned: where a request is expected at a rate of h per second, a second on rung r costs m_r * WAIT_S_PER_GIB_S + h * w_r,
and the rung with the least is right. So between two rungs a cold start is worth (w_2 - w_1) / (WAIT_S_PER_GIB_S *
(m_1 - m_2)) seconds of the dearer one: the one rule of keep-alive, between each two rungs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from bastide.domain.lifecycle import Rung
from bastide.domain.spec import SleepMode, SleepSettings
from bastide.domain.units import format_bytes, format_duration
from bastide.policy.keepalive import Curve, stays

GIB = 2**30
# The one knob of `auto`: how many seconds of a user's waiting a GiB held for a second is worth.
WAIT_S_PER_GIB_S = 0.01
# An awake engine also costs wake-ups of its threads; worth this much memory, so that `frozen` has a place.
AWAKE_OVERHEAD_BYTES = 16 * 2**20
# Never sleep within this time of the last request, however cheap waking is: a conversation pauses.
IDLE_S_MIN = 5.0
# So many gaps must have been seen before they decide.
LEARNED_GAPS_MIN = 8
# It is woken ahead only for a time in which a request comes as likely as this: a wake takes processor time from others.
AHEAD_CHANCE_MIN = 0.25
# And only where that is worth so many times what it holds then: what is learned is never exact.
AHEAD_GAIN = 2.0
# What wakes sooner than anybody notices is not woken ahead.
AHEAD_WAKE_S_MIN = 0.03
# A rest shorter than this many wakes is none.
REST_WAKES_MIN = 10.0


@dataclass(frozen=True, slots=True)
class RungCost:
    """What resting on a rung holds on the device, in bytes, and what waking from it costs, in seconds."""

    held_bytes: int
    wake_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """Go to `rung` at idle time `at_idle_s` (seconds since the last request ended); to `awake`: be woken ahead."""

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


def learned(curve: Curve, costs: Mapping[Rung, RungCost], available: frozenset[Rung]) -> tuple[Step, ...]:
    """Every step of an instance whose arrivals are known, down and, ahead of what is expected, up again. In order of time.

    As `ladder` with `auto`, and for the same arguments.
    """
    rungs, rates = _by_rate(costs, available)
    # From where it is worth waking it from a rung: the rate at which a wake costs what is held, and clearly so.
    up = {r: AHEAD_GAIN * _dearer(costs, r) / max(costs[r].wake_s, 1e-9) for r in rungs if r is not Rung.AWAKE}
    bounds = sorted({*rates, *up.values()})
    found = list(stays(curve.chances, curve.bins, bounds))
    least = [bounds[stay.level - 1] if stay.level else 0.0 for stay in found]  # the rate it comes up to, at least
    steps: list[Step] = []
    resting: Rung = Rung.AWAKE
    kept_until_s = 0.0
    for place, stay in enumerate(found):
        rung = rungs[bisect_right(rates, least[place])]
        if stay.from_s < kept_until_s:
            continue
        if rung.depth > resting.depth:
            at_s = max(stay.from_s, IDLE_S_MIN)
            if at_s < stay.to_s:
                steps.append(Step(rung, at_s, _why_down(curve, costs, resting, rung, at_s)))
                resting = rung
        elif resting is not Rung.AWAKE and least[place] >= up[resting]:
            # As long as it stays so likely: one wake for all of it. A rest too short for its wake is taken back.
            rate = up[resting]
            less = (later.from_s for later, low in zip(found[place:], least[place:], strict=True) if low < rate)
            to_s = next(less, found[-1].to_s)
            while steps and _too_short(steps[-1], costs, stay.from_s):
                steps.pop()
            resting = steps[-1].rung if steps else Rung.AWAKE
            wake_s = costs[resting].wake_s
            at_s = stay.from_s - wake_s
            if wake_s >= AHEAD_WAKE_S_MIN and curve.chance_between(at_s, to_s) >= AHEAD_CHANCE_MIN:
                steps.append(Step(Rung.AWAKE, at_s, _why_up(curve, at_s, to_s)))
                resting = Rung.AWAKE
            if resting is Rung.AWAKE:
                kept_until_s = to_s
    return tuple(steps)


def _too_short(step: Step, costs: Mapping[Rung, RungCost], until_s: float) -> bool:
    """Whether a rest that begins with this step is hardly longer than the wake from it."""
    return step.rung is not Rung.AWAKE and until_s - step.at_idle_s < (REST_WAKES_MIN + 1) * costs[step.rung].wake_s


def _dearer(costs: Mapping[Rung, RungCost], rung: Rung) -> float:
    """What a second awake costs more than one on this rung, in seconds of waiting."""
    return (_cost_bytes(Rung.AWAKE, costs) - _cost_bytes(rung, costs)) / GIB * WAIT_S_PER_GIB_S


def _by_rate(costs: Mapping[Rung, RungCost], available: frozenset[Rung]) -> tuple[list[Rung], list[float]]:
    """The rungs worth resting on, from that for when nobody is expected to the warmest, and the rates of requests per
    second at which each gives way to the next: the lower envelope of rent + rate * wake."""
    here = sorted({*available, Rung.AWAKE}, key=lambda rung: (_cost_bytes(rung, costs), costs[rung].wake_s))
    rungs, rates = [here[0]], list[float]()
    for rung in here[1:]:
        while costs[rung].wake_s < costs[rungs[-1]].wake_s:
            dearer = (_cost_bytes(rung, costs) - _cost_bytes(rungs[-1], costs)) / GIB * WAIT_S_PER_GIB_S
            rate = dearer / (costs[rungs[-1]].wake_s - costs[rung].wake_s)
            if not rates or rate > rates[-1]:
                rungs.append(rung)
                rates.append(rate)
                break
            rungs.pop()
            rates.pop()
    return rungs, rates


def _why_down(curve: Curve, costs: Mapping[Rung, RungCost], resting: Rung, rung: Rung, at_s: float) -> str:
    chance = curve.chance_between(at_s, at_s + 60.0)
    freed = _cost_bytes(resting, costs) - _cost_bytes(rung, costs)
    return (
        f"idle for {format_duration(at_s)}, and a request in the next minute comes with {chance:.1%} "
        f"(learned from {curve.gaps_seen} gaps): {rung.value} gives back {format_bytes(max(0, freed))} "
        f"and wakes in {format_duration(costs[rung].wake_s)}"
    )


def _why_up(curve: Curve, from_s: float, to_s: float) -> str:
    return (
        f"a request is expected until idle for {format_duration(to_s)}, with {curve.chance_between(from_s, to_s):.0%} "
        f"(learned from {curve.gaps_seen} gaps)"
    )


def next_step_s(steps: tuple[Step, ...], resting: Rung, idle_s: float, ahead_s: float | None = None) -> float | None:
    """The idle time at which there is something to do; may have passed. `ahead_s`: as for `step_due`."""
    if step_due(steps, resting, idle_s, ahead_s) is not None:
        return idle_s
    return next((step.at_idle_s for step in steps if step.at_idle_s > idle_s and step.rung is not resting), None)


def step_due(steps: tuple[Step, ...], resting: Rung, idle_s: float, ahead_s: float | None = None) -> Step | None:
    """The step whose time has come, where the instance is not there already; steps that were slept through are left out.

    Up only to `awake`; whoever rests deeper than it was to, for it gave way to another, stays there. `ahead_s`: the idle
    time of the step by which it was last woken ahead, which is not taken twice.
    """
    due = next((step for step in reversed(steps) if step.at_idle_s <= idle_s), None)
    if due is None or due.rung is resting:
        return None
    if due.rung is Rung.AWAKE:
        return due if due.at_idle_s != ahead_s else None
    return due if due.rung.depth > resting.depth else None


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
