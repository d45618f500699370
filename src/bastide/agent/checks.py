"""What an instance is asked once it is idle after a wake: is its memory what it was, what does it hold, what did it count?

Owns who is still to be checked. While there is nobody, no clock runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bastide.agent.apps import Health, Use
from bastide.agent.core import NodeCore
from bastide.agent.engineroom import EngineRoom
from bastide.domain.lifecycle import Phase
from bastide.ports.clock import Clock

CHECK_AFTER_IDLE_S = 1.0


class Checks:
    """`room`: where the asking is done; made after this, for it tells this of every engine that begins to run."""

    def __init__(
        self, core: NodeCore, clock: Clock, room: Callable[[], EngineRoom], watchers: Callable[[], tuple[Health, Use]]
    ):
        self._core, self._clock, self._room, self._watchers = core, clock, room, watchers
        self._unchecked: dict[str, float] = {}
        self._to_check = asyncio.Event()

    def soon(self, instance: str) -> None:
        self._unchecked[instance] = self._clock.now_s()
        for watcher in self._watchers():
            watcher.watch(instance)
        self._to_check.set()

    def forget(self, instance: str) -> None:
        self._unchecked.pop(instance, None)

    async def run(self) -> None:
        while True:
            for instance in list(self._unchecked):
                await self._look(instance)
            if self._unchecked:
                await asyncio.sleep(CHECK_AFTER_IDLE_S / 4)
            else:
                self._to_check.clear()
                await self._to_check.wait()

    async def _look(self, instance: str) -> None:
        record = self._core.records.get(instance)
        if record is None or record.phase is not Phase.AWAKE:
            self._unchecked.pop(instance, None)
            return
        idle_s = self._clock.now_s() - max(record.last_used_s, record.resident_since_s)
        if record.flying or idle_s < CHECK_AFTER_IDLE_S or record.asked:
            return
        self._unchecked.pop(instance, None)
        # One bad answer of an app is no reason to restart it: Health counts them.
        wrong = await self._room().check(instance) if record.assignment.build is None else None
        if wrong is not None and record.phase is Phase.AWAKE and not record.flying:
            await self._room().distrust(instance, wrong)
        else:
            await self._room().measure(instance)
