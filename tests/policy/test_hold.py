"""Holding: bounded queues, bounded waits, and something said in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.domain.spec import HoldSettings
from bastide.policy import hold as policy

HOLDS = st.builds(HoldSettings, st.floats(0.1, 3600), st.integers(1, 1000))


@given(hold=HOLDS, queued=st.integers(0, 2000))
def test_the_queue_is_bounded(hold: HoldSettings, queued: int) -> None:
    assert policy.may_queue(hold, queued) == (queued < hold.queue_max)


@given(hold=HOLDS, expected=st.none() | st.floats(0, 10**6))
def test_a_refused_client_is_told_a_sane_time(hold: HoldSettings, expected: float | None) -> None:
    assert 1 <= policy.queue_retry_after_s(hold, expected) <= 60


@given(hold=HOLDS, streams=st.booleans())
def test_a_held_stream_speaks_in_time_and_the_wait_ends(hold: HoldSettings, streams: bool) -> None:
    waited_s, spoke_s, silence_s = 0.0, None, 0.0
    for _ in range(1000):
        moment_s = policy.next_moment_s(waited_s, hold, streams, spoke_s)
        assert moment_s <= hold.wait_s_max
        silence_s = max(silence_s, moment_s - (spoke_s or 0.0)) if streams else 0.0
        if moment_s >= hold.wait_s_max:
            break
        assert moment_s > waited_s
        waited_s = spoke_s = moment_s
    else:
        raise AssertionError("the wait never ended")
    assert silence_s <= policy.SPEAK_EVERY_S + 1e-6


@pytest.mark.parametrize(
    ("text", "fraction", "said"),
    [
        ("", None, "waking chat"),
        ("loading weights", 0.62, "waking chat, loading weights 62 %"),
        ("a\nb", 7.0, "waking chat, a b 100 %"),
    ],
)
def test_comments(text: str, fraction: float | None, said: str) -> None:
    assert policy.comment("chat", text, fraction) == said
