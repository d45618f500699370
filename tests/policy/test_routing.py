"""Routing: weights are kept, the lowest instance fills first, and one wake serves many who wait."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.routing import Act, Candidate, Stance, nearest, pick, service_order

LEASED, WAKING, ASLEEP, REFUSED = Stance.LEASED, Stance.WAKING, Stance.ASLEEP, Stance.REFUSED
CANDIDATES = st.lists(st.builds(Candidate, st.sampled_from(Stance), st.integers(0, 6)), max_size=8)


@pytest.mark.parametrize(
    ("candidates", "waiting", "act", "index"),
    [
        ([(LEASED, 0)], 1, Act.USE, 0),
        ([(LEASED, 3), (LEASED, 0)], 1, Act.USE, 0),
        ([(LEASED, 4), (LEASED, 2)], 1, Act.USE, 1),
        ([(ASLEEP, 0), (LEASED, 2)], 1, Act.USE, 1),
        ([(LEASED, 4), (ASLEEP, 0), (ASLEEP, 0)], 1, Act.WAKE, 1),
        ([(ASLEEP, 0), (ASLEEP, 0)], 1, Act.WAKE, 0),
        ([(WAKING, 0), (ASLEEP, 0)], 4, Act.WAIT, -1),
        ([(WAKING, 0), (ASLEEP, 0)], 5, Act.WAKE, 1),
        ([(WAKING, 0)], 100, Act.WAIT, -1),
        ([(LEASED, 4)], 9, Act.WAIT, -1),
        ([(LEASED, 4), (REFUSED, 0)], 9, Act.WAIT, -1),
        ([(REFUSED, 0), (ASLEEP, 0)], 1, Act.WAKE, 1),
        ([(REFUSED, 0)], 1, Act.GIVE_UP, -1),
        ([], 1, Act.GIVE_UP, -1),
    ],
)
def test_pick(candidates: list[tuple[Stance, int]], waiting: int, act: Act, index: int) -> None:
    choice = pick([Candidate(*candidate) for candidate in candidates], 4, waiting)
    assert (choice.act, choice.index) == (act, index)
    assert choice.reason


@given(candidates=CANDIDATES, target=st.integers(1, 5), waiting=st.integers(1, 20))
def test_a_pick_is_always_possible(candidates: list[Candidate], target: int, waiting: int) -> None:
    choice = pick(candidates, target, waiting)
    free = [n for n, c in enumerate(candidates) if c.stance is LEASED and c.in_flight < target]
    if choice.act is Act.USE:
        assert choice.index == free[0]
    else:
        assert not free
    if choice.act is Act.WAKE:
        assert candidates[choice.index].stance is ASLEEP
    if choice.act is Act.GIVE_UP:
        assert all(candidate.stance is REFUSED for candidate in candidates)


@given(
    weighted=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9)), unique_by=lambda pair: pair[0]),
    fallbacks=st.lists(st.sampled_from("abcdefgh"), unique=True),
    usable=st.sets(st.sampled_from("abcdefgh")),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_the_order_holds_each_usable_service_once(
    weighted: list[tuple[str, int]], fallbacks: list[str], usable: set[str], draw: float
) -> None:
    order = service_order(weighted, fallbacks, usable.__contains__, draw)
    expected = {name for name, weight in weighted if weight > 0} | set(fallbacks)
    assert set(order) == expected & usable and len(set(order)) == len(order)
    live = [name for name, weight in weighted if weight > 0 and name in usable]
    if live:
        assert order[0] in live


def test_weights_are_kept() -> None:
    firsts = Counter(service_order([("a", 3), ("b", 1)], [], lambda _: True, n / 1000)[0] for n in range(1000))
    assert firsts == {"a": 750, "b": 250}


@pytest.mark.parametrize(
    ("ready", "chosen", "why"),
    [
        ([(0, 0.0), (0, 0.0)], 0, "none has read any of it: the lowest, so that the highest may sleep"),
        ([(3, 0.0), (0, 0.0)], 0, "load alone does not spread it"),
        ([(0, 0.0), (0, 0.9)], 1, "the one that has read it"),
        ([(0, 0.0), (2, 0.9)], 1, "even a busy one, where it saves more than its queue costs"),
        ([(0, 0.0), (3, 0.3)], 0, "not for little"),
        ([(0, 0.5), (0, 0.6)], 0, "nor for a little more"),
        ([(0, 0.0), (1, 0.9), (0, 0.9)], 2, "of two that have read it, the idle one"),
        ([(2, 1.0), (0, 0.0)], 0, "the lowest has read it itself"),
    ],
)
def test_nearest(ready: list[tuple[int, float]], chosen: int, why: str) -> None:
    assert nearest(ready, 4) == chosen, why


def test_nearest_needs_one() -> None:
    with pytest.raises(ValueError):
        nearest([], 4)
