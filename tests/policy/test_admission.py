"""Rates: over any stretch of time no more is taken than the bucket holds and gains; shares sum to the limit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.admission import Bucket, refilled, retry_after_s, share, taken, token_estimate, wait_s

RATES = st.integers(1, 10_000)


@given(limit=st.integers(0, 10**6), count=st.integers(1, 64))
def test_shares_sum_to_the_limit_and_differ_by_one_at_most(limit: int, count: int) -> None:
    parts = [share(limit, rank, count) for rank in range(count)]
    assert sum(parts) == limit and max(parts) - min(parts) <= 1


@given(rate=RATES, steps=st.lists(st.floats(0, 30), min_size=1, max_size=200))
def test_no_more_passes_than_the_bucket_holds_and_gains(rate: int, steps: list[float]) -> None:
    now_s, passed = 0.0, 0
    bucket = Bucket(float(rate), 0.0)
    for step_s in steps:
        now_s += step_s
        bucket = refilled(bucket, rate, now_s)
        if wait_s(bucket, rate) == 0:
            bucket, passed = taken(bucket, 1), passed + 1
    assert passed <= rate + now_s * rate / 60 + 1e-6


@given(rate=RATES, debt=st.floats(0, 10**6))
def test_after_the_wait_it_passes_and_not_before(rate: int, debt: float) -> None:
    bucket = Bucket(-debt, 0.0)
    wait = wait_s(bucket, rate)
    assert wait > 0
    assert wait_s(refilled(bucket, rate, wait * 1.000001 + 1e-6), rate) == 0
    assert wait_s(refilled(bucket, rate, wait * 0.99), rate) > 0


@given(rate=RATES, level=st.floats(-1000, 1000), back_s=st.floats(0, 1000))
def test_a_clock_that_steps_back_takes_nothing_away(rate: int, level: float, back_s: float) -> None:
    bucket = Bucket(min(level, float(rate)), 1000.0)
    assert refilled(bucket, rate, 1000.0 - back_s) == bucket


def test_a_share_of_nought_never_passes() -> None:
    bucket = refilled(Bucket(0.0, 0.0), 0, 10**9)
    assert wait_s(bucket, 0) == math.inf and retry_after_s(math.inf) == 3600


@pytest.mark.parametrize(("seconds", "told"), [(0.01, 1), (1.0, 1), (1.2, 2), (59.9, 60), (10**9, 3600)])
def test_waits_are_told_in_whole_seconds(seconds: float, told: float) -> None:
    assert retry_after_s(seconds) == told


def test_estimates() -> None:
    assert token_estimate(400, 1, 50) == 150
    assert token_estimate(400, 2, None) == 612
