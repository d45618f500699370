"""Forecasts: believed only where they were better than 'nothing changes'."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.forecast import DAY_S, TREND_MAX, Forecast


def test_a_trend_is_seen() -> None:
    forecast = Forecast()
    for step in range(200):
        forecast.saw(15.0 * step, 1.0 * step, 60.0)
    assert forecast.expected(3000.0, 200.0, 60.0) == pytest.approx(204.0, abs=1.0)


def test_a_day_like_the_day_before_is_seen() -> None:
    """A jump at the same time each day, which no trend can see."""
    forecast = Forecast()
    for step in range(3 * 1440):
        at_s = 60.0 * step
        forecast.saw(at_s, 50.0 if at_s % DAY_S >= DAY_S / 2 else 5.0, 900.0)
        if at_s % DAY_S >= DAY_S / 2 - 60 and at_s > 2.4 * DAY_S:
            break
    assert forecast.expected(at_s, 5.0, 900.0) >= 5.0


def test_noise_is_not_believed() -> None:
    forecast = Forecast()
    for step in range(500):
        forecast.saw(15.0 * step, 5.0, 60.0)
    assert forecast.expected(7500.0, 9.0, 60.0) == 9.0
    assert Forecast().expected(0.0, 3.0, 60.0) == 3.0, "nothing is known"


@given(st.lists(st.tuples(st.floats(-50, 500), st.floats(0, 1e6)), max_size=60), st.floats(0, 1000))
def test_it_is_bounded(history: list[tuple[float, float]], lead_s: float) -> None:
    forecast, at_s, highest = Forecast(), 0.0, 1.0
    for passed_s, load in history:
        at_s += passed_s
        highest = max(highest, load)
        forecast.saw(at_s, load, lead_s)
        expected = forecast.expected(at_s, load, lead_s)
        assert math.isfinite(expected) and 0 <= expected <= TREND_MAX * highest
