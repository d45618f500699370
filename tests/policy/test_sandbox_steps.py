"""When sandboxes rest and end, and how many spares are kept: time passes by a later `now_s`."""

from __future__ import annotations

import pytest

from bastide.policy.sandboxes import (
    PAUSE_AFTER_S,
    REST_AFTER_S,
    WATCH_S,
    WORKS_CORES,
    Idle,
    Step,
    next_step,
    spares_wanted,
)

REST_S = 1000.0 + REST_AFTER_S
WATCHED = {"watched_s": REST_S - WATCH_S}


def idle(**changes: object) -> Idle:
    usual = {
        "running": True, "resting": False, "in_use": 0, "last_used_s": 1000.0, "expires_s": 5000.0, "can_pause": True,
    }  # fmt: skip
    return Idle(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "now_s", "step"),
    [
        (idle(), 1000.0, Step.NOTHING),
        (idle(), REST_S - WATCH_S, Step.WATCH),
        (idle(**WATCHED), REST_S - 0.1, Step.NOTHING),
        (idle(**WATCHED), REST_S, Step.REST),
        (idle(**WATCHED, cores=0.03), REST_S, Step.REST),
        (idle(**WATCHED, cores=WORKS_CORES), REST_S, Step.WATCH),
        (idle(**WATCHED, cores=2.0), 1000.0 + PAUSE_AFTER_S, Step.WATCH),
        (idle(**WATCHED), 1000.0 + PAUSE_AFTER_S, Step.PAUSE),
        (idle(), 1000.0 + PAUSE_AFTER_S, Step.WATCH),
        (idle(running=False, resting=True), REST_S, Step.NOTHING),
        (idle(running=False, resting=True), 1000.0 + PAUSE_AFTER_S, Step.PAUSE),
        (idle(can_pause=False, running=False, resting=True), 1000.0 + PAUSE_AFTER_S, Step.NOTHING),
        (idle(in_use=1), 1000.0 + PAUSE_AFTER_S, Step.NOTHING),
        (idle(**WATCHED, cores=2.0), 5000.0, Step.END),
        (idle(in_use=1), 5000.0, Step.END),
        (idle(running=False), 5000.0, Step.END),
        (idle(running=False), 4000.0, Step.NOTHING),
    ],
)
def test_steps(state: Idle, now_s: float, step: Step) -> None:
    verdict = next_step(state, now_s)
    assert verdict.step is step
    assert verdict.reason


def test_it_is_looked_at_again_when_something_is_due() -> None:
    assert next_step(idle(), 1000.0).look_again_s == REST_S - WATCH_S
    assert next_step(idle(), REST_S - WATCH_S).look_again_s == REST_S
    assert next_step(idle(running=False, resting=True), REST_S).look_again_s == 1000.0 + PAUSE_AFTER_S
    assert next_step(idle(**WATCHED, cores=1.0), REST_S).look_again_s == REST_S + REST_AFTER_S
    assert next_step(idle(expires_s=1005.0), 1000.0).look_again_s == 1005.0
    assert next_step(idle(in_use=2), 1000.0).look_again_s == 5000.0


def test_spares_follow_use() -> None:
    assert spares_wanted(4, None, 0.0) == 0
    assert spares_wanted(4, 100.0, 101.0) == 4
    assert spares_wanted(4, 100.0, 100.0 + 3600) == 0
