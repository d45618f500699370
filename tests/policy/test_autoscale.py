"""How many copies: each signal by hand, then what must hold whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.autoscale import DOWN_EVERY_S, DOWN_WINDOW_S, Load, Memory, Target, needed, scale

TEN = Target(in_flight=10, most=20)


@pytest.mark.parametrize(
    ("load", "target", "mean", "copies", "why"),
    [
        (Load(0, 0, 0), TEN, 0.0, 0, "nobody asks"),
        (Load(0, 1, 0), TEN, 0.0, 1, "in flight and queued"),
        (Load(25, 6, 2), TEN, 0.0, 4, "in flight and queued"),
        (Load(100, 0, 10), TEN, 100.0, 11, "a steady load"),  # (100 + 10 / 2) / 10
        (Load(4, 0, 1), TEN, 4.0, 1, "in flight and queued"),  # one copy has the room that chance asks for
        (Load(1, 0, 2, tokens_per_s=2500), Target(10, most=20, tokens_per_s=1000), 1.0, 3, "tokens a second"),
        (Load(1, 0, 4, kv_share=1.0), TEN, 1.0, 5, "memory for context"),
        (Load(40, 3, 4, first_token_s=9), Target(10, most=20, first_token_s=5), 40.0, 6, "first tokens come late"),
        (Load(1, 0, 4, first_token_s=9), Target(10, most=20, first_token_s=5), 1.0, 1, "in flight and queued"),
        (Load(5, 0, 1, expected=35), TEN, 5.0, 4, "what is expected"),
        (Load(0, 0, 1, warm=True), TEN, 0.0, 1, "its next request may come any minute"),
        (Load(0, 0, 0), Target(10, least=2, most=20), 0.0, 2, "the least there must be"),
        (Load(900, 0, 20), TEN, 900.0, 20, "a steady load asks for 92, and 20 is the most"),
    ],
)
def test_the_largest_ask_wins(load: Load, target: Target, mean: float, copies: int, why: str) -> None:
    found = needed(load, target, mean)
    assert (found.copies, found.reason) == (copies, why)


def test_up_at_once_down_slowly() -> None:
    found, memory = scale(Load(95, 0, 1), TEN, Memory(), 0.0)
    assert found.copies == 10
    quiet = Load(5, 0, 10)
    found, memory = scale(quiet, TEN, memory, DOWN_WINDOW_S - 1)
    assert found.copies == 10, "what was needed within the window is kept"
    found, memory = scale(quiet, TEN, memory, 3 * DOWN_WINDOW_S)
    assert (found.copies, found.reason) == (5, "down slowly: in flight and queued"), "half of them at most"
    found, memory = scale(Load(5, 0, 5), TEN, memory, 3 * DOWN_WINDOW_S + 1)
    assert found.copies == 5, "and then it waits"
    found, memory = scale(Load(5, 0, 5), TEN, memory, 3 * DOWN_WINDOW_S + DOWN_EVERY_S)
    assert found.copies == 3


def test_a_clock_that_jumps_back_begins_anew() -> None:
    _, memory = scale(Load(95, 0, 1), TEN, Memory(), 10_000.0)
    found, memory = scale(Load(5, 0, 1), TEN, memory, 50.0)
    assert found.copies == 1 and memory.peaks == ((50.0, 1),)


loads = st.builds(
    Load,
    st.floats(0, 1000),
    st.floats(0, 1000),
    st.integers(0, 40),
    st.integers(0, 10),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.floats(0, 100),
    st.floats(0, 2000),
    st.booleans(),
)
targets = st.builds(
    lambda slots, least, more: Target(slots, least, least + more, 500.0, 0.85, 5.0),
    st.floats(0.5, 64),
    st.integers(0, 3),
    st.integers(1, 40),
)


@given(targets, st.lists(st.tuples(loads, st.floats(-100, 2000)), min_size=1, max_size=40))
def test_whatever_comes(target: Target, history: list[tuple[Load, float]]) -> None:
    """Always within the bounds, never below what holds the target, and what is remembered stays small."""
    memory, now_s = Memory(), 1000.0
    for load, passed_s in history:
        now_s += passed_s
        found, memory = scale(load, target, memory, now_s)
        assert target.least <= found.copies <= target.most
        holds = min(target.most, needed(load, target, memory.mean).copies)
        assert found.copies >= holds
        assert len(memory.peaks) <= target.most + 1
