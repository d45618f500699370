"""E5: a day of a large fleet with many services. Owns the fleet and services made from traces, and what they cost to decide.

Trace-derived: the nodes are openb's three times over, dealt to 10 locations; each service asks for what a pod of openb's
`default` workload asked for, and is asked as a function of the Azure sample was, its day turned by a random time (the sample
repeats itself, so nothing may be read into services that move together). Models and their times are made up from the size
of the request, see `_way`. Timings are of the machine it runs on.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bastide.domain.errors import InvalidRequest
from bastide.policy.fleet import WHOLE, Fleet, NodeShape, Request
from bastide.policy.fleetcheck import Books, check
from bastide.policy.fleetplan import Planner
from bastide.policy.fleetstate import FleetPlan, Wanted
from bastide.policy.placement import Mix, costs
from bastide.sim.evaluate.keeping import TRACE, read
from bastide.sim.evaluate.openb import read_nodes, read_workload
from bastide.sim.fleet.setup import Arrival, DeviceFacts, Location, Service, Setup, Way
from bastide.sim.fleet.world import World

POLICIES = ("bastide",)
# Parts of the fleet with as large a part of the services; the last one with the whole fleet and few services.
SCALES = ((1.0, 20_000), (0.5, 10_000), (0.25, 5000), (0.125, 2500), (1.0, 5000))
TILES, PLACES = 3, 10
DAY_MINUTES = 1440
BORDERED = 0.3  # of services may be in only some locations
DEVICE_BYTES = 16 * 10**9  # of weights on a whole device
PROMPT, ANSWER = 600, 200
COPIES_MAX = 16


def groups(data: Path) -> list[str]:
    """Names of the rows: part of the fleet x services."""
    return [f"{part:g}x{services}" for part, services in SCALES]


def fleet(data: Path, part: float) -> tuple[NodeShape, ...]:
    """That part of the nodes, dealt to the locations."""
    shapes = read_nodes(data, TILES)
    count = max(PLACES, round(part * len(shapes)))
    # Every so many-th node, so that a part has the mix of the whole.
    chosen = [shapes[int(index * len(shapes) / count)] for index in range(count)]
    return tuple(
        replace(shape, name=f"{shape.name}-{index}", location=f"site-{index % PLACES}")
        for index, shape in enumerate(chosen)
    )


def services(data: Path, count: int, seed: int, duration_s: float) -> tuple[Service, ...]:
    """So many services, drawn from both traces."""
    chance = random.Random(f"{seed}/services")
    workload = read_workload(data, "default")
    days = [_day(minutes, asked) for minutes, asked in _functions(data)]
    made = []
    for index in range(count):
        request = workload.classes[chance.choice(workload.members)]
        borders = (
            frozenset(f"site-{chance.randrange(PLACES)}" for _ in range(2))
            if chance.random() < BORDERED
            else frozenset()
        )
        request = replace(request, locations=borders)
        weights = int(max(0.1, request.total_milli / WHOLE) * DEVICE_BYTES)
        way = _way(request, weights)
        day = chance.choice(days)
        most = min(COPIES_MAX, 1 + int(1.3 * int(day[1].max()) * _takes_s(way) / (60 * way.slots)))
        source = _source(day, chance.randrange(DAY_MINUTES), chance.random(), duration_s)
        made.append(Service(f"s{index}", f"s{index}", weights, (way,), source, 0, most, borders))
    return tuple(made)


def _functions(data: Path) -> list[tuple[list[int], list[int]]]:
    """For each function its minutes with requests, and how many in each."""
    from bastide.sim.evaluate.table import find, parquet_rows

    read(data)  # refuses what makes no sense, with its line
    rows = parquet_rows(
        find(data, f"{TRACE}.parquet"),
        "select func, list(minute order by minute), list(count order by minute) from trace where count > 0 group by func order by func",
    )
    return [(list(minutes), list(counts)) for _, minutes, counts in rows]


Day = tuple[NDArray[np.int32], NDArray[np.int64]]


def _day(minutes: list[int], asked: list[int]) -> Day:
    return np.array(minutes, dtype=np.int32), np.array(asked, dtype=np.int64)


def _source(day: Day, turned: int, within: float, duration_s: float) -> Callable[[], Iterator[Arrival]]:
    """The day from another minute on, and from another moment within the minute."""

    def draw() -> Iterator[Arrival]:
        minutes, asked = day
        begins = int(np.searchsorted(minutes, turned))
        number = len(minutes)
        for step in range(number):
            place = (begins + step) % number
            at_s = 60.0 * ((int(minutes[place]) - turned) % DAY_MINUTES) + 59.0 * within
            if at_s >= duration_s:
                return
            weight = float(asked[place])
            yield at_s, weight, 60.0 if weight > 1 else 0.0, PROMPT, ANSWER

    return draw


def _way(request: Request, weights: int) -> Way:
    """A model as large as its share of devices: 8,000 tokens of prompt a second and 12 ms a step on a whole device, times
    made of its bytes as for an A100 in the shipped calibration."""
    share = max(0.1, min(1.0, request.device_milli / WHOLE)) if request.devices else 0.1
    prefill = 8000.0 * max(1, request.devices)
    steps = tuple(0.012 + 0.0003 * batch for batch in range(33))
    load_s = weights / max(1, request.devices) / 3e9
    return Way(request, prefill, steps, 32 if share > 0.3 else 16, 8.0 + load_s, 0.05 + weights / 12e9, 0.2, load_s)


def _takes_s(way: Way) -> float:
    return PROMPT / way.prefill_tokens_per_s + ANSWER * way.step_s[-1]


def world_of(data: Path, part: float, count: int, seed: int, duration_s: float) -> Setup:
    """The world to run."""
    shapes = fleet(data, part)
    models = {shape.model for shape in shapes}
    return Setup(
        tuple(
            Location(f"site-{place}", source_bytes_per_s=1.25e9, neighbour_bytes_per_s=3e9) for place in range(PLACES)
        ),
        shapes,
        services(data, count, seed, duration_s),
        {model: DeviceFacts(300.0, 40.0, 16 * 10**9) for model in sorted(models)},
        duration_s,
        seed,
        tick_s=60.0,
        samples=288,
        graded=False,
        disk_bytes=4 * 10**12,
    )


def full_plan(made: Setup) -> dict[str, float]:
    """Seconds for a plan of everything: from an empty fleet, a copy for each service; then once more, with nothing to do."""
    wanted = [Wanted(spec.name, 1, tuple(way.request for way in spec.ways)) for spec in made.services]
    weights = [(one.ways[0], 1.0) for one in wanted]
    found: dict[str, float] = {}
    best = float("inf")
    for _ in range(3):  # the machine has other things to do: the best of three
        planner = Planner(Fleet(made.shapes), costs(Mix.expected(weights, Fleet(made.shapes))))
        began = time.perf_counter()
        for one in wanted:
            planner.want(one)
        plan = planner.plan_all()
        best = min(best, time.perf_counter() - began)
    found["full_plan_s"] = best
    found["full_plan_starts"] = len(plan.starts)
    began = time.perf_counter()
    borders = {spec.name: spec.borders for spec in made.services}
    refused = check(plan, made.shapes, Books(), borders.__getitem__, lambda node: True, 0.0)
    found["full_check_s"] = time.perf_counter() - began
    found["full_check_refused"] = len(refused)
    began = time.perf_counter()
    planner.plan_all()
    found["full_plan_unchanged_s"] = time.perf_counter() - began
    return found


def run(made: Setup) -> dict[str, Any]:
    """A row: what was decided, what came of it, what it cost."""
    plans: list[float] = []
    began = time.perf_counter()
    world = World(made)
    plan = world.control.planner.plan

    def timed(*given: Any) -> FleetPlan:
        start = time.perf_counter()
        found = plan(*given)
        plans.append(time.perf_counter() - start)
        return found

    world.control.planner.plan = timed  # type: ignore[method-assign, assignment]
    measured = world.run()
    took_s = time.perf_counter() - began
    held = [sample.allocated for sample in measured.timeline]
    deciding = np.array(plans) * 1e6
    return {
        "simulated_s": made.duration_s,
        "wall_s": round(took_s, 1),
        "events": world.events,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "plans": len(plans),
        "plan_us_p50": round(float(np.percentile(deciding, 50)), 1),
        "plan_us_p99": round(float(np.percentile(deciding, 99)), 1),
        "starts": measured.control.starts,
        "requests": measured.arrived,
        "answered_share": round(measured.answered / max(1.0, measured.arrived), 6),
        "held_share": round(measured.held / max(1.0, measured.arrived), 6),
        "allocated_mean": round(float(np.mean(held)), 4),
        "allocated_most": round(max(held), 4),
        "wakes": dict(sorted(measured.wakes.items())),
        "gave_way": measured.control.gave_way,
        "unplaced": measured.control.unplaced,
        "refused_actions": measured.control.refused_actions,
    }


def rows(
    data: Path, scales: Sequence[str], policies: Sequence[str], seeds: Sequence[int], duration_s: float = 86_400.0
) -> Iterator[dict[str, Any]]:
    """A row per scale and seed."""
    for policy in policies:
        if policy not in POLICIES:
            raise InvalidRequest(f"there is no policy {policy!r} in E5; there is: {', '.join(POLICIES)}")
    for scale in scales or groups(data):
        part, cross, count = scale.partition("x")
        try:
            share, number = float(part), int(count)
        except ValueError:
            share, number = 0.0, 0
        if not cross or not 0 < share <= 1 or not 0 < number <= 100_000:
            raise InvalidRequest(
                f"there is no scale {scale!r} in E5; write a part of the fleet x services, such as 0.25x5000"
            )
        for seed in seeds:
            made = world_of(data, share, number, seed, duration_s)
            devices = sum(shape.devices for shape in made.shapes)
            yield {
                "scale": scale,
                "policy": "bastide",
                "seed": seed,
                "devices": devices,
                "nodes": len(made.shapes),
                "services": number,
                **{key: round(value, 4) for key, value in full_plan(made).items()},
                **run(made),
            }
