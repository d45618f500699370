"""Arrivals and faults, drawn from a seed: when requests come over a day, and what breaks."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass

from bastide.sim.world import World

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests to one service: `per_hour` on average over a day, stronger around `peak_hour` (UTC), each `duration_s`."""

    service: str
    per_hour: float
    peak_hour: float = 14.0
    duration_s: float = 0.5
    tokens: tuple[int, int] = (20, 10)


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How often things break, per day."""

    engine_killed: float = 0.0
    start_fails: float = 0.0
    sink_fails: float = 0.0
    canary_differs: float = 0.0
    agent_killed: float = 0.0


async def arrivals(world: World, stream: Stream, until_s: float, chance: random.Random) -> None:
    """Poisson arrivals whose rate follows the hour of the day (thinning); returns when the last request has ended."""
    loop = asyncio.get_running_loop()
    peak_per_s = stream.per_hour / 3600 * 2
    running: list[asyncio.Task[None]] = []
    while True:
        await asyncio.sleep(chance.expovariate(peak_per_s))
        if loop.time() >= until_s:
            break
        hour = loop.time() % DAY_S / 3600
        share = 0.5 + 0.5 * math.cos((hour - stream.peak_hour) / 24 * 2 * math.pi)
        if chance.random() < share:
            length_s = stream.duration_s * chance.expovariate(1.0)
            running.append(loop.create_task(world.gateway.request(stream.service, length_s, stream.tokens)))
            running = [task for task in running if not task.done()]
    await asyncio.gather(*running)


async def faults(world: World, rates: FaultRates, until_s: float, chance: random.Random) -> None:
    """Break things until `until_s`."""
    kinds = {
        "engine_killed": rates.engine_killed,
        "start_fails": rates.start_fails,
        "sink_fails": rates.sink_fails,
        "canary_differs": rates.canary_differs,
        "agent_killed": rates.agent_killed,
    }
    total = sum(kinds.values())
    if total == 0:
        return
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(chance.expovariate(total / DAY_S))
        if loop.time() >= until_s:
            return
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        instances = sorted(world.runtime.processes)
        everyone = sorted(world.control.reports)
        if kind == "engine_killed" and instances:
            await world.runtime.kill(chance.choice(instances))
        elif kind == "start_fails" and everyone:
            world.runtime.faults.start_fails[chance.choice(everyone)] = "the engine ended with status 1"
        elif kind == "sink_fails" and instances:
            world.runtime.faults.sink_fails[chance.choice(instances)] = "paging out gave nothing back"
        elif kind == "canary_differs" and instances:
            world.runtime.faults.canary_differs.add(chance.choice(instances))
        elif kind == "agent_killed":
            await world.kill_agent()
            await asyncio.sleep(chance.uniform(0.1, 5.0))
            await world.start_agent()
