"""Who gives way: tables, then properties."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from bastide.policy.room import (
    SWAPPING_S_MAX,
    CannotFit,
    Fits,
    GiveWay,
    Resident,
    WaitForRoom,
    make_room,
    quantum_s,
    swapping,
    turn,
)

MIB = 2**20


def resident(name: str, **rest: object) -> Resident:
    fields: dict[str, object] = {
        "instance": name,
        "name": name,
        "held_bytes": 30 * MIB,
        "freed_bytes": 30 * MIB,
        "in_flight": 0,
        "idle_s": 100.0,
        "resident_s": 100.0,
        "wake_s": 0.1,
        "demand_per_s": 1 / 60,
    }
    return Resident(**(fields | rest))  # type: ignore[arg-type]


A, B = resident("a"), resident("b")


def test_room_is_there() -> None:
    assert isinstance(make_room(100 * MIB, 30 * MIB, (A, B)), Fits)


def test_the_least_regretted_gives_way() -> None:
    busy_soon = replace(B, demand_per_s=1.0, idle_s=1.0)
    decision = make_room(80 * MIB, 30 * MIB, (busy_soon, A))
    assert isinstance(decision, GiveWay) and decision.victims == ("a",)
    assert "idle for" in decision.reason
    slow = replace(A, wake_s=10.0)
    decision = make_room(80 * MIB, 30 * MIB, (slow, B))
    assert isinstance(decision, GiveWay) and decision.victims == ("b",)


def test_only_as_many_as_needed() -> None:
    large = resident("large", held_bytes=60 * MIB, freed_bytes=60 * MIB, wake_s=0.1)
    decision = make_room(120 * MIB, 60 * MIB, (A, B, large))
    assert isinstance(decision, GiveWay) and decision.victims == ("large",)


def test_the_pinned_never_give_way() -> None:
    decision = make_room(60 * MIB, 30 * MIB, (replace(A, pinned=True), replace(B, pinned=True)))
    assert isinstance(decision, CannotFit) and "must stay awake" in decision.reason


def test_what_never_fits_is_refused_at_once() -> None:
    decision = make_room(60 * MIB, 61 * MIB, (A,))
    assert isinstance(decision, CannotFit) and "61.0 MiB" in decision.reason


def test_a_newcomer_keeps_its_place_for_a_quantum() -> None:
    fresh = (replace(A, resident_s=0.2, idle_s=0.2), replace(B, resident_s=0.5, idle_s=0.5))
    decision = make_room(60 * MIB, 30 * MIB, fresh, swapping_s=SWAPPING_S_MAX)
    assert isinstance(decision, WaitForRoom) and 0 < decision.look_again_s <= 1.0


def test_while_little_went_into_swaps_nobody_waits_for_one_that_is_idle() -> None:
    fresh = (replace(A, resident_s=0.2, idle_s=0.2), replace(B, resident_s=0.05, idle_s=0.05))
    decision = make_room(60 * MIB, 30 * MIB, fresh)
    assert isinstance(decision, GiveWay) and decision.victims == ("a",), "b was only just woken"
    assert swapping(2.0, 10.0) == 1.0 and swapping(2.0, 60.0) == 0.0, "a tenth of the time is allowed for it"


def test_turns_go_round_the_projects() -> None:
    """One with many services that wait, one with a single one that comes later."""
    served = 0.0
    many = list(itertools.accumulate(range(50), lambda last, _: turn(served, last), initial=turn(served, None)))
    assert many == sorted(many) and turn(served, None) == served <= many[1]
    served = many[10]
    assert turn(served, None) <= many[11], "whoever comes new waits for one of the others at most"
    assert turn(served, many[-1]) > many[-1], "and who floods waits behind his own"


def test_a_busy_one_is_drained_only_after_its_quantum() -> None:
    busy = replace(A, in_flight=2, idle_s=0.0, resident_s=1.0)
    decision = make_room(30 * MIB, 30 * MIB, (busy,))
    assert isinstance(decision, WaitForRoom)
    assert abs(decision.look_again_s - (quantum_s(0.1) - 1.0)) < 1e-9
    decision = make_room(30 * MIB, 30 * MIB, (replace(busy, resident_s=60.0),))
    assert isinstance(decision, GiveWay) and decision.drain == ("a",)


def test_who_is_leaving_already_is_waited_for() -> None:
    decision = make_room(60 * MIB, 30 * MIB, (A, replace(B, moving=True)), leaving_bytes=30 * MIB)
    assert isinstance(decision, WaitForRoom)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[int, int, tuple[Resident, ...]]:
    residents = []
    for number in range(draw(st.integers(0, 8))):
        held = draw(st.integers(1, 100)) * MIB
        in_flight = draw(st.integers(0, 2))
        residents.append(
            resident(
                f"r{number}",
                held_bytes=held,
                freed_bytes=draw(st.integers(0, held)),
                in_flight=in_flight,
                idle_s=0.0 if in_flight else draw(st.floats(0, 1000)),
                resident_s=draw(st.floats(0, 1000)),
                wake_s=draw(st.floats(0.001, 30)),
                demand_per_s=draw(st.floats(1e-6, 100)),
                pinned=draw(st.booleans()),
                moving=draw(st.booleans()),
            )
        )
    return draw(st.integers(1, 400)) * MIB, draw(st.integers(0, 200)) * MIB, tuple(residents)


@given(fleets())
def test_whatever_is_decided_is_safe(fleet: tuple[int, int, tuple[Resident, ...]]) -> None:
    budget, need, residents = fleet
    decision = make_room(budget, need, residents)
    held = sum(r.held_bytes for r in residents)
    by_name = {r.instance: r for r in residents}
    match decision:
        case Fits():
            assert held + need <= budget
        case GiveWay(victims, drain, _):
            chosen = [by_name[name] for name in victims]
            assert not any(r.pinned or r.moving for r in chosen)
            assert held + need - sum(r.freed_bytes for r in chosen) <= budget
            assert {r.instance for r in chosen if r.in_flight} == set(drain)
            assert all(by_name[name].resident_s >= quantum_s(by_name[name].wake_s) for name in drain)
            # Nobody gives way for nothing.
            for spared in chosen:
                others = sum(r.freed_bytes for r in chosen if r is not spared)
                assert held + need - others > budget
        case WaitForRoom(look_again_s, _):
            assert held + need > budget and look_again_s > 0
        case CannotFit():
            assert need > budget - sum(r.held_bytes for r in residents if r.pinned)
