"""Keep-alive: one knob, learned from a service's own arrivals."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.keepalive import HORIZON_BINS, PAUSE_PART, PAUSE_S_MIN, Rhythm, Warm, warm_times

MINUTE = 60.0


def rhythm(*gaps_s: float) -> Rhythm:
    made = Rhythm()
    for gap_s in gaps_s:
        made.saw(gap_s)
    return made


def test_nothing_known_stays_warm_for_a_while_and_is_let_go() -> None:
    (only,) = warm_times(Rhythm())
    assert only.from_s == 0 and 5 * MINUTE <= only.to_s <= 30 * MINUTE
    assert "nothing is known of it yet" in only.reason


def test_a_period_is_let_go_and_is_back_in_time() -> None:
    found = list(warm_times(rhythm(*[3600.0] * 24)))
    back = next(warm for warm in found if warm.from_s <= 59 * MINUTE and warm.to_s >= 60 * MINUTE)
    assert back.to_s - back.from_s <= 5 * MINUTE and "learned from 24 gaps" in back.reason
    assert sum(warm.to_s - warm.from_s for warm in found) < 20 * MINUTE


def test_one_gap_that_follows_another_is_learned() -> None:
    """Ten minutes, fifty, ten, fifty: after a ten it is not kept for another ten."""
    learned = rhythm(*[600.0, 3000.0] * 20, 600.0)
    warm = list(warm_times(learned, until_s=HORIZON_BINS * MINUTE))
    assert any(w.from_s <= 49 * MINUTE and w.to_s >= 50 * MINUTE for w in warm)
    best = max(warm, key=lambda w: w.chance)
    assert best.from_s >= 45 * MINUTE


@given(st.lists(st.floats(0, 100_000), max_size=30), st.floats(0, 50_000), st.floats(1, 3))
def test_more_worth_is_more_warmth(gaps: list[float], worth_s: float, more: float) -> None:
    made = rhythm(*gaps)
    less = sum(warm.to_s - warm.from_s for warm in warm_times(made, worth_s))
    assert sum(warm.to_s - warm.from_s for warm in warm_times(made, worth_s * more)) >= less
    edges = [edge for warm in warm_times(made, worth_s) for edge in (warm.from_s, warm.to_s)]
    assert edges == sorted(set(edges)), "in order, apart, never empty"


@given(st.lists(st.floats(0, 10_000), max_size=30))
def test_chances_are_chances(gaps: list[float]) -> None:
    assert all(0 <= chance <= 1 for chance in rhythm(*gaps).chances())


@given(st.lists(st.floats(0, 100_000), max_size=30), st.floats(60, 50_000))
def test_a_short_pause_is_not_taken(gaps: list[float], worth_s: float) -> None:
    found = list(warm_times(rhythm(*gaps), worth_s))
    least_s = min(PAUSE_S_MIN, PAUSE_PART * worth_s)
    assert all(after.from_s - before.to_s >= least_s for before, after in pairwise(found))
    each = [
        moment for warm in warm_times(rhythm(*gaps), worth_s, pause_s_min=0.0) for moment in (warm.from_s, warm.to_s)
    ]
    assert all(any(warm.from_s <= moment <= warm.to_s for warm in found) for moment in each), "only pauses go"


def test_it_is_cut_off_where_asked() -> None:
    assert [(w.from_s, w.to_s) for w in warm_times(Rhythm(), 1e6, until_s=120.0)] == [(0.0, 120.0)]


def test_worth_nothing_keeps_nothing_and_less_is_refused() -> None:
    assert list(warm_times(Rhythm(), 0)) == []
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="can't be worth"):
            list(warm_times(Rhythm(), wrong))


def test_the_reason_is_one_line() -> None:
    assert Warm(0, 600, 0.25, 3).reason == (
        "warm until idle for 10m 00s: up to 25.0% that a request comes in any minute of it (learned from 3 gaps)"
    )
