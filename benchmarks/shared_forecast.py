"""The simulator's forecast of the shared device: the same arrivals through sim/world, by what `bastide calibrate` measured.

Control, agent and policy are the shipped ones in virtual time; the processor is shared as sim/cores.py has it.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bastide.adapters.runtime.memory import Costs
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import HoldSettings, ModelSource, Replicas, Resources, ServiceSpec
from bastide.sim.baselines import rules_by
from bastide.sim.calibration import Calibration, ModelCosts
from bastide.sim.cores import Cores
from bastide.sim.loop import VirtualClock, run
from bastide.sim.world import World, WorldSettings
from bastide.wiring.measuring import Plan, measure
from bastide.wiring.rungs import holding, test_rungs
from benchmarks.arrivals import Arrival
from benchmarks.models import CONTEXT_TOKENS
from benchmarks.shared_seen import OUTPUT_TOKENS, WAIT_S_MAX, Seen

CORES = 2
# Of a prompt as benchmarks/shared_device.py makes them, by the engine's own count.
PROMPT_TOKENS = 50
CANARY_TOKENS = (4, 4)


def calibrate(weights: Path, quick: bool) -> Calibration:
    """What `bastide calibrate` would write."""
    rungs = frozenset(rung for rung in holding(test_rungs()) if rung is not Rung.OFF)
    plan = Plan(weights, rungs, CORES, rounds=1 if quick else 5, context_tokens=CONTEXT_TOKENS)
    return asyncio.run(measure(plan, lambda text: None))


class _Asked:
    """One request's work."""

    def __init__(self, cores: Cores, costs: ModelCosts, prompt_tokens: int) -> None:
        self._cores, self._costs, self._prompt_tokens = cores, costs, prompt_tokens

    async def read(self, instance: str) -> None:
        seconds = self._prompt_tokens / self._costs.prefill_tokens_per_s + self._costs.step_s(1)
        await self._cores.spend(seconds, CORES, instance)

    async def write(self, instance: str) -> None:
        await self._cores.spend((OUTPUT_TOKENS - 1) * self._costs.step_s(1), CORES, instance)


def forecast(
    rules: str,
    costs: ModelCosts,
    memory: tuple[int, int],
    due: Sequence[Arrival],
    count: int,
    prompt_tokens: int = PROMPT_TOKENS,
) -> Seen:
    """`memory`: of one service and of the device, in bytes."""
    names = [f"m{number:02d}" for number in range(count)]
    rungs = costs.rungs
    reading, writing = CANARY_TOKENS
    one = Costs(
        start_s=rungs[Rung.DEEP].wake_s,
        wake_s={rung: rungs[rung].wake_s for rung in (Rung.FROZEN, Rung.LIGHT) if rung in rungs},
        sink_s={rung: rungs[rung].sleep_s if rung in rungs else 0.01 for rung in Rung},
        held_bytes=costs.held_bytes,
        light_bytes=rungs[Rung.LIGHT].held_bytes if Rung.LIGHT in rungs else 0,
        canary_s=reading / costs.prefill_tokens_per_s + writing * costs.step_s(1),
    )
    services = tuple(
        ServiceSpec(
            "default",
            name,
            model=ModelSource(f"builtin://{name}"),
            replicas=Replicas(0, 1),
            resources=Resources(memory_bytes=memory[0]),
            hold=HoldSettings(WAIT_S_MAX, 256),
            context_tokens=CONTEXT_TOKENS,
        )
        for name in names
    )
    size = max(4, *(size for size, _ in costs.decode_tokens_per_s))
    gain = (size * costs.step_s(1) / costs.step_s(size)) ** (1 / (size.bit_length() - 1))

    async def main(clock: VirtualClock) -> Seen:
        cores = Cores(CORES, max(1.0, gain))
        settings = WorldSettings(
            budget_bytes=memory[1],
            costs=dict.fromkeys(names, one),
            services=services,
            available=frozenset({Rung.OFF, *rungs}),
            rules=partial(rules_by, rules),
            spend=cores.spend,
        )
        world = World(settings, clock)
        await world.start()
        await asyncio.sleep(2.0)
        report, before, gave_way, ahead = (
            world.report,
            dict(world.report.wakes),
            world.report.gave_way,
            world.report.ahead,
        )
        began_s = asyncio.get_running_loop().time()

        async def ask(arrival: Arrival) -> None:
            await asyncio.sleep(began_s + arrival.at_s - asyncio.get_running_loop().time())
            work = _Asked(cores, costs, prompt_tokens)
            await world.gateway.request(names[arrival.service], 0.0, (prompt_tokens, OUTPUT_TOKENS), work)

        await asyncio.gather(*(ask(arrival) for arrival in due))
        await asyncio.sleep(3.0)
        tally = world.gateway.tally
        failed = tally.failed + tally.timed_out + tally.queue_full
        wakes = {rung: number - before.get(rung, 0) for rung, number in report.wakes.items()}
        seen = Seen(
            list(tally.firsts_s),
            ["refused or failed"] * failed,
            {rung: number for rung, number in wakes.items() if number},
            report.gave_way - gave_way,
            report.ahead - ahead,
        )
        if report.broken:
            raise RuntimeError(f"the simulated world broke a rule: {report.broken[:3]}")
        await world.stop()
        return seen

    found = run(main)
    assert isinstance(found, Seen)
    return found


def mean_s(seen: Seen) -> float:
    return statistics.fmean(seen.times_s())
