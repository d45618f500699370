"""A day of two services that compete for one place, in virtual time, with faults. Safety always, liveness after."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass

import pytest

from bastide.adapters.runtime.memory import Costs
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import HoldSettings, ModelSource, Replicas, Resources, ServiceSpec, SleepMode, SleepSettings
from bastide.policy.room import SWAPPING_S_MAX
from bastide.sim.gateway import Tally
from bastide.sim.loop import VirtualClock, run
from bastide.sim.traffic import FaultRates, Stream, arrivals, faults
from bastide.sim.world import Report, World, WorldSettings

MIB = 2**20
HELD = 400 * MIB


def service(name: str, **rest: object) -> ServiceSpec:
    fields: dict[str, object] = {
        "model": ModelSource(f"builtin://{name}"),
        "replicas": Replicas(0, 1),
        "resources": Resources(memory_bytes=HELD),  # known beforehand, so that the budget holds from the first start
        "sleep": SleepSettings(SleepMode.TIMERS, deep_s=600.0),
        "hold": HoldSettings(60.0, 64),
    }
    return ServiceSpec("default", name, **(fields | rest))  # type: ignore[arg-type]


@dataclass
class Outcome:
    report: Report
    tally: Tally
    left_waiting: int
    swaps_per_minute_max: int


def day(
    seed: int,
    streams: tuple[Stream, ...],
    rates: FaultRates,
    *,
    hours: float = 24.0,
    budget: int = 500 * MIB,
    available: frozenset[Rung] = frozenset({Rung.FROZEN, Rung.DEEP, Rung.OFF}),
    services: tuple[ServiceSpec, ...] = (),
) -> Outcome:
    names = sorted({stream.service for stream in streams})
    settings = WorldSettings(
        budget_bytes=budget,
        costs={name: Costs(start_s=0.4, held_bytes=HELD, light_bytes=100 * MIB) for name in names},
        services=services or tuple(service(name) for name in names),
        available=available,
        seed=seed,
    )

    async def main(clock: VirtualClock) -> Outcome:
        world = World(settings, clock)
        await world.start()
        end_s = asyncio.get_running_loop().time() + hours * 3600
        minutes: dict[int, int] = {}

        async def count_swaps() -> None:
            before = 0
            while True:
                await asyncio.sleep(60.0)
                minutes[len(minutes)] = world.report.gave_way - before
                before = world.report.gave_way

        counting = asyncio.ensure_future(count_swaps())
        chances = [random.Random(f"{seed}-{number}") for number in range(len(streams) + 1)]
        async with asyncio.TaskGroup() as group:
            for stream, chance in zip(streams, chances[1:], strict=True):
                group.create_task(arrivals(world, stream, end_s, chance))
            # Faults stop a while before the end: what then still waits must be answered.
            group.create_task(faults(world, rates, end_s - 600.0, chances[0]))
        # Everybody goes to sleep, so that every engine's count is written down.
        await asyncio.sleep(1300.0)
        world.check()
        counting.cancel()
        outcome = Outcome(
            world.report,
            world.gateway.tally,
            world.gateway.waiting(),
            max(minutes.values(), default=0),
        )
        await world.stop()
        return outcome

    found = run(main)
    assert isinstance(found, Outcome)
    return found


BOTH = (Stream("day", 120.0, peak_hour=14.0), Stream("night", 90.0, peak_hour=2.0))
ROUGH = FaultRates(engine_killed=20, start_fails=10, sink_fails=6, canary_differs=6, agent_killed=8)


THOROUGH = bool(os.environ.get("BASTIDE_THOROUGH"))  # `make test-isolation`
HOURS = 24.0 if THOROUGH else 14.0  # from midnight: the peaks of both services, at 2 and at 14


def test_a_quiet_day() -> None:
    outcome = day(1, BOTH, FaultRates(), hours=HOURS)
    assert outcome.report.broken == [] and outcome.tally.broken_rules == []
    assert outcome.tally.answered > 125 * HOURS
    assert (outcome.tally.failed, outcome.tally.timed_out, outcome.tally.queue_full) == (0, 0, 0)
    assert outcome.report.gave_way > 0, "one place, two services: somebody gave way"
    assert outcome.left_waiting == 0


@pytest.mark.parametrize("seed", range(1, 4) if THOROUGH else (1,))
def test_a_rough_day(seed: int) -> None:
    """Engines killed, starts that fail, rungs that do not hold, canaries that differ, the agent killed again and again."""
    outcome = day(seed, BOTH, ROUGH, hours=HOURS)
    assert outcome.report.broken == [] and outcome.tally.broken_rules == []
    total = outcome.tally.answered + outcome.tally.failed + outcome.tally.timed_out + outcome.tally.queue_full
    assert outcome.tally.answered / total > 0.99
    assert outcome.left_waiting == 0


def test_two_that_compete_all_the_time_do_not_thrash_and_both_are_served() -> None:
    busy = (Stream("a", 7200.0, duration_s=0.3), Stream("b", 7200.0, duration_s=0.3))
    outcome = day(3, busy, FaultRates(), hours=1.0)
    assert outcome.report.broken == []
    a_tenth = 60 / (10 * 0.4)
    assert outcome.swaps_per_minute_max <= a_tenth + SWAPPING_S_MAX / 0.4 + 1
    assert outcome.report.gave_way <= 60 * a_tenth, "in the long run at most a tenth of the time goes into swaps"
    waits = [wait for kind in outcome.tally.waits_s.values() for wait in kind]
    assert max(waits) < 30.0, "nobody waits for ever"
    assert outcome.tally.timed_out == outcome.tally.failed == 0


def test_the_same_seed_is_the_same_day() -> None:
    first, second = (day(7, BOTH, ROUGH, hours=6.0) for _ in range(2))
    assert first.report == second.report and first.tally == second.tally


def test_with_a_light_rung_more_fit() -> None:
    every = frozenset({Rung.FROZEN, Rung.LIGHT, Rung.DEEP, Rung.OFF})
    timed = SleepSettings(SleepMode.TIMERS, light_s=30.0, deep_s=3600.0)
    services = (service("day", sleep=timed), service("night", sleep=timed))
    outcome = day(4, BOTH, FaultRates(), hours=6.0, budget=550 * MIB, available=every, services=services)
    assert outcome.report.broken == []
    assert outcome.report.wakes.get("light", 0) > 10


def test_least_replicas_stay_awake() -> None:
    services = (service("day", replicas=Replicas(1, 1)), service("night"))
    outcome = day(5, BOTH, ROUGH, hours=6.0, budget=900 * MIB, services=services)
    assert outcome.report.broken == []
    assert outcome.tally.waits_s["awake"], "it was there when it was asked"


def test_the_checkers_see_what_they_must() -> None:
    """A planted violation: an agent that believes in twice the device it has."""

    async def main(clock: VirtualClock) -> list[str]:
        settings = WorldSettings(
            500 * MIB, {n: Costs(held_bytes=HELD) for n in ("a", "b")}, (service("a"), service("b"))
        )
        world = World(settings, clock)
        await world.start()
        assert world.agent is not None
        world.agent.core.settings = type(world.agent.core.settings)(
            "simulated", 1000 * MIB, frozenset({Rung.DEEP, Rung.OFF})
        )
        await asyncio.gather(*(world.gateway.request(name, 5.0, (1, 1)) for name in ("a", "b")))
        broken = world.report.broken
        await world.stop()
        return broken

    assert any("the device holds" in line for line in run(main))
