"""The fleet's planner and its check: by hand, then whatever happens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastide.policy.fleet import WHOLE, Fleet, NodeShape, Request
from bastide.policy.fleetcheck import Books, check
from bastide.policy.fleetplan import Planner
from bastide.policy.fleetstate import Copy, FleetPlan, Start, Stop, Wanted
from bastide.policy.placement import Mix, costs

SHAPES = (
    NodeShape("a0", 64_000, 262_144, 4, "L", "a", 2000),
    NodeShape("a1", 64_000, 262_144, 4, "L", "a"),
    NodeShape("b0", 32_000, 131_072, 2, "S", "b"),
)
SHARE = Request(2000, 8000, 1, 400, frozenset({"L"}), power_w=200)
ONE = Request(4000, 16_000, 1, WHOLE, frozenset({"L", "S"}), power_w=300)
PAIR = Request(8000, 32_000, 2, WHOLE, frozenset({"L"}), frozenset({"a"}), 600)


def planner(shapes: tuple[NodeShape, ...] = SHAPES, location_power_w: dict[str, int] | None = None) -> Planner:
    fleet = Fleet(shapes, location_power_w)
    return Planner(fleet, costs(Mix.expected([(SHARE, 1.0), (ONE, 1.0), (PAIR, 1.0)], fleet)))


def verdict(made: FleetPlan, books: Books | None = None, **rest: object) -> list[str]:
    borders = {"s": frozenset({"a"})}
    found = check(
        made, SHAPES, books or Books(), lambda name: borders.get(name, frozenset()), lambda node: True, 0.0, **rest  # type: ignore[arg-type]
    )  # fmt: skip
    return [one.reason for one in found]


def test_only_what_changed_is_planned() -> None:
    made = planner()
    made.want(Wanted("s", 2, (SHARE,)))
    made.want(Wanted("t", 1, (PAIR,)))
    first = made.plan()
    assert [(start.copy.instance, start.copy.request) for start in first.starts] == [
        ("t.0", PAIR), ("s.0", SHARE), ("s.1", SHARE),
    ]  # the larger first  # fmt: skip
    assert made.plan() == FleetPlan() == made.plan_all(), "the same again: nothing to do"
    made.want(Wanted("s", 1, (SHARE,)))
    later = made.plan(busy=lambda instance: instance == "s.1")
    assert [rest.instance for rest in later.rests] == ["s.0"], "who is busy stays"
    assert later.rests[0].reason == "1 wanted, 2 awake"


def test_what_rests_wakes_where_it_is() -> None:
    made = planner()
    made.want(Wanted("s", 1, (SHARE,)))
    (start,) = made.plan().starts
    made.rested("s.0", Request(0, 16_000))
    made.want(Wanted("s", 0, (SHARE,)))
    made.plan()
    assert (
        int(made.fleet.free_milli.sum()) == 10 * WHOLE and int(made.fleet.memory_free_mib[start.copy.node]) == 246_144
    )
    made.want(Wanted("s", 1, (SHARE,)))
    wake_s = np.full(3, 30.0)
    wake_s[start.copy.node] = 0.7
    (again,) = made.plan(lambda service, ways: wake_s).starts
    assert again.wakes and again.copy.instance == "s.0" and again.copy.node == start.copy.node
    assert "answers there in 0.7 s" in again.reason


def test_nothing_fits_and_then_room_comes() -> None:
    made = planner()
    made.want(Wanted("t", 5, (PAIR,)))
    plan = made.plan()
    assert len(plan.starts) == 4 - 1 or len(plan.starts) == 4
    (lacks,) = plan.unplaced
    assert lacks.service == "t" and "of 3 nodes, 2 in a" in lacks.reason
    assert made.waits()
    made.gone(plan.starts[0].copy.instance)
    assert made.plan().starts, "room came, so it is planned though nobody said its name"


def test_a_lost_node_is_replaced_and_a_removed_service_ends() -> None:
    made = planner()
    made.want(Wanted("s", 3, (SHARE,)))
    node = made.plan().starts[0].copy.node
    lost = made.node_lost(node)
    again = made.plan()
    assert lost and {start.copy.node for start in again.starts} == {1 - node}
    made.want(Wanted("s", 0, (SHARE,), removed=True))
    assert {stop.asked for stop in made.plan().stops} == {True}
    made.forget("s")
    assert {stop.asked for stop in made.plan().stops} == {False}


def test_many_together_are_placed_as_one_by_one() -> None:
    shapes = tuple(replace(SHAPES[1], name=f"n{index}") for index in range(40))
    together, single = planner(shapes), planner(shapes)
    for index in range(200):
        together.want(Wanted(f"s{index}", 1, (SHARE,)))
    assert len(together.plan().starts) == 200
    for index in range(200):
        single.want(Wanted(f"s{index}", 1, (SHARE,)))
        single.plan()
    used = [int((made.fleet.instances > 0).sum()) for made in (together, single)]
    assert used[0] <= used[1] + 2, "and not spread over more nodes"


def test_a_location_draws_no_more_than_it_may() -> None:
    made = planner(location_power_w={"a": 700})
    made.want(Wanted("s", 9, (replace(ONE, models=frozenset({"L"})),)))
    assert len(made.plan().starts) == 2


GOOD = Copy("s.0", "s", 0, (0,), SHARE)


@pytest.mark.parametrize(
    ("copies", "said"),
    [
        ([GOOD, GOOD], "s.0 would be there twice"),
        ([replace(GOOD, node=7)], "node 7 is not there"),
        ([replace(GOOD, node=2)], "s may not be in b, only in a"),
        ([replace(GOOD, service="t", node=2)], "b0 has S, and t needs L"),
        ([replace(GOOD, devices=(0, 1))], "asks for 1 devices and is given (0, 1)"),
        ([replace(GOOD, devices=(9,))], "a0 has no device 9"),
        ([replace(GOOD, instance=f"s.{n}") for n in range(3)], "device 0 of a0 would be given out 1.2 times"),
        ([replace(GOOD, request=replace(SHARE, cpu_milli=70_000))], "thousandths of a core"),
        ([replace(GOOD, request=replace(SHARE, power_w=2100))], "a0 would draw 2100 W of 2000"),
    ],
)
def test_the_check_adds_up_for_itself(copies: list[Copy], said: str) -> None:
    reasons = verdict(FleetPlan(tuple(Start(copy, "") for copy in copies)))
    assert len(reasons) == 1 and said in reasons[0]


def test_the_check_knows_what_is_there() -> None:
    books = Books()
    books.holds(replace(GOOD, instance="t.0", service="t", request=replace(SHARE, device_milli=WHOLE)))
    assert "given out 1.4 times" in verdict(FleetPlan((Start(GOOD, ""),)), books)[0]
    books.ended("t.0")
    assert verdict(FleetPlan((Start(GOOD, ""),)), books) == []
    books.holds(GOOD)
    more = Start(replace(GOOD, instance="s.1"), "")
    assert "has 1 copies by the books, and may have 1" in verdict(FleetPlan((more,)), books, most=lambda name: 1)[0]
    assert "a would draw 400 W of 300" in verdict(FleetPlan((more,)), books, location_power_w={"a": 300})[0]
    asleep = replace(GOOD, devices=(), request=Request(0, 8000), resting=True)
    books.holds(asleep)
    assert verdict(FleetPlan((Start(GOOD, "", wakes=True),)), books) == []
    assert "twice" in verdict(FleetPlan((Start(GOOD, ""),)), books)[0]


def test_ending_many_that_nobody_asked_to_end_is_refused_all_at_once_and_by_and_by() -> None:
    books = Books()
    for number in range(20):
        books.holds(replace(GOOD, instance=f"s.{number}"))
    stops = tuple(Stop(f"s.{number}", "s", "", asked=False) for number in range(6))
    assert len(verdict(FleetPlan(stops=stops), books)) == 6
    assert verdict(FleetPlan(stops=stops), books, confirmed=True) == []
    assert verdict(FleetPlan(stops=tuple(replace(stop, asked=True) for stop in stops)), books) == []
    books.stopped_unasked(0.0, 4)
    assert len(verdict(FleetPlan(stops=stops[:3]), books)) == 3, "with the four a moment ago"


requests = st.builds(
    lambda kind, models, locations, power: replace(kind, models=models, locations=locations, power_w=power),
    st.sampled_from((SHARE, ONE, PAIR, replace(SHARE, device_milli=250), Request(1000, 4000))),
    st.sampled_from((frozenset[str](), frozenset({"L"}), frozenset({"S", "L"}))),
    st.sampled_from((frozenset[str](), frozenset({"a"}), frozenset({"a", "b"}))),
    st.sampled_from((0, 100, 300)),
)
moves = st.lists(
    st.tuples(
        st.sampled_from(("want", "gone", "rest", "lose", "back", "forget")), st.integers(0, 5), st.integers(0, 4)
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(requests, min_size=6, max_size=6), moves)
def test_whatever_happens_the_check_agrees_and_nothing_is_lost(
    kinds: list[Request], history: list[tuple[str, int, int]]
) -> None:
    """After any history: the check refuses nothing the planner starts, the picture's sums are right, and what is given back
    is all there again."""
    made, books, closed = planner(location_power_w={"a": 2500}), Books(), set[int]()
    for move, index, number in history:
        service, there = f"s{index}", list(made.copies)
        if move == "want":
            made.want(Wanted(service, number, (kinds[index],)))
        elif move == "forget":
            made.forget(service)
        elif move == "lose":
            closed.add(index % 3)
            for copy in made.node_lost(index % 3):
                books.ended(copy.instance)
        elif move == "back":
            closed.discard(index % 3)
            made.node_back(index % 3)
        elif there:
            instance = there[number % len(there)]
            if move == "gone":
                made.gone(instance)
                books.ended(instance)
            elif not made.copies[instance].resting:
                made.rested(instance, Request(0, 1000))
                books.holds(made.copies[instance])
        plan = made.plan()
        borders = {f"s{n}": kind.locations for n, kind in enumerate(kinds)}
        refused = check(
            plan, SHAPES, books, borders.__getitem__, lambda node: node not in closed, 0.0, True, {"a": 2500}
        )
        assert refused == ()
        for start in plan.starts:
            books.holds(start.copy)
        for stop in plan.stops:
            made.gone(stop.instance)
            books.ended(stop.instance)
        assert books.at == made.copies
        for service_, wanted in made.wanted.items():
            lacks = sum(one.copies for one in plan.unplaced if one.service == service_)
            awake = sum(1 for copy in made.of(service_).values() if not copy.resting)
            assert awake <= max(wanted.copies, awake) and lacks >= 0
    for instance in list(made.copies):
        made.gone(instance)
    assert made.fleet.free_milli.sum() == 10 * WHOLE and made.fleet.cpu_free_milli.sum() == 160_000
    assert made.fleet.location_power_free_w[0] == 2500


def test_the_log_of_changes_is_bounded() -> None:
    fleet = Fleet(SHAPES)
    mark = fleet.mark
    for _ in range(5000):
        fleet.give_back(0, SHARE, fleet.take(0, SHARE, 0))
    assert len(fleet._changed) <= 1024
    assert list(fleet.changed_since(mark)) == [0, 1, 2], "who has not looked for long looks at all"
    assert list(fleet.changed_since(fleet.mark - 1)) == [0] and list(fleet.changed_since(fleet.mark)) == []
