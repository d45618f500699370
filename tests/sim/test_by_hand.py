"""A person's word against what the gateway is doing at that moment, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from bastide.adapters.runtime.memory import Costs
from bastide.agent.core import NodeCore
from bastide.agent.nodestate import NodeSettings
from bastide.domain.errors import Conflict
from bastide.domain.instances import Assignment, RungFact, WeightFile
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import ModelSource, Replicas, Resources, ServiceSpec
from bastide.sim.loop import VirtualClock, run
from bastide.sim.world import World, WorldSettings

MIB = 2**20
CHAT = ServiceSpec("default", "chat", model=ModelSource("builtin://chat"), replicas=Replicas(0, 1))
SLEEP = {"instance": "default.chat.1.0", "rung": "deep"}


async def _world(clock: VirtualClock) -> World:
    world = World(WorldSettings(500 * MIB, {"chat": Costs(held_bytes=100 * MIB)}, (CHAT,)), clock)
    await world.start()
    return world


def test_sleep_right_after_an_answer_is_not_refused() -> None:
    """What the gateway last told of its requests is up to a second old; it is asked, not remembered."""

    async def main(clock: VirtualClock) -> str:
        world = await _world(clock)
        await world.gateway.request("chat", 3.5, (1, 1))
        assert world.agent is not None and world.agent.core.records[SLEEP["instance"]].flying == 1, "told, and old"
        answer = await world.call("sleep", SLEEP)
        await world.stop()
        return str(answer["rung"])

    assert run(main) == "deep"


def test_sleep_under_a_request_is_refused_though_nobody_told_of_it_yet() -> None:
    async def main(clock: VirtualClock) -> int:
        world = await _world(clock)
        asking = asyncio.ensure_future(world.gateway.request("chat", 5.0, (1, 1)))
        await asyncio.sleep(0.05)
        with pytest.raises(Conflict, match="in flight; a busy instance is never put to sleep"):
            await world.call("sleep", SLEEP)
        await asking
        answered = world.gateway.tally.answered
        await world.stop()
        return answered

    assert run(main) == 1


def test_memory_that_was_asked_for_is_kept_free_however_little_was_measured() -> None:
    core = NodeCore(NodeSettings("node", 500 * MIB, frozenset({Rung.DEEP})))
    core.costs.know(RungFact("sha", Rung.AWAKE.value, 0.0, 0.0, 10 * MIB, 1))
    spec = ServiceSpec("default", "chat", resources=Resources(memory_bytes=200 * MIB))
    core.assign(Assignment("default.chat.1.0", 1, 0, spec, WeightFile("path", MIB, "sha")), 200 * MIB, 0.0)
    core.acquire(1, "gateway-0", "default.chat.1.0", 0.0)
    assert core.held_bytes() == 200 * MIB
