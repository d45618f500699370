"""Guards, one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.admission import Bucket
from bastide.policy.backoff import CRASHES_MAX
from bastide.policy.guards import (
    NODE_ASIDE_S,
    NODE_FAILURES_MAX,
    NODE_WINDOW_S,
    Health,
    after_failure,
    drain,
    hangs,
    mass_change,
    node_takes_start,
    start_failed,
    start_succeeded,
    starts_now,
)


def test_a_herd_is_spread_and_one_never_waits() -> None:
    granted, bucket = starts_now(500, Bucket(60.0, 0.0), 60, 0.0)
    assert granted == 60
    assert starts_now(440, bucket, 60, 0.5)[0] == 0
    granted, bucket = starts_now(440, bucket, 60, 10.0)
    assert granted == 10
    assert starts_now(1, Bucket(60.0, 0.0), 60, 1e6)[0] == 1


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 100)), max_size=50))
def test_never_more_than_the_rate(asks: list[tuple[int, float]]) -> None:
    bucket, now_s, total = Bucket(60.0, 0.0), 0.0, 0
    for wanted, passed_s in asks:
        now_s += passed_s
        granted, bucket = starts_now(wanted, bucket, 60, now_s)
        assert 0 <= granted <= wanted
        total += granted
        assert total <= 60 + now_s + 1e-6


def test_a_desired_state_that_lacks_many_is_not_believed() -> None:
    assert mass_change(100, 90) is None
    assert "lacks 40 of 100" in str(mass_change(100, 60))
    assert mass_change(6, 2) is None, "so few are looked at one by one"
    assert mass_change(100, 0, confirmed=True) is None


def test_who_is_busy_finishes() -> None:
    assert not drain(2, 30.0).ends and "finishes 2 in flight" in drain(2, 30.0).reason
    assert drain(0, 30.0).ends


def test_a_crash_loop_is_left() -> None:
    retry, waits = after_failure(0, 1.0), []
    while retry.wait_s is not None:
        waits.append(retry.wait_s)
        retry = after_failure(retry.failures, 1.0)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0] and retry.failures == CRASHES_MAX
    assert after_failure(4, 3600.0).failures == 1, "it lived long in between"


def test_a_node_that_fails_is_set_aside_longer_each_time() -> None:
    health = Health()
    for step in range(NODE_FAILURES_MAX):
        health = start_failed(health, float(step))
    assert health.aside_until_s == NODE_FAILURES_MAX - 1 + NODE_ASIDE_S
    for step in range(NODE_FAILURES_MAX):
        health = start_failed(health, 100.0 + step)
    assert health.aside_until_s == 102.0 + 2 * NODE_ASIDE_S
    assert start_succeeded(health).times == 0
    slow = Health()
    for step in range(10):
        slow = start_failed(slow, step * NODE_WINDOW_S)
    assert slow.aside_until_s == 0.0, "now and then is no pattern"


def test_starts_on_one_node_and_starts_that_hang() -> None:
    assert node_takes_start(7) and not node_takes_start(8)
    assert not hangs(29.0, 1.0) and hangs(31.0, 1.0) and not hangs(100.0, 60.0)
