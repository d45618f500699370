"""The fleet's world in small: what one request costs, what policies do to a service, and that a seed replays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bastide.policy.fleet import NodeShape, Request
from bastide.sim.fleet.arrivals import Law, Lengths, by_law
from bastide.sim.fleet.measure import Latencies
from bastide.sim.fleet.setup import PRESETS, Arrival, DeviceFacts, KeepAlive, Location, Policies, Service, Setup, Way
from bastide.sim.fleet.world import World
from bastide.sim.run import simulate

HERE = Location("here", price_per_gpu_hour=2.0, price_per_kwh=0.5, carbon_g_per_kwh=100)
NODE = NodeShape("n0", 64_000, 262_144, 2, "G", "here")
BIG = (NodeShape("big", 64_000, 262_144, 12, "G", "here"),)
WAY = Way(Request(1000, 4000, 1, 500, frozenset({"G"})), 1000.0, (0.0, 0.01, 0.02, 0.03), 2, 10.0, 1.0, 0.5, 4.0)
FACTS = {"G": DeviceFacts(400.0, 100.0, 80 * 10**9)}


def service(name: str, *arrivals: Arrival, **rest: object) -> Service:
    def source() -> Iterator[Arrival]:
        return iter(arrivals)

    made = Service(name, name, 10**9, (WAY,), source)
    return replace(made, **rest)  # type: ignore[arg-type]


def setup(*services: Service, duration_s: float = 600.0, **rest: object) -> Setup:
    made = Setup((HERE,), (NODE,), services, FACTS, duration_s, check_every_s=1.0)
    return replace(made, **rest)  # type: ignore[arg-type]


def one(at_s: float, prompt: int = 100, answer: int = 101) -> Arrival:
    return at_s, 1.0, 0.0, prompt, answer


def test_one_request_is_what_it_costs() -> None:
    """Held 10 s for a start from the disk (and what control takes to react), 0.1 s of prompt, 100 steps of 10 ms."""
    world = World(setup(service("a", one(1.0))))
    measured = world.run()
    assert (measured.answered, measured.held, dict(measured.wakes)) == (1.0, 1.0, {"cached": 1})
    assert measured.first_token.sum_s == pytest.approx(10.12)
    assert measured.whole.sum_s == pytest.approx(11.12)
    assert world.checkers.broken == [] and world.checkers.looks == 600


def test_weights_from_the_source_come_over_one_link() -> None:
    """1 GB at 100 MB/s each: alone 10 s and the start; whoever is asked for at the same time waits for the link too."""
    nodes = tuple(replace(NODE, name=f"n{number}") for number in range(3))
    here = replace(HERE, source_bytes_per_s=1e8)

    def first_tokens(*services: Service) -> float:
        world = World(setup(*services, shapes=nodes, locations=(here,), prefetched=False))
        measured = world.run()
        assert dict(measured.wakes) == {"source": len(services)} and world.checkers.broken == []
        return measured.first_token.sum_s

    own = replace(WAY, request=replace(WAY.request, device_milli=1000, cpu_milli=64_000))  # a node each
    services = [service(name, one(1.0), ways=(own,)) for name in "abc"]
    assert first_tokens(services[0]) == pytest.approx(20.12)
    assert first_tokens(*services) == pytest.approx(20.12 + 30.12 + 40.12)
    elsewhere = replace(services[1], borders=frozenset({"there"}))
    apart = World(
        setup(
            services[0],
            elsewhere,
            shapes=(NODE, replace(NODE, name="n1", location="there")),
            locations=(here, replace(here, name="there")),
            prefetched=False,
        )
    )
    assert apart.run().first_token.sum_s == pytest.approx(2 * 20.12), "each location has a link of its own"


def test_energy_cost_and_device_time_add_up() -> None:
    result = simulate(setup(service("a", one(1.0), policies := one(2.0)), duration_s=3600.0), "x")
    assert policies[0] == 2.0
    figures = result.figures
    assert figures["gpu_hours"] == 2.0 and figures["cost_of_fleet"] == 4.0
    assert figures["cost_of_held"] == pytest.approx(2 * figures["gpu_hours_held"], abs=1e-5)
    # Idle: 2 x 100 W for an hour. Busy: two requests at once, one second and a bit, half a device, 300 W more.
    assert figures["energy_kwh"] == pytest.approx(0.2 + 0.5 * 300 * 1.3 / 3.6e6, rel=1e-3)
    assert figures["carbon_kg"] == pytest.approx(0.1 * figures["energy_kwh"], abs=1e-5)


def test_a_stream_is_as_many_requests_as_it_stands_for() -> None:
    """600 requests within a minute, each 1.1 s: eleven at a time, for six copies of two slots."""
    quick = replace(WAY, request=replace(WAY.request, device_milli=100), step_s=(0.0, 0.01, 0.01, 0.01))
    found = service("a", (1.0, 600.0, 60.0, 100, 101), ways=(quick,), most=12)
    world = World(setup(found, shapes=BIG))
    measured = world.run()
    assert measured.arrived == 600 and measured.answered == pytest.approx(600)
    assert 6 <= measured.control.starts <= 12 and world.checkers.broken == []


def test_a_rhythm_is_learned_and_woken_ahead_of() -> None:
    """Every half hour a request: kept warm by nothing that costs so much, and back in time."""
    asks = [one(1800.0 * n + 7) for n in range(1, 30)]
    policies = Policies(worth_s=900.0)
    found = World(setup(service("a", *asks), duration_s=56_000.0, policies=policies, check_every_s=60.0))
    measured = found.run()
    assert measured.answered == 29
    assert measured.held <= 8, "of 29; what it had to learn from"
    held_s = measured.allocated_device_s["here"]
    assert held_s < 0.5 * 0.5 * 56_000, "and let go most of the time"


@pytest.mark.parametrize(("name", "held"), [("always-on", 1), ("keepalive-10m", 3)])
def test_presets_keep_alive_as_they_say(name: str, held: int) -> None:
    asks = [one(2.0), one(300.0), one(2000.0), one(4000.0)]
    measured = World(setup(service("a", *asks), duration_s=5000.0, policies=PRESETS[name])).run()
    assert measured.answered == 4 and measured.held == held


def test_who_is_idle_gives_way_to_who_is_asked() -> None:
    whole = replace(WAY, request=replace(WAY.request, device_milli=1000))
    calls = {name: [one(10.0 + place), one(120.0 + place)] for place, name in enumerate(("a", "b", "c"))}
    services = [service(name, *asks, ways=(whole,)) for name, asks in calls.items()]
    world = World(setup(*services))
    measured = world.run()
    assert measured.answered == 6 and measured.control.gave_way >= 1 and world.checkers.broken == []
    whys = [reason["why"] for reason in measured.reasons.values() if reason["what"] == "gave way"]
    assert all("gives way: idle for" in why for why in whys) and whys


def test_more_copies_with_more_load_and_fewer_after() -> None:
    law = by_law(Law(2.0), Lengths(100, 100, 0, 0), "s", 900.0)
    quick = replace(WAY, request=replace(WAY.request, device_milli=200))
    found = replace(service("a", most=8), ways=(quick,), arrivals=law)
    world = World(setup(found, duration_s=3000.0, shapes=BIG))
    measured = world.run()
    assert measured.timeline[60].awake >= 2 and measured.timeline[-1].awake <= 1
    assert measured.first_token.at(0.5) < 0.5


@pytest.mark.parametrize("keep", list(KeepAlive))
def test_a_seed_replays(keep: KeepAlive) -> None:
    def once() -> str:
        laws = [by_law(Law(0.02, 3.0), Lengths(), str(n), 3000.0) for n in range(6)]
        services = [replace(service(f"s{n}"), arrivals=law) for n, law in enumerate(laws)]
        return simulate(setup(*services, duration_s=3000.0, policies=Policies(keep_alive=keep)), "x").digest

    assert once() == once()


def test_percentiles_are_right_within_a_bin() -> None:
    found = Latencies()
    for number in range(1, 1001):
        found.add(number / 100, 1.0)
    for part in (0.1, 0.5, 0.99):
        assert found.at(part) == pytest.approx(10 * part, rel=0.05)
    assert found.over(5.0) == pytest.approx(0.5, abs=0.03) and Latencies().at(0.5) == 0.0
    assert math.isclose(found.sum_s, 5005.0)


def test_laws_keep_their_rate() -> None:
    for law in (Law(0.5), Law(0.5, cv=3.0), Law(0.5, trough=0.1), Law(0.5, trough=0.0, together_s=60.0)):
        asked = sum(weight for _, weight, *_ in law.draw("x", Lengths(), 86_400.0))
        assert asked == pytest.approx(43_200, rel=0.1), law
