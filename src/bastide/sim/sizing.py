"""How many nodes are enough: the same scenario on fewer, or on more, until 99 % come in time. Owns the search, simulates nothing
itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bastide.domain.units import format_count, format_duration
from bastide.sim.fleet.measure import Measured
from bastide.sim.fleet.world import World
from bastide.sim.scenario import Scenario
from bastide.sim.scenario_setup import setup

IN_TIME = 0.99
# The fleet grows to so many times what was written, and to so many nodes, and no further.
TIMES_MAX = 64
NODES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Sized:
    """The scenario with the fleet that was found; where none is `enough`, with the one that was written.

    `written`: its nodes as it was written; `most`: the most that were tried.
    """

    scenario: Scenario
    enough: bool
    written: int
    most: int


def fewest(scenario: Scenario, seed: int | None, told: Callable[[str], None]) -> Sized:
    """The scenario with the fewest nodes of each kind, in the same proportions, that answer 99 % in time. Where those written
    are too few, more are tried, twice as many each time; as it is where even the most that are tried are too few."""
    written = sum(group.count for group in scenario.nodes)
    most = max(written, min(TIMES_MAX * written, NODES_MAX))
    low, high = 0, written
    while not _keeps(_with(scenario, high), seed, told):
        if high >= most:
            told(
                f"even {high} nodes are too few, and more are not tried; "
                "what may hold it back: `most` copies, `first_token`, `jurisdictions`, `power_w`, devices that are too small"
            )
            return Sized(scenario, False, written, high)
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        if _keeps(_with(scenario, middle), seed, told):
            high = middle
        else:
            low = middle
    return Sized(_with(scenario, high), True, written, high)


def _keeps(tried: Scenario, seed: int | None, told: Callable[[str], None]) -> bool:
    """Whether that fleet answers 99 % in time. Simulated only until it is plain that it doesn't."""
    made = setup(tried, seed)
    nodes = sum(group.count for group in tried.nodes)
    asked = sum(
        weight for service in made.services for at_s, weight, *_ in service.arrivals() if at_s < made.duration_s
    )

    def too_few(measured: Measured) -> bool:
        return measured.missed > (1 - IN_TIME) * max(asked, measured.arrived)

    world = World(made)
    measured = world.run(too_few)
    in_time = 100 * measured.in_time_share
    if too_few(measured) or measured.in_time_share < IN_TIME:
        told(f"{format_count(nodes, 'node')}: {in_time:.2f} % in time after {format_duration(world.now_s)}, too few")
        return False
    told(f"{format_count(nodes, 'node')}: {in_time:.2f} % in time")
    return True


def _with(scenario: Scenario, nodes: int) -> Scenario:
    """So many nodes in about the same proportions, at least one of each kind."""
    total = sum(group.count for group in scenario.nodes)
    groups = tuple(replace(group, count=max(1, round(group.count * nodes / total))) for group in scenario.nodes)
    return replace(scenario, nodes=groups)
