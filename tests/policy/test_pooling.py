"""Turns on a shared device: deadlines first, switches seldom, bounded wait."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.pooling import (
    MARGIN_S,
    MOVE_S,
    STAY_LOADS,
    TURN_S,
    Candidate,
    Held,
    batch_order_s,
    comes_to_it_s,
    due_s,
    gives_way,
    load_ahead,
    meanwhile,
    next_turn,
)

LONG_S = 1000.0


def test_who_runs_goes_on_until_somebody_is_urgent() -> None:
    running = Candidate("a", 9.0, 0.0, running=True)
    turn = next_turn([running, Candidate("b", MARGIN_S + 1, 0.0)], LONG_S)
    assert turn.index == 0 and turn.reason.startswith("a goes on: b can wait 5")
    assert next_turn([running, Candidate("b", MARGIN_S - 1, 0.0)], LONG_S).index == 1


def test_who_is_idle_takes_the_most_urgent() -> None:
    assert next_turn([Candidate("a", 9.0, 0.0), Candidate("b", 8.0, 0.0)], LONG_S).index == 1


def test_a_load_must_pay_for_itself_before_the_next() -> None:
    held, other = Candidate("a", 9.0, 0.0), Candidate("b", 0.0, 1.0)
    assert next_turn([held, other], STAY_LOADS - 0.1).index == 0
    assert next_turn([held, other], STAY_LOADS).index == 1
    assert next_turn([other], 0.0).index == 0, "nobody else has work: it may load at once"


def test_what_another_device_holds_is_left_to_it_unless_it_would_be_late_there() -> None:
    own = Candidate("own", 60.0, 0.0)
    in_time = Candidate("a", 2.0, 0.7, elsewhere_s=2.0)
    late = Candidate("a", 2.0, 0.7, elsewhere_s=2.1)
    assert next_turn([own, in_time], LONG_S).index == 0
    assert next_turn([own, late], LONG_S).index == 1
    assert next_turn([Candidate("own", 0.6, 0.0), late], LONG_S).index == 0, "its own can't wait for the load"
    assert next_turn([own, Candidate("a", -1.0, 0.7, elsewhere_s=0.5)], LONG_S).index == 0, "no sooner here"


def test_who_has_nothing_to_do_takes_what_is_urgent_elsewhere() -> None:
    assert next_turn([Candidate("a", MARGIN_S + 1, 0.7, elsewhere_s=0.1)], LONG_S).index is None
    assert next_turn([Candidate("a", MARGIN_S, 0.7, elsewhere_s=0.1)], LONG_S).index == 0


def test_when_a_device_comes_to_a_model() -> None:
    assert comes_to_it_s(0.3, (), 5.0) == 0.3
    assert comes_to_it_s(0.3, (1.0, 9.0, 4.0), 5.0) == pytest.approx(0.3 + 2 * TURN_S)


def test_a_second_copy_is_not_worth_the_place_of_one_with_work() -> None:
    own, late = Candidate("own", 60.0, 0.0), Candidate("a", 2.0, 0.7, elsewhere_s=2.1)
    assert next_turn([own, replace(late, displaces=True)], LONG_S).index == 0
    assert next_turn([replace(late, displaces=True)], LONG_S).index is None
    assert load_ahead([replace(late, displaces=True)]).index is None
    assert load_ahead([Candidate("nowhere", 2.0, 0.7, displaces=True)]).index == 0, "nobody else has it"


def test_a_device_does_not_stand_still_for_a_load() -> None:
    comes, soon = Candidate("comes", 1.0, 0.7), Candidate("comes", 0.5, 0.3)
    held, busy = Candidate("held", 3.0, 0.0), Candidate("busy", 2.0, 0.0, elsewhere_s=0.4)
    turn = meanwhile([comes, held, busy], 0, False)
    assert turn.index == 1 and turn.reason.endswith("comes is loaded meanwhile")
    assert meanwhile([comes, busy], 0, False).index == 0, "what another device runs is not its own"
    assert meanwhile([soon, held], 0, True).index == 0, "it has no time for another's turn"
    assert meanwhile([replace(soon, due_s=0.9), held], 0, True).index == 1


def test_nobody_waits_for_ever_behind_those_that_are_held_and_late() -> None:
    held = [Candidate("a", -1.0, 0.0, running=True), Candidate("b", -1.0, 0.0)]
    assert next_turn([*held, Candidate("c", -9.0, 0.7)], LONG_S).index == 0
    assert next_turn([*held, Candidate("c", -9.4, 0.7)], LONG_S).index == 2
    assert next_turn([Candidate("a", math.inf, 0.0)], LONG_S).index == 0


def test_a_cache_is_moved_for_who_is_due_much_sooner() -> None:
    assert batch_order_s(5.0, False) < batch_order_s(5.0 - MOVE_S + 0.1, True)
    assert batch_order_s(5.0, False) > batch_order_s(5.0 - MOVE_S - 0.1, True)


def test_nobody_has_work() -> None:
    assert next_turn([], LONG_S).index is None


@given(
    st.lists(st.builds(Candidate, st.text(max_size=3), st.floats(-60, 60), st.sampled_from([0.0, 0.7])), min_size=1),
    st.floats(0, 99),
)
def test_somebody_who_has_work_always_gets_a_turn(candidates: list[Candidate], since_load_s: float) -> None:
    turn = next_turn(candidates, since_load_s)
    assert turn.index is not None and turn.reason
    held_late = [c for c in candidates if c.load_s == 0 and c.slack_s <= 0]
    if held_late:
        assert candidates[turn.index].slack_s <= MARGIN_S, "no one with time to spare goes before one who is late here"


@pytest.mark.parametrize(
    ("candidates", "index"),
    [
        ((Candidate("here", 1.0, 0.0), Candidate("next", 2.0, 0.7)), 1),  # what it holds needs no loading
        ((Candidate("later", 3.0, 0.7), Candidate("sooner", 2.0, 0.7)), 1),
        ((Candidate("next", MARGIN_S + 1, 0.7),), None),  # it can wait, and a place is worth something
        ((Candidate("theirs", 2.0, 0.7, elsewhere_s=1.9),), None),  # left to who holds it
        ((Candidate("theirs", 2.0, 0.7, elsewhere_s=2.1),), 0),  # unless it would be late there
        ((Candidate("theirs", 0.1, 0.7, elsewhere_s=0.6),), None),  # and sooner here
        ((), None),
    ],
)
def test_what_is_loaded_while_another_runs(candidates: tuple[Candidate, ...], index: int | None) -> None:
    turn = load_ahead(candidates)
    assert turn.index == index and turn.reason


def test_who_must_run_later_gives_its_place_to_what_is_loaded_ahead() -> None:
    soon = Candidate("soon", 2.0, 0.7)
    assert load_ahead((soon,), gives_way_due_s=2.0 + TURN_S).index == 0
    assert load_ahead((soon,), gives_way_due_s=1.9 + TURN_S).index is None, "it would be missed as soon"


@pytest.mark.parametrize(
    ("held", "index"),
    [
        ((Held("soon", 1.0), Held("later", 3.0)), 1),  # it is missed last
        ((Held("later", 3.0), Held("idle"), Held("idle too")), 1),
        ((Held("later", 9.0), Held("twice", 1.0, elsewhere=True)), 1),  # somebody else can run it
        ((Held("twice", 1.0, elsewhere=True), Held("idle")), 1),
        ((Held("twice", 1.0, elsewhere=True), Held("twice later", 2.0, elsewhere=True)), 1),
        ((), None),
    ],
)
def test_who_gives_way(held: tuple[Held, ...], index: int | None) -> None:
    turn = gives_way(held)
    assert turn.index == index and turn.reason


def test_a_first_token_goes_before_the_next_of_a_stream() -> None:
    assert due_s(3.0, 3.0) < due_s(math.inf, 3.0) == 3.0
    assert due_s(math.inf, math.inf) == math.inf
