"""When jobs run: overlaps are left out, of missed times one is made up for, what was cut off is taken up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.jobs import Act, Standing, look

HOURLY = Standing(True, 3600.0, False, False, 0, 1)
ONCE = Standing(False, None, False, False, 0, 1)


@pytest.mark.parametrize(
    ("standing", "now_s", "act", "moves_on"),
    [
        (HOURLY, 3599.9, Act.NOTHING, False),
        (HOURLY, 3600.0, Act.BEGIN, True),
        (HOURLY, 9 * 3600.0, Act.BEGIN, True),  # away for hours: one run, then the next time after now
        (replace(HOURLY, running=True), 3600.0, Act.LEAVE_OUT, True),
        (replace(HOURLY, running=True), 3599.0, Act.NOTHING, False),
        (replace(HOURLY, cut_off=True), 100.0, Act.TAKE_UP, False),
        (replace(HOURLY, cut_off=True), 3600.0, Act.TAKE_UP, False),  # what was begun is ended first
        (replace(HOURLY, due_s=None), 0.0, Act.NOTHING, True),  # its first time is to be found
        (ONCE, 0.0, Act.BEGIN, False),
        (replace(ONCE, ran_generation=1), 0.0, Act.NOTHING, False),
        (replace(ONCE, running=True), 0.0, Act.NOTHING, False),
        (replace(ONCE, ran_generation=1, cut_off=True), 0.0, Act.TAKE_UP, False),
    ],
)
def test_what_happens(standing: Standing, now_s: float, act: Act, moves_on: bool) -> None:
    verdict = look(standing, now_s)
    assert (verdict.act, verdict.moves_on) == (act, moves_on)
    assert act is Act.NOTHING or verdict.reason


@given(
    st.booleans(), st.none() | st.floats(0, 1e6), st.booleans(), st.booleans(), st.integers(0, 3), st.integers(1, 3),
    st.floats(0, 1e6),
)  # fmt: skip
def test_never_two_at_once_and_never_stuck(
    scheduled: bool, due_s: float | None, running: bool, cut_off: bool, ran: int, generation: int, now_s: float
) -> None:
    verdict = look(Standing(scheduled, due_s, running, cut_off, ran, generation), now_s)
    if running:
        assert verdict.act in (Act.NOTHING, Act.LEAVE_OUT)
    if verdict.act in (Act.BEGIN, Act.LEAVE_OUT) and scheduled:
        assert verdict.moves_on, "else it would be due for ever"
