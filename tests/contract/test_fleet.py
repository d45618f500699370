"""What every adapter of the fleet's ports keeps to: agents of nodes, time that calls back, what is asked of a service. So far
one adapter, the simulated one; another joins by a fixture of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from bastide.policy.fleet import NodeShape, Request
from bastide.policy.fleetstate import Copy
from bastide.ports.fleet import Begun, Demand, Nodes, NotBegun, Timer
from bastide.sim.fleet.setup import Arrival, DeviceFacts, Fault, Location, Policies, Service, Setup, Trouble, Way
from bastide.sim.fleet.world import Time, World

HALF = Request(1000, 4000, 1, 500, frozenset({"G"}))
COPY = Copy("a.0", "a", 0, (0,), HALF)


@dataclass
class Fleet:
    """Two nodes with one device each, and a service `a` of which half a device is asked for. `passes`: time goes on."""

    nodes: Nodes
    timer: Timer
    demand: Demand
    passes: Callable[[float], None]
    asks: Callable[[int], None]  # a request with so many tokens of answer


def simulated(*faults: Fault) -> Fleet:
    def none() -> Iterator[Arrival]:
        return iter(())

    way = Way(HALF, 1000.0, (0.0, 0.01, 0.02), 2, 10.0, 1.0, 0.5)
    world = World(
        Setup(
            (Location("here"),),
            (NodeShape("n0", 64_000, 262_144, 1, "G", "here"), NodeShape("n1", 64_000, 262_144, 1, "G", "here")),
            (Service("a", "weights-a", 10**9, (way,), none),),
            {"G": DeviceFacts(400.0, 100.0, 80 * 10**9)},
            1e9,
            policies=Policies(),
            faults=faults,
        )
    )

    def passes(seconds: float) -> None:
        world.until(world.now_s + seconds)

    live = world.lives["a"]
    return Fleet(
        world.agents,
        Time(world),
        live,
        passes,
        lambda answer: world.gateway.ask(live, world.now_s, 1.0, 0.0, 10, answer),
    )


@pytest.fixture(params=[simulated], ids=["simulated"])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    made: Fleet = request.param()
    return made


def state(fleet: Fleet) -> str | None:
    there = fleet.nodes.find("a", "a.0")
    return there.state if there is not None else None


def test_a_start_takes_about_as_long_as_was_said(fleet: Fleet) -> None:
    begun = fleet.nodes.start(COPY)
    assert isinstance(begun, Begun) and begun.heard and state(fleet) == "starting"
    assert (fleet.demand.copies_there(), fleet.demand.awake_there()) == (1, 0)
    fleet.passes(0.5 * begun.expected_s)
    assert state(fleet) == "starting"
    fleet.passes(begun.expected_s)
    assert state(fleet) == "awake" and fleet.demand.awake_there() == 1
    assert [one.copy for one in fleet.nodes.idle()] == [COPY]
    assert 0 in fleet.nodes.holders("weights-a")


def test_to_ask_twice_changes_nothing(fleet: Fleet) -> None:
    fleet.nodes.start(COPY)
    assert isinstance(fleet.nodes.start(COPY), Begun)
    assert fleet.demand.copies_there() == 1 and list(fleet.nodes.node(0).used_milli) == [500]


def test_what_does_not_fit_is_refused_and_takes_nothing(fleet: Fleet) -> None:
    whole = Copy("a.1", "a", 0, (0,), HALF)
    third = Copy("a.2", "a", 0, (0,), HALF)
    fleet.nodes.start(COPY)
    fleet.nodes.start(whole)
    refused = fleet.nodes.start(third)
    assert isinstance(refused, NotBegun) and refused.reason
    assert fleet.nodes.find("a", "a.2") is None and list(fleet.nodes.node(0).used_milli) == [1000]


def test_it_rests_gives_its_device_back_and_wakes_in_place(fleet: Fleet) -> None:
    slow = fleet.nodes.start(COPY)
    fleet.passes(60.0)
    assert fleet.nodes.rest(COPY)
    fleet.passes(5.0)
    assert state(fleet) == "resting" and list(fleet.nodes.node(0).used_milli) == [0]
    assert [one.copy.instance for one in fleet.nodes.asleep(0)] == ["a.0"]
    there, seen_s = fleet.nodes.inventory(0)
    assert there["a.0"].resting and seen_s == fleet.timer.monotonic_s()
    quick = fleet.nodes.start(COPY)
    assert isinstance(slow, Begun) and isinstance(quick, Begun) and quick.expected_s < slow.expected_s
    assert list(fleet.nodes.asleep(0)) == []


def test_a_busy_one_neither_rests_nor_ends_before_it_has_answered(fleet: Fleet) -> None:
    fleet.nodes.start(COPY)
    fleet.passes(60.0)
    fleet.asks(1000)  # 10 s
    assert fleet.demand.busy() and not list(fleet.nodes.idle())
    assert not fleet.nodes.rest(COPY)
    fleet.nodes.stop(COPY)
    there = fleet.nodes.find("a", "a.0")
    assert there is not None and there.draining and there.in_flight > 0
    fleet.passes(30.0)
    assert state(fleet) is None and not fleet.demand.busy()


def test_to_end_it_moves_what_is_in_flight(fleet: Fleet) -> None:
    fleet.nodes.start(COPY)
    fleet.passes(60.0)
    fleet.asks(1000)
    fleet.nodes.end(COPY)
    assert state(fleet) is None and not fleet.demand.busy() and fleet.demand.waits_since_s() is not None


def test_what_is_not_there_is_neither_rested_nor_ended(fleet: Fleet) -> None:
    assert not fleet.nodes.rest(COPY)
    fleet.nodes.stop(COPY)
    fleet.nodes.end(COPY)
    assert fleet.demand.copies_there() == 0 and fleet.nodes.inventory(0)[0] == {}


def test_a_lost_node_does_not_answer_and_starts_nothing() -> None:
    fleet = simulated(Fault(Trouble.NODE_LOST, 100.0, 50.0, "n0"))
    fleet.nodes.start(COPY)
    fleet.passes(101.0)
    assert not fleet.nodes.up(0) and not fleet.nodes.answers(0) and fleet.nodes.answers(1)
    assert isinstance(fleet.nodes.start(COPY), NotBegun) and state(fleet) is None
    fleet.passes(60.0)
    assert fleet.nodes.answers(0)


def test_a_cut_node_goes_on_and_does_not_answer() -> None:
    fleet = simulated(Fault(Trouble.LOCATION_CUT, 100.0, 50.0, "n0"))
    fleet.nodes.start(COPY)
    fleet.passes(101.0)
    assert fleet.nodes.up(0) and not fleet.nodes.answers(0) and state(fleet) == "awake"


def test_time_calls_back_when_it_was_asked_to(fleet: Fleet) -> None:
    began_s, called = fleet.timer.monotonic_s(), list[tuple[str, float]]()

    def call(name: str) -> None:
        called.append((name, fleet.timer.monotonic_s() - began_s))

    fleet.timer.at(began_s + 2.0, call, "later")
    fleet.timer.at(began_s + 1.0, call, "sooner")
    fleet.timer.at(began_s - 5.0, call, "past")
    assert fleet.timer.soon(lambda: call("soon"))
    fleet.passes(5.0)
    assert [name for name, _ in called] == ["past", "soon", "sooner", "later"]
    assert all(at_s >= due_s for (_, at_s), due_s in zip(called, (0.0, 0.0, 1.0, 2.0), strict=True))


def test_a_load_says_what_is_asked(fleet: Fleet) -> None:
    fleet.asks(1000)
    fleet.asks(1000)
    load = fleet.demand.load(fleet.timer.monotonic_s())
    assert (load.queued, load.in_flight) == (2, 0) and load.tokens_per_s > 0
    fleet.nodes.start(COPY)
    fleet.passes(11.0)
    load = fleet.demand.load(fleet.timer.monotonic_s())
    assert (load.queued, load.in_flight, load.awake) == (0, 2, 1)
    assert fleet.demand.expected_per_s(fleet.timer.monotonic_s(), 1e6) <= fleet.demand.expected_per_s(
        fleet.timer.monotonic_s(), 0.0
    )
