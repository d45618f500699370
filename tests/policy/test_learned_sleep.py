"""Sleep by what is learned of a service's arrivals: tables, then properties."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastide.domain.lifecycle import Rung
from bastide.policy.keepalive import GAPS_MAX, GRADED, MINUTES, Bins, Rhythm, stays
from bastide.policy.sleep import IDLE_S_MIN, WAIT_S_PER_GIB_S, RungCost, Step, learned, next_step_s, step_due

MIB = 2**20
GIB = 2**30
# A model of 8 GiB that wakes in 4 s from what is kept, in 12 s from nothing, and in 0.8 s once paged out.
LARGE = {
    Rung.AWAKE: RungCost(8 * GIB, 0.0),
    Rung.FROZEN: RungCost(8 * GIB, 0.002),
    Rung.LIGHT: RungCost(2 * GIB, 0.8),
    Rung.DEEP: RungCost(4 * MIB, 4.0),
    Rung.OFF: RungCost(0, 12.0),
}
HERE = frozenset({Rung.FROZEN, Rung.DEEP, Rung.OFF})
EVERY = HERE | {Rung.LIGHT}


def rhythm(gaps_s: list[float]) -> Rhythm:
    made = Rhythm(GRADED)
    for gap_s in gaps_s:
        made.saw(gap_s)
    return made


def steps_of(gaps_s: list[float], available: frozenset[Rung] = HERE) -> tuple[Step, ...]:
    return learned(rhythm(gaps_s).curve(), LARGE, available)


def drawn(mean_s: float, count: int = 200, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [5 + chance.expovariate(1 / mean_s) for _ in range(count)]


def test_one_with_a_period_goes_at_once_and_is_back_in_time() -> None:
    """What it would hold for ten minutes is worth 49 s of waiting; a wake is 4 s, and it comes when it comes."""
    down, up, again, *_ = steps_of([600.0] * 30)
    assert down.rung in (Rung.DEEP, Rung.OFF) and down.at_idle_s == IDLE_S_MIN
    assert up.rung is Rung.AWAKE and 570 < up.at_idle_s < 600 - LARGE[down.rung].wake_s
    assert up.reason.startswith("a request is expected until idle for 10m") and "learned from 30 gaps" in up.reason
    assert again.rung is not Rung.AWAKE and 600 < again.at_idle_s < 630
    assert "gives back" in again.reason


@pytest.mark.parametrize(
    ("mean_s", "deep_by_s"),
    # A wake of 4 s is worth 4 / (0.01 x 8) = 50 s of holding: who comes more often than that is kept, within reason.
    [(10.0, (20.0, 200.0)), (2000.0, (IDLE_S_MIN, IDLE_S_MIN))],
)
def test_who_comes_often_is_kept_and_who_comes_seldom_is_not(mean_s: float, deep_by_s: tuple[float, float]) -> None:
    first = next(step for step in steps_of(drawn(mean_s)) if not step.rung.has_process)
    assert deep_by_s[0] <= first.at_idle_s <= deep_by_s[1]


def test_a_rung_between_is_used_where_it_holds() -> None:
    assert Rung.LIGHT in [step.rung for step in steps_of(drawn(60.0), EVERY)]
    assert Rung.LIGHT not in [step.rung for step in steps_of(drawn(60.0), HERE)]


def test_bursts_are_let_go_after_the_burst() -> None:
    chance = random.Random(3)
    gaps = [
        g for _ in range(40) for g in (*(chance.uniform(6, 9) for _ in range(5)), chance.expovariate(1 / 5000) + 10)
    ]
    steps = steps_of(gaps)
    first = next(step for step in steps if not step.rung.has_process)
    assert first.at_idle_s <= 30.0
    assert all(step.rung is not Rung.AWAKE for step in steps), "nobody can know when the next one comes"


def test_due_once() -> None:
    steps = steps_of([600.0] * 30)
    up = steps[1]
    late_s = up.at_idle_s + 1.0
    assert step_due(steps, Rung.DEEP, late_s) == up or steps[0].rung is Rung.OFF
    assert step_due(steps, Rung.OFF, late_s) == up
    assert step_due(steps, Rung.OFF, late_s, up.at_idle_s) is None, "woken ahead and gone again: not twice"
    assert next_step_s(steps, Rung.OFF, late_s, up.at_idle_s) is None or steps[2].rung is not Rung.OFF
    assert next_step_s(steps, Rung.AWAKE, late_s) == steps[2].at_idle_s, "and down again, should nobody come"
    assert step_due(steps, Rung.OFF, 100.0) is None, "who rests deeper than it was to stays there"


gaps = st.lists(st.one_of(st.floats(0.1, 100), st.floats(100, 100_000)), min_size=1, max_size=60)


@settings(max_examples=60)
@given(gaps, st.sets(st.sampled_from(sorted(EVERY)), min_size=1))
def test_every_plan_is_in_order_and_holds_to_its_rungs(gaps_s: list[float], available: set[Rung]) -> None:
    steps = steps_of(gaps_s, frozenset(available))
    assert all(step.rung in available | {Rung.AWAKE} for step in steps)
    assert all(step.at_idle_s >= IDLE_S_MIN for step in steps if step.rung is not Rung.AWAKE)
    for earlier, later in itertools.pairwise(steps):
        assert later.at_idle_s > earlier.at_idle_s
        assert later.rung is Rung.AWAKE or later.rung.depth > earlier.rung.depth
    assert not steps or steps[0].rung is not Rung.AWAKE


@settings(max_examples=40)
@given(gaps)
def test_at_every_moment_the_chosen_rung_is_the_cheapest(gaps_s: list[float]) -> None:
    """The rule itself, on what it expects: between two rungs, rent against the chance times the wake."""
    made = rhythm(gaps_s)
    rent = {rung: LARGE[rung].held_bytes / GIB * WAIT_S_PER_GIB_S for rung in (Rung.AWAKE, Rung.DEEP)}
    rate = (rent[Rung.AWAKE] - rent[Rung.DEEP]) / LARGE[Rung.DEEP].wake_s
    for stay in stays(made.chances(), made.bins, (rate,)):
        first, last = made.bins.of(stay.from_s + 1e-6), made.bins.of(stay.to_s)
        for number, chance in enumerate(itertools.islice(made.chances(), first, last + 1), first):
            width_s = made.bins.widths_s[number]
            awake, deep = rent[Rung.AWAKE] * width_s, rent[Rung.DEEP] * width_s + chance * LARGE[Rung.DEEP].wake_s
            assert (awake <= deep + 1e-9) if stay.level else (deep <= awake + 1e-9)


def test_without_memory_demand_is_the_rate() -> None:
    for mean_s in (20.0, 200.0):
        chance = random.Random(7)
        curve = rhythm([chance.expovariate(1 / mean_s) for _ in range(1000)]).curve()
        for idle_s in (0.0, mean_s / 2, mean_s):
            assert 0.6 / mean_s < curve.demand_per_s(idle_s) < 1.4 / mean_s


def test_demand_rises_towards_what_is_expected_and_falls_after_it() -> None:
    curve = rhythm([1800.0] * 40).curve()
    assert curve.demand_per_s(1780.0) > 20 * curve.demand_per_s(60.0)
    assert curve.demand_per_s(4000.0) < curve.demand_per_s(1780.0) / 20
    assert curve.chance_between(1700.0, 1900.0) > 0.7 > 0.1 > curve.chance_between(100.0, 900.0)


@given(gaps, st.floats(0, 200_000), st.floats(0, 200_000))
@settings(max_examples=40)
def test_chances_between_two_moments_are_chances(gaps_s: list[float], one_s: float, other_s: float) -> None:
    curve, from_s, to_s = rhythm(gaps_s).curve(), min(one_s, other_s), max(one_s, other_s)
    assert 0 <= curve.chance_between(from_s, to_s) <= 1
    assert curve.demand_per_s(from_s) > 0


def test_a_rhythm_is_bounded_forgets_and_is_made_again_from_what_it_remembers() -> None:
    old = rhythm([3600.0] * GAPS_MAX)
    for _ in range(GAPS_MAX):
        old.saw(60.0)
    assert old.gaps_seen == GAPS_MAX
    assert old.gaps() == rhythm([60.0] * GAPS_MAX).gaps(), "what was long ago is forgotten"
    again = Rhythm(GRADED, old.gaps())
    assert list(again.chances()) == pytest.approx(list(old.chances()))
    assert Rhythm(GRADED, [10**9, -5]).gaps_seen == 2, "numbers that make no sense are taken to the edge"


@pytest.mark.parametrize("bins", [MINUTES, GRADED])
def test_bins_cover_a_day_without_a_hole(bins: Bins) -> None:
    assert bins.ends_s[-1] >= 86_400 and all(width_s > 0 for width_s in bins.widths_s)
    for number in range(0, len(bins.ends_s), 37):
        assert bins.of(bins.ends_s[number]) == number and bins.of(bins.start_s(number) + 1e-3) == number
    assert bins.of(1e9) == len(bins.ends_s) - 1
