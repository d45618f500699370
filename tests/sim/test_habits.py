"""The shipped agent learns how a service is used, in virtual time: a rhythm is met ahead, a burst is let go, nobody is pushed out."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

from bastide.adapters.runtime.memory import Costs
from bastide.agent.habits import Habit, Habits
from bastide.domain.instances import Assignment
from bastide.domain.lifecycle import Phase
from bastide.domain.spec import HoldSettings, ModelSource, Replicas, Resources, ServiceSpec
from bastide.policy.keepalive import GAPS_MAX
from bastide.sim.loop import VirtualClock, run
from bastide.sim.world import World, WorldSettings

MIB = 2**20
HELD = 400 * MIB
DEEP_S = 2.0  # what a wake from deep takes


def service(name: str, project: str = "default") -> ServiceSpec:
    return ServiceSpec(
        project,
        name,
        model=ModelSource(f"builtin://{name}"),
        replicas=Replicas(0, 1),
        resources=Resources(memory_bytes=HELD),
        hold=HoldSettings(120.0, 256),
    )


def world_of(names: tuple[str, ...], places: int, story: Callable[[World], Awaitable[None]]) -> World:
    """A world with memory for so many, in which the story happens."""

    async def main(clock: VirtualClock) -> World:
        costs = {name: Costs(start_s=DEEP_S, held_bytes=HELD) for name in names}
        settings = WorldSettings(places * HELD + 10 * MIB, costs, tuple(service(name) for name in names))
        world = World(settings, clock)
        await world.start()
        await story(world)
        await asyncio.sleep(1.0)
        await world.stop()
        return world

    found = run(main)
    assert isinstance(found, World)
    assert found.report.broken == [] and found.gateway.tally.broken_rules == []
    return found


def decisions(world: World, name: str, what: str) -> list[str]:
    found = world.store.decisions("default", name, 10_000)
    return [decision.reason for decision in found if decision.what == what]


async def ask(world: World, name: str, seconds: float = 0.2) -> float:
    """One request; how long it waited."""
    before = [wait for waits in world.gateway.tally.waits_s.values() for wait in waits]
    await world.gateway.request(name, seconds, (1, 1))
    after = [wait for waits in world.gateway.tally.waits_s.values() for wait in waits]
    return sum(after) - sum(before)


def test_one_with_a_rhythm_is_let_go_and_is_awake_when_its_next_request_comes() -> None:
    waits: list[float] = []

    async def story(world: World) -> None:
        chance = random.Random(1)
        for _ in range(40):
            await asyncio.sleep(300.0 + chance.uniform(-1, 1))
            waits.append(await ask(world, "clock"))

    world = world_of(("clock",), 1, story)
    assert max(waits[-12:]) < 0.1, "it was there when it was asked"
    assert sum(world.report.wakes.values()) >= 30, "and slept in between, all the same"
    (first, *_) = decisions(world, "clock", "wake ahead")
    assert first.startswith("a request is expected until idle for 5m") and "learned from" in first


def test_one_that_comes_in_bursts_sleeps_between_them() -> None:
    async def story(world: World) -> None:
        chance = random.Random(2)
        for _ in range(30):
            for _ in range(8):
                await ask(world, "bursty")
                await asyncio.sleep(chance.uniform(0.5, 3.0))
            await asyncio.sleep(chance.expovariate(1 / 3000))

    world = world_of(("bursty",), 1, story)
    assert world.report.ahead <= 3, "nobody can know when the next burst comes"
    reasons = decisions(world, "bursty", "sleep deep") + decisions(world, "bursty", "sleep off")
    assert len(reasons) >= 25 and "learned from" in reasons[-1]
    assert len(world.gateway.tally.waits_s["awake"]) >= 30 * 6, "it stays through a burst"


def test_a_wake_ahead_pushes_nobody_out_and_gives_way_itself() -> None:
    """One place. `clock` comes every five minutes; `busy` is in use when it is due, and later finds it there for nobody."""
    seen: list[str] = []

    async def story(world: World) -> None:
        core = world.agent.core if world.agent is not None else None
        assert core is not None
        clock = core.records["default.clock.1.0"]
        for _ in range(20):
            await asyncio.sleep(300.0)
            await ask(world, "clock")
        # Somebody is in use while it would be woken: it waits until it is asked.
        await asyncio.sleep(200.0)
        using = asyncio.ensure_future(ask(world, "busy", 98.0))
        await asyncio.sleep(99.0)
        seen.append(clock.phase.value)
        await using
        await ask(world, "clock")
        # Woken ahead, it has the place for nobody yet: who comes has it at once.
        while not clock.ahead_reason or clock.phase is not Phase.AWAKE:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        seen.append(str(round(await ask(world, "busy"), 1)))

    world = world_of(("clock", "busy"), 1, story)
    assert seen[0] in ("deep", "off") and seen[1] == str(DEEP_S)
    assert all("clock gives way" in reason for reason in decisions(world, "clock", "give way")[-1:])


def test_what_was_learned_outlives_the_agent() -> None:
    async def story(world: World) -> None:
        for _ in range(12):
            await asyncio.sleep(300.0)
            await ask(world, "clock")
        await world.kill_agent()
        await world.start_agent()
        assert world.agent is not None
        (habit,) = (world.agent.core.habits.of(r.assignment) for r in world.agent.core.records.values())
        assert habit.rhythm.gaps_seen >= 8, "all but what came since it was last kept"
        await asyncio.sleep(120.0)

    world_of(("clock",), 1, story)


def test_a_project_that_floods_does_not_starve_another() -> None:
    """One place; a crowd of services of one project always wait, and one of another project comes now and then."""
    waits: list[float] = []
    crowd = tuple(f"crowd{number}" for number in range(12))

    async def main(clock: VirtualClock) -> World:
        names = (*crowd, "alone")
        specs = (*(service(name) for name in crowd), service("alone", "other"))
        world = World(
            WorldSettings(HELD + 10 * MIB, {name: Costs(start_s=0.5, held_bytes=HELD) for name in names}, specs), clock
        )
        await world.start()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 900.0

        async def flood(name: str) -> None:
            while loop.time() < end_s:
                await world.gateway.request(name, 1.0, (1, 1))

        async def once() -> None:
            while loop.time() < end_s - 100:
                await asyncio.sleep(61.0)
                began_s = loop.time()
                await world.gateway.request("alone", 0.2, (1, 1))
                waits.append(loop.time() - began_s)

        await asyncio.gather(once(), *(flood(name) for name in crowd))
        await world.stop()
        return world

    world = run(main)
    assert world.report.broken == []
    assert len(waits) > 8 and max(waits) < 15.0, "it waits for one or two of them, not for twelve"


def test_a_habit_is_bounded_and_kept_as_plain_data() -> None:
    habits, spec = Habits(), service("chat")
    assignment = Assignment("default.chat.1.0", 1, 0, spec, None)
    for number in range(GAPS_MAX + 50):
        habits.saw(assignment, 6.0 + number % 50, more=2)
    kept = habits.kept()
    assert len(kept["default.chat.0"]["gaps"]) == GAPS_MAX
    again = Habits()
    again.know(kept)
    assert abs(again.of(assignment).demand_per_s(30.0) - habits.of(assignment).demand_per_s(30.0)) < 1e-3
    habits.keep_only(())
    assert habits.kept() == {}


def test_demand_follows_use_and_fades() -> None:
    often, seldom = Habit(), Habit()
    for _ in range(20):
        often.saw(20.0)
        seldom.saw(2000.0)
    assert often.demand_per_s(10.0) > 10 * seldom.demand_per_s(10.0)
    falling = [often.demand_per_s(idle_s) for idle_s in (100.0, 1000.0, 10_000.0, 80_000.0)]
    assert all(later < earlier for earlier, later in itertools.pairwise(falling)), "who is done for is not waited for"
    talking = Habit()
    for _ in range(20):
        talking.saw(1.0)
    assert talking.demand_per_s(0.5) > talking.demand_per_s(6.0)
