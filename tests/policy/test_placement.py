"""Placement: filter, score, choose, with the reason; and that what is kept is what would be computed anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastide.policy.fleet import Fleet, NodeShape, Request
from bastide.policy.placement import Mix, NoPlace, Place, Placer, costs, growth, stranded


def node(name: str, cpu: int = 16, devices: int = 2, model: str = "A", **rest: object) -> NodeShape:
    return NodeShape(name, cpu * 1000, 65536, devices, model, **rest)  # type: ignore[arg-type]


ONE = Request(4000, 1024, 1, 1000)
HALF = Request(1000, 1024, 1, 500)


def placer(fleet: Fleet, *expected: tuple[Request, float]) -> Placer:
    return Placer(fleet, costs(Mix.expected(expected or ((ONE, 1.0), (HALF, 1.0)), fleet)))


def place(chosen: Placer, request: Request) -> str:
    found = chosen.choose(request)
    if isinstance(found, NoPlace):
        return "-"
    chosen.fleet.take(found.node, request, found.device)
    return chosen.fleet.shapes[found.node].name


def test_a_share_joins_the_device_that_is_shared_already() -> None:
    fleet = Fleet([node("a"), node("b")])
    chosen = placer(fleet)
    assert [place(chosen, HALF) for _ in range(2)] == ["a", "a"]
    assert fleet.free_milli[0].tolist() == [0, 1000]


def test_equal_places_go_to_the_first_node_and_empty_nodes_stay_whole() -> None:
    chosen = placer(Fleet([node("a", cpu=64), node("b", cpu=64)]))
    assert [place(chosen, ONE) for _ in range(3)] == ["a", "a", "b"]


def test_cores_that_devices_will_need_are_left_to_them() -> None:
    """Both nodes can take it; on the first one, its devices could not be fed any more."""
    fleet = Fleet([node("few-cores", cpu=16, devices=4), node("many-cores", cpu=64, devices=4)])
    assert place(placer(fleet, (ONE, 1.0)), Request(8000, 1024)) == "many-cores"


def test_a_model_that_others_need_is_left_to_them() -> None:
    fleet = Fleet([node("sought", model="A"), node("common", model="B")])
    only_a = Request(4000, 1024, 1, 1000, models=frozenset({"A"}))
    assert place(placer(fleet, (ONE, 1.0), (only_a, 1.0)), ONE) == "common"


def test_it_goes_where_it_wakes_soonest_unless_that_costs_too_much() -> None:
    chosen = placer(Fleet([node("a"), node("b")]))
    near = chosen.choose(ONE, wake_s=[30.0, 0.5])
    assert isinstance(near, Place) and near.node == 1 and "answers there in 0.5 s" in near.reason


def test_residency_and_power_are_filters() -> None:
    fleet = Fleet([node("here", location="be"), node("there", location="us", power_w=100)])
    chosen = placer(fleet)
    assert place(chosen, Request(1000, 1, locations=frozenset({"us"}))) == "there"
    hungry = Request(1000, 1, locations=frozenset({"us"}), power_w=200)
    found = chosen.choose(hungry)
    assert isinstance(found, NoPlace) and found.reason == "of 2 nodes, 1 in us, 0 with 200 W free"


def test_no_place_says_what_is_missing() -> None:
    found = placer(Fleet([node("a"), node("b", model="B")])).choose(Request(1000, 1, 4, 1000, frozenset({"B"})))
    assert found == NoPlace("of 2 nodes, 1 with B, 0 with 4 unused devices free")


def test_what_is_missing_is_told_anew_once_a_node_changes() -> None:
    fleet = Fleet([node("a", devices=1), node("b", devices=1)])
    used = fleet.take(0, ONE)
    assert fleet.missing(ONE) == fleet.missing(ONE) == "of 2 nodes, 1 with 1 unused devices free"
    fleet.take(1, ONE)
    assert fleet.missing(ONE) == "of 2 nodes, 0 with 1 unused devices free"
    fleet.give_back(0, ONE, used)
    fleet.set_open(1, False)
    assert fleet.missing(ONE) == "of 2 nodes, 1 open"


def test_taking_what_is_not_there_is_refused() -> None:
    fleet = Fleet([node("a", devices=1)])
    fleet.take(0, ONE)
    with pytest.raises(ValueError, match="does not fit"):
        fleet.take(0, ONE)


def test_what_is_taken_and_given_back_leaves_no_trace() -> None:
    fleet = Fleet([node("a")])
    used = fleet.take(0, HALF, 1)
    assert used == (1,) and fleet.free_milli[0].tolist() == [1000, 500]
    fleet.give_back(0, HALF, used)
    assert fleet.free_milli[0].tolist() == [1000, 1000] and fleet.cpu_free_milli[0] == 16000


REQUESTS = st.sampled_from(
    [ONE, HALF, Request(2000, 1024), Request(8000, 1024, 2, 1000), Request(500, 100, 1, 190), Request(500, 100, 1, 810)]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(REQUESTS, st.booleans()), max_size=30))
def test_kept_costs_are_those_computed_anew(steps: list[tuple[Request, bool]]) -> None:
    fleet = Fleet([node("a"), node("b", cpu=64, devices=4), node("c", cpu=8, devices=1)])
    mix = Mix.expected([(request, 1.0) for request, _ in steps] or [(ONE, 1.0)], fleet)
    kept = Placer(fleet, costs(mix))
    placed: list[tuple[int, Request, tuple[int, ...]]] = []
    for request, leaves in steps:
        if leaves and placed:
            fleet.give_back(*placed.pop(0))
        fresh = Placer(fleet, costs(mix))
        found = kept.choose(request)
        assert found == fresh.choose(request)
        if isinstance(found, Place):
            # What the choice says it strands is what is stranded once it is done.
            nodes = np.array([found.node])
            grown, _ = growth(mix, fleet, request, nodes)
            before = stranded(mix, fleet, nodes)[0]
            placed.append((found.node, request, fleet.take(found.node, request, found.device)))
            after = stranded(mix, fleet, nodes)[0]
            assert (after - before) / 1000 == pytest.approx(grown[0, max(0, found.device)])
        assert (fleet.free_milli >= 0).all() and (fleet.cpu_free_milli >= 0).all()
