"""When an instance steps down: tables, then properties."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.domain.lifecycle import Rung
from bastide.domain.spec import SleepMode, SleepSettings
from bastide.policy.sleep import (
    AWAKE_OVERHEAD_BYTES,
    IDLE_S_MIN,
    WAIT_S_PER_GIB_S,
    RungCost,
    ladder,
    next_step_s,
    step_due,
)

MIB = 2**20
GIB = 2**30
ALL = frozenset(Rung) - {Rung.AWAKE}
TINY = {
    Rung.AWAKE: RungCost(42 * MIB, 0.0),
    Rung.FROZEN: RungCost(42 * MIB, 0.002),
    Rung.LIGHT: RungCost(4 * MIB, 0.02),
    Rung.DEEP: RungCost(1 * MIB, 0.03),
    Rung.OFF: RungCost(0, 0.06),
}
TIMED = SleepSettings(SleepMode.TIMERS, light_s=60.0, deep_s=1800.0)


def rungs(settings: SleepSettings, available: frozenset[Rung] = ALL) -> list[tuple[Rung, float]]:
    return [(step.rung, step.at_idle_s) for step in ladder(settings, TINY, available)]


@pytest.mark.parametrize(
    ("settings", "available", "expected"),
    [
        (SleepSettings(SleepMode.OFF), ALL, []),
        (TIMED, ALL, [(Rung.LIGHT, 60.0), (Rung.DEEP, 1800.0)]),
        # Light does not hold here: the next colder rung takes its place, once.
        (TIMED, frozenset({Rung.FROZEN, Rung.DEEP, Rung.OFF}), [(Rung.DEEP, 60.0)]),
        (SleepSettings(SleepMode.TIMERS, frozen_s=1.0), ALL, [(Rung.FROZEN, 1.0)]),
        # Two rungs at one time: the deeper.
        (SleepSettings(SleepMode.TIMERS, light_s=5.0, deep_s=5.0), ALL, [(Rung.DEEP, 5.0)]),
        (SleepSettings(SleepMode.TIMERS, light_s=5.0), frozenset[Rung](), []),
    ],
)
def test_timers(settings: SleepSettings, available: frozenset[Rung], expected: list[tuple[Rung, float]]) -> None:
    assert rungs(settings, available) == expected


def test_a_rung_that_does_not_hold_is_named() -> None:
    (step,) = ladder(TIMED, TINY, frozenset({Rung.DEEP}))
    assert "light does not hold on this machine" in step.reason


def test_auto_prefers_light_for_small_and_deep_for_large() -> None:
    large = {
        Rung.AWAKE: RungCost(1200 * MIB, 0.0),
        Rung.FROZEN: RungCost(1200 * MIB, 0.002),
        Rung.LIGHT: RungCost(350 * MIB, 1.5),
        Rung.DEEP: RungCost(0, 0.38),
        Rung.OFF: RungCost(0, 1.0),
    }
    auto = SleepSettings(SleepMode.AUTO)
    assert Rung.LIGHT in [step.rung for step in ladder(auto, TINY, ALL)]
    assert Rung.LIGHT not in [step.rung for step in ladder(auto, large, ALL)]
    assert Rung.DEEP in [step.rung for step in ladder(auto, large, ALL)]


def test_next_and_due() -> None:
    steps = ladder(TIMED, TINY, ALL)
    assert next_step_s(steps, Rung.AWAKE, 0.0) == 60.0
    assert next_step_s(steps, Rung.LIGHT, 60.0) == 1800.0
    assert next_step_s(steps, Rung.AWAKE, 70.0) == 70.0, "overdue"
    assert next_step_s(steps, Rung.DEEP, 2000.0) is None
    assert step_due(steps, Rung.AWAKE, 59.9) is None
    due = step_due(steps, Rung.AWAKE, 5000.0)
    assert due is not None and due.rung is Rung.DEEP, "what was slept through is not stepped through"


@st.composite
def costs(draw: st.DrawFn) -> dict[Rung, RungCost]:
    awake = draw(st.integers(MIB, 100 * GIB))
    wakes = [draw(st.floats(0, 100)) for _ in range(4)]
    held = [awake, *(draw(st.integers(0, awake)) for _ in range(3))]
    found = {Rung.AWAKE: RungCost(awake, 0.0)}
    for rung, wake_s, held_bytes in zip(list(Rung)[1:], wakes, held, strict=True):
        found[rung] = RungCost(held_bytes, wake_s)
    return found


@given(costs(), st.sets(st.sampled_from(sorted(ALL))))
def test_every_ladder_goes_down_and_never_too_soon(found: dict[Rung, RungCost], available: set[Rung]) -> None:
    steps = ladder(SleepSettings(SleepMode.AUTO), found, frozenset(available))
    assert all(step.rung in available for step in steps)
    assert all(step.at_idle_s >= IDLE_S_MIN for step in steps)
    for earlier, later in itertools.pairwise(steps):
        assert later.rung.depth > earlier.rung.depth
        assert later.at_idle_s >= earlier.at_idle_s
        assert found[later.rung].held_bytes <= found[earlier.rung].held_bytes


@st.composite
def proper_costs(draw: st.DrawFn) -> dict[Rung, RungCost]:
    """Each deeper rung holds less and wakes slower; for others (a light rung that wakes slower than deep) no bound holds."""
    found = draw(costs())
    held = sorted((cost.held_bytes for cost in found.values()), reverse=True)
    wakes = sorted(cost.wake_s for cost in found.values())
    return {rung: RungCost(*both) for rung, both in zip(Rung, zip(held, wakes, strict=True), strict=True)}


@given(proper_costs(), st.floats(0, 10_000))
def test_auto_costs_at_most_twice_what_foresight_would(found: dict[Rung, RungCost], idle_s: float) -> None:
    """Ski rental: whatever the idle time turns out to be, holding plus waking is within twice the best single choice."""

    def rate(rung: Rung) -> float:
        extra = AWAKE_OVERHEAD_BYTES if rung is Rung.AWAKE else 0
        return (found[rung].held_bytes + extra) / GIB * WAIT_S_PER_GIB_S

    steps = ladder(SleepSettings(SleepMode.AUTO), found, ALL)
    paid, at_s, resting = 0.0, 0.0, Rung.AWAKE
    for step in steps:
        if step.at_idle_s >= idle_s:
            break
        paid += (step.at_idle_s - at_s) * rate(resting)
        at_s, resting = step.at_idle_s, step.rung
    paid += (idle_s - at_s) * rate(resting) + found[resting].wake_s
    best = min(rate(rung) * idle_s + found[rung].wake_s for rung in Rung)
    patience = rate(Rung.AWAKE) * IDLE_S_MIN  # it never sleeps sooner, however cheap waking is
    assert paid <= 2 * best + patience + 1e-6
