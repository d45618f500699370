"""Warm spares: boxes already started, so that a create hands one over instead of starting one. Owns no record.

A spare is frozen until then: waiting costs gVisor 3 % of a core, and twenty of them would take turns from whoever works.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bastide.domain.errors import BastideError
from bastide.domain.isolation import Box, Limits, Tier
from bastide.policy.sandboxes import spares_wanted
from bastide.ports.clock import Clock
from bastide.sandboxes.boxes import Boxes, Running

SETTLE_S = 0.15  # after a create, before the next spare is started: who asked comes first


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes spares alike. Limits are set when one is handed over; the disk's size can't be."""

    template: str
    tier: Tier
    disk_bytes: int


class Pool:
    """`make_box(kind, limits)`: a box of a fresh name."""

    def __init__(
        self, boxes: Boxes, make_box: Callable[[Kind, Limits], Box], spares_max: int, limits: Limits, clock: Clock
    ) -> None:
        self._boxes, self._make_box, self._most, self._limits, self._clock = boxes, make_box, spares_max, limits, clock
        self._spares: dict[Kind, deque[Running]] = {}
        self._asked_s: dict[Kind, float] = {}
        self._wake = asyncio.Event()

    def take(self, kind: Kind) -> Running | None:
        """A spare that lives, or None. Either way, more of this kind are wanted from now on."""
        self._asked_s[kind] = self._clock.now_s()
        self._wake.set()
        waiting = self._spares.get(kind, deque())
        while waiting:
            running = waiting.popleft()
            if not running.ended.done():
                return running
        return None

    def names(self) -> frozenset[str]:
        return frozenset(running.box.name for waiting in self._spares.values() for running in waiting)

    def ready(self, kind: Kind) -> int:
        return len(self._spares.get(kind, ()))

    def want(self, kind: Kind) -> None:
        """Keep spares of this kind as if one had just been asked for."""
        self._asked_s[kind] = self._clock.now_s()
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled: one start at a time."""
        while True:
            self._wake.clear()
            kind = self._short()
            if kind is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), 60.0 if self._asked_s else None)
                await self._cool()
                continue
            await asyncio.sleep(SETTLE_S if self._wake.is_set() else 0.0)
            if self._wake.is_set():
                await asyncio.sleep(SETTLE_S)
            with contextlib.suppress(BastideError, OSError):
                running = await self._boxes.start(self._make_box(kind, self._limits))
                await self._boxes.freeze(running.box.name)
                self._spares.setdefault(kind, deque()).append(running)
                continue
            await asyncio.sleep(1.0)  # it could not be started: the next create will say why

    def _short(self) -> Kind | None:
        now_s = self._clock.now_s()
        for kind, asked_s in sorted(self._asked_s.items(), key=lambda item: -item[1]):
            if len(self._spares.get(kind, ())) < spares_wanted(self._most, asked_s, now_s):
                return kind
        return None

    async def _cool(self) -> None:
        now_s = self._clock.now_s()
        for kind, waiting in self._spares.items():
            wanted = spares_wanted(self._most, self._asked_s.get(kind), now_s)
            while len(waiting) > wanted:
                await self._boxes.end(waiting.pop().box)
