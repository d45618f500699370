"""E6: small fleets in which everything breaks, a world per seed. Owns the worlds and what is counted as broken.

Each world has a few nodes in three locations, a dozen services, and a dozen faults of all kinds within twenty minutes. All
the while the checkers look, every few seconds; and once the faults have stopped and time has passed, that it has converged.
A row is a seed; `broken` must be 0.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bastide.domain.errors import InvalidRequest
from bastide.policy.fleet import NodeShape, Request
from bastide.sim.fleet.arrivals import Law, Lengths, by_law
from bastide.sim.fleet.measure import digest
from bastide.sim.fleet.setup import DeviceFacts, Fault, Location, Policies, Service, Setup, Trouble, Way
from bastide.sim.fleet.world import World

WORLD = "fleet"
POLICIES = ("bastide",)
LASTS_S, QUIET_S = 1500.0, 900.0
FAULTS_FROM_S, FAULTS_UNTIL_S = 120.0, 1200.0
DEVICES = {"large": (80, 700.0), "small": (24, 150.0)}  # GB, watts
LOOK_EVERY_S = 5.0


def world_of(seed: int) -> Setup:
    """The world of a seed."""
    chance = random.Random(f"{seed}/world")
    locations = tuple(
        Location(name, f"land-{name}", 1.0, power_w=chance.choice((None, 2500)), source_bytes_per_s=1e9)
        for name in ("a", "b", "c")
    )
    shapes = []
    for location in locations:
        for number in range(chance.randint(2, 3)):
            model = chance.choice(tuple(DEVICES))
            power = chance.choice((None, 1500))
            devices = chance.choice((1, 2, 4))
            shapes.append(NodeShape(f"{location.name}{number}", 32_000, 131_072, devices, model, location.name, power))
    services = tuple(_service(index, seed, chance, shapes) for index in range(chance.randint(8, 14)))
    faults = tuple(
        Fault(
            chance.choice(tuple(Trouble)),
            at_s := chance.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S - 60),
            min(chance.uniform(10, 240), FAULTS_UNTIL_S - at_s),
        )
        for _ in range(chance.randint(10, 20))
    )
    return Setup(
        locations,
        tuple(shapes),
        services,
        {name: DeviceFacts(watts, 0.1 * watts, size * 10**9) for name, (size, watts) in DEVICES.items()},
        LASTS_S,
        seed,
        # Often let go and woken again, so that what breaks matters.
        Policies(worth_s=chance.choice((5.0, 30.0, 120.0, 3600.0)), light=chance.random() < 0.7),
        faults,
        tick_s=5.0,
        samples=0,
        disk_bytes=200 * 10**9,
        settle_s=QUIET_S,
        inventory_s=15.0,
        check_every_s=LOOK_EVERY_S,
    )


def _service(index: int, seed: int, chance: random.Random, shapes: Sequence[NodeShape]) -> Service:
    """One that fits somewhere: a share of a device, or all of one; now and then two."""
    size = chance.choice((8, 16, 16, 40))  # GB
    borders = frozenset(chance.sample(("a", "b", "c"), chance.randint(1, 2))) if chance.random() < 0.4 else frozenset()
    ways = []
    for model, (memory, watts) in DEVICES.items():
        there = [one for one in shapes if one.model == model and (not borders or one.location in borders)]
        if not there or size > memory:
            continue
        parts = 2 if size == 40 and chance.random() < 0.5 and max(one.devices for one in there) >= 2 else 1
        milli = 1000 if parts == 2 else min(1000, -(-size * 1000 // memory))
        request = Request(
            1500, 6000, parts, milli, frozenset({model}), borders, round(0.9 * watts * parts * milli / 1000)
        )
        steps = tuple(0.02 + 0.001 * batch for batch in range(9))
        light_s = 0.5 + size / 20 if chance.random() < 0.7 else None
        ways.append(Way(request, 5000.0, steps, 8, 3.0 + size / 4, light_s, 0.3, size / 4))
    if not ways:
        return _service(index, seed, chance, shapes)
    law = Law(chance.choice((0.01, 0.03, 0.1, 0.4)), chance.choice((1.0, 3.0)))
    source = by_law(law, Lengths(400, 80), f"{seed}/{index}", FAULTS_UNTIL_S + 120)
    least = 1 if index < 2 and ways[0].request.devices == 1 else 0
    most = chance.randint(1, 3)
    name = f"s{index}"
    return Service(name, name, size * 10**9, tuple(ways), source, least, most, borders, 10.0, 40, 60.0)


def run(seed: int) -> dict[str, Any]:
    """A row, and every broken invariant with its moment."""
    world = World(world_of(seed))
    measured = world.run()
    world.checkers.settled()
    figures = {
        "broken": len(world.checkers.broken),
        "what": world.checkers.broken[:5],
        "faults": sum(measured.faults.values()),
        "requests": measured.arrived,
        "answered": measured.answered,
        "timed_out": measured.timed_out,
        "refused": measured.refused,
        "failed": measured.failed,
        "moved": measured.moved,
        "starts": measured.control.starts,
        "starts_failed": sum(measured.control.starts_failed.values()),
        "refused_actions": measured.control.refused_actions,
        "looks": world.checkers.looks,
    }
    return {
        **figures,
        "digest": digest([figures, dict(measured.wakes), dict(measured.control.starts_failed), world.events]),
    }


def rows(data: Path, worlds: Sequence[str], policies: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row per seed."""
    for asked, known, what in ((policies, POLICIES, "policy"), (worlds, (WORLD,), "world")):
        for one in asked:
            if one not in known:
                raise InvalidRequest(f"there is no {what} {one!r} in E6; there is: {', '.join(known)}")
    for seed in seeds:
        yield {"world": WORLD, "policy": "bastide", "seed": seed, **run(seed)}
