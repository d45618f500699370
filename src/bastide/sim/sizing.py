"""How many nodes are enough: the same scenario on fewer, until too many come late. Owns the search, simulates nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bastide.sim.run import simulate
from bastide.sim.scenario import Scenario
from bastide.sim.scenario_setup import setup

IN_TIME = 0.99


def fewest(scenario: Scenario, seed: int | None, told: Callable[[str], None]) -> Scenario:
    """The scenario with the fewest nodes of each kind, in the same proportions, that answer 99 % in time; as it is where
    even all are too few."""
    total = sum(group.count for group in scenario.nodes)
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        tried = _with(scenario, middle)
        result = simulate(setup(tried, seed), scenario.name)
        in_time = result.figures["in_time_share"]
        nodes = sum(group.count for group in tried.nodes)
        told(f"{nodes} of {total} nodes: {100 * in_time:.2f} % in time")
        if in_time >= IN_TIME:
            high = middle
        else:
            low = middle
    return _with(scenario, high)


def _with(scenario: Scenario, nodes: int) -> Scenario:
    """So many nodes in about the same proportions, at least one of each kind."""
    total = sum(group.count for group in scenario.nodes)
    groups = tuple(replace(group, count=max(1, round(group.count * nodes / total))) for group in scenario.nodes)
    return replace(scenario, nodes=groups)
