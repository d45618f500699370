"""Control of a fleet where the simulator is kinder than life: reports late, doubled or of strangers, nodes that lag, stops that don't
get through, clocks that go back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from bastide.control.fleet import picture
from bastide.policy.fleet import NodeShape, Request
from bastide.policy.fleetstate import Copy
from bastide.sim.fleet.setup import Arrival, DeviceFacts, Fault, Location, Service, Setup, Trouble, Way
from bastide.sim.fleet.world import World

HALF = Request(1000, 4000, 1, 500, frozenset({"G"}))
STRANGER = Copy("zz.0", "zz", 0, (0,), HALF)


def world(*names: str, least: int = 0, nodes: int = 1, faults: tuple[Fault, ...] = ()) -> World:
    """It has begun, inventories included."""

    def none() -> Iterator[Arrival]:
        return iter(())

    way = Way(HALF, 1000.0, (0.0, 0.01, 0.02), 2, 10.0, 1.0, 0.5)
    made = World(
        Setup(
            (Location("here"),),
            tuple(NodeShape(f"n{number}", 64_000, 262_144, 8, "G", "here") for number in range(nodes)),
            tuple(Service(name, f"w-{name}", 10**9, (way,), none, least=least, most=3) for name in names),
            {"G": DeviceFacts(400.0, 100.0, 80 * 10**9)},
            1e9,
            faults=faults,
        )
    )
    for live in made.lives.values():
        made.gateway.begin(live)
    made.control.begin()
    made.control.begin_inventories()
    return made


def ask(world: World, name: str, answer: int = 50) -> None:
    world.gateway.ask(world.lives[name], world.now_s, 1.0, 0.0, 10, answer)


def passes(world: World, seconds: float) -> None:
    world.until(world.now_s + seconds)


def there(world: World) -> dict[str, str]:
    return {name: one.state for live in world.lives.values() for name, one in live.copies.items()}


def test_a_late_word_that_it_rests_does_not_undo_that_it_was_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    one = world("a")
    ask(one, "a")
    passes(one, 60)
    copy = one.lives["a"].copies["a.0"].copy
    late: list[Copy] = []
    rested = one.control.rested
    monkeypatch.setattr(one.control, "rested", late.append)
    one.agents.rest(copy)
    passes(one, 3)
    one.control.inventory(0)
    ask(one, "a", 50_000)
    passes(one, 4)
    rested(late[0])
    assert there(one) == {"a.0": "awake"}
    assert not one.control.planner.copies["a.0"].resting and one.control.picture.books.awake["a"] == 1


def test_a_death_that_is_told_three_times_counts_once() -> None:
    one = world("a", least=1)
    one.control.rescale("a")
    passes(one, 60)
    copy = one.lives["a"].copies["a.0"].copy
    one.agents.end(copy)
    for _ in range(3):
        one.control.died(copy, "out of memory", 1.0)
    assert one.control.services["a"].failures == 1 and one.control.planner.fleet.open.all()


def test_words_about_a_service_that_nobody_declared_change_nothing() -> None:
    one = world("a")
    for told in (one.control.started, one.control.rested, one.control.ended):
        told(STRANGER)
    one.control.died(STRANGER, "out of memory", 1.0)
    one.control.rescale("zz")
    one.control.asked("zz")
    assert one.control.planner.copies == {} and there(one) == {}


def test_what_nobody_declared_and_an_inventory_shows_ends() -> None:
    one = world("a", "b")
    ask(one, "b")
    passes(one, 20)
    one.control.declare(["a"])
    one.control.planner.forget("b")
    one.control.picture.is_gone("b.0")
    del one.control.services["b"]  # as if control had begun anew, without it
    passes(one, 31)
    assert there(one) == {}


def test_what_is_no_longer_declared_ends_and_stays_away_until_it_is_again() -> None:
    one = world("a", "b", least=1)
    for name in ("a", "b"):
        one.control.rescale(name)
    passes(one, 60)
    assert one.control.declare(["a"]) is None
    passes(one, 60)
    one.control.rescale("b")
    ask(one, "b")
    passes(one, 60)
    assert there(one) == {"a.0": "awake"}
    assert one.control.declare(["a", "b"]) is None
    passes(one, 60)
    assert sorted(there(one).values()) == ["awake", "awake"]


def test_a_stop_that_did_not_get_through_is_sent_again() -> None:
    one = world("a", "b", least=1, faults=(Fault(Trouble.LOCATION_CUT, 100.0, 50.0, "here"),))
    for name in ("a", "b"):
        one.control.rescale(name)
    passes(one, 110)
    assert one.control.declare(["a"]) is None
    passes(one, 30)
    assert len(there(one)) == 2, "the node can't be reached"
    passes(one, 60)
    assert there(one) == {"a.0": "awake"}


class Lags:
    """A view of a node that is so old."""

    def __init__(self, world: World, by_s: float) -> None:
        self._world, self._by_s, self._find = world, by_s, world.agents.find

    def __call__(self, service: str, instance: str) -> Any:
        found = self._find(service, instance)
        young = found is not None and found.state == "starting" and self._world.now_s - found.began_s < self._by_s
        return None if young else found


def test_a_start_that_hangs_is_ended_though_the_view_of_its_node_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    one = world("a")
    one.agents.nodes[0].hangs = True
    monkeypatch.setattr(one.agents, "find", Lags(one, 2.0))
    ask(one, "a")
    passes(one, 100)
    assert one.control.counts.starts_failed["the start hangs"] >= 1


def test_a_start_that_hangs_and_takes_a_while_to_end_is_not_taken_for_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    one = world("a")
    one.agents.nodes[0].hangs = True
    end = one.agents.end
    monkeypatch.setattr(one.agents, "end", lambda copy: one.at(one.now_s + 1.0, end, copy))
    ask(one, "a")
    while not one.control.counts.starts_failed:
        passes(one, 1)
    assert one.control.planner.copies == {}


def test_the_timer_of_one_start_does_not_end_the_next() -> None:
    one = world("a")
    ask(one, "a")
    passes(one, 20)
    one.agents.rest(one.lives["a"].copies["a.0"].copy)
    passes(one, 18)  # shortly before the first start would be taken to hang
    one.agents.nodes[0].slow = 8.0
    ask(one, "a")
    passes(one, 20)
    assert there(one) == {"a.0": "awake"} and not one.control.counts.starts_failed


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0])
def test_a_node_that_was_set_aside_is_back_in_time_however_the_clock_jumps(jump_s: float) -> None:
    one = world("a")
    for number in range(3):
        one.control._failed(Copy(f"a.{number}", "a", 0, (0,), HALF), "its disk is full", 0.0)
    assert not one.control.planner.fleet.open[0]
    passes(one, 10)
    one.clock_shift_s += jump_s
    passes(one, 20)
    assert not one.control.planner.fleet.open[0]
    passes(one, 60)
    assert one.control.planner.fleet.open[0]


def test_a_node_that_was_set_aside_stays_so_when_its_link_is_back() -> None:
    one = world("a", faults=(Fault(Trouble.LOCATION_CUT, 10.0, 2.0, "here"),))
    for number in range(3):
        one.control._failed(Copy(f"a.{number}", "a", 0, (0,), HALF), "its disk is full", 0.0)
    passes(one, 15)
    assert not one.control.planner.fleet.open[0]
    passes(one, 60)
    assert one.control.planner.fleet.open[0]


def test_rounds_go_on_after_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = world("a")
    plans = []

    def plan(*given: Any) -> Any:
        plans.append(one.now_s)
        raise OSError("the store is away")

    monkeypatch.setattr(one.control.planner, "plan", plan)
    for _ in range(3):
        with pytest.raises(OSError, match="away"):
            passes(one, 15)
    assert len(plans) == 3


def test_who_ended_is_forgotten_in_time_and_older_inventories_are_not_believed() -> None:
    one = world("a")
    for number in range(1000):
        one.control.ended(replace(STRANGER, instance=f"zz.{number}"))
    one.until(picture.KEPT_S + 10.0)
    one.control.ended(STRANGER)
    assert len(one.control.picture._ended_s) == 1
    assert one.control.picture.too_old(5.0) and not one.control.picture.too_old(one.now_s)


def test_a_node_that_is_lost_twice_is_back_when_both_are_over() -> None:
    lost = (Fault(Trouble.NODE_LOST, 100.0, 1000.0, "n0"), Fault(Trouble.NODE_LOST, 300.0, 100.0, "n0"))
    one = world("a", faults=lost)
    passes(one, 500)
    assert not one.agents.up(0)
    passes(one, 700)
    assert one.agents.up(0) and one.control.planner.fleet.open[0]


def test_a_node_that_is_up_again_in_a_location_that_is_cut_is_back_with_its_link() -> None:
    faults = (Fault(Trouble.NODE_LOST, 100.0, 100.0, "n0"), Fault(Trouble.LOCATION_CUT, 150.0, 250.0, "here"))
    one = world("a", faults=faults)
    passes(one, 300)
    assert one.agents.up(0) and not one.control.planner.fleet.open[0]
    passes(one, 200)
    assert one.control.planner.fleet.open[0]
