"""What only apps need of the agent: what they are told in confidence, health while they are awake, and visits.

A visit is somebody who is inside (an exec, a copy): while it lasts the instance does not step down. Decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from bastide.agent.core import NodeCore
from bastide.domain.errors import BastideError, EngineStartFailed
from bastide.domain.instances import Assignment, ToldDigest
from bastide.domain.lifecycle import Phase
from bastide.ports.clock import Clock
from bastide.ports.link import Link, LinkLost

CONFIDE_S_MAX = 15.0
USE_EVERY_S = 2.0
CONFIDE_EVERY_S = 0.05
VISITOR = "visit-"  # what a visit's lease is held by


class Confidant:
    """Asks control for what an app is told at its start. Kept in memory alone, for a start while control is away."""

    def __init__(self, controls: Callable[[], Iterable[Link]]) -> None:
        self._controls = controls
        self._told: dict[str, tuple[tuple[str, str], ...]] = {}
        self._recalled: dict[str, ToldDigest] = {}  # what those were told that an earlier agent kept

    def recall(self, instance: str, told: ToldDigest) -> None:
        self._recalled[instance] = told

    async def knows_all(self, assignment: Assignment) -> bool:
        """Whether all that it was told at its last start still holds: it may go on where it left off."""
        told, recalled = self._told.get(assignment.instance), self._recalled.get(assignment.instance)
        if told is None and recalled is None:
            return False
        for link in list(self._controls()):
            with contextlib.suppress(LinkLost):
                try:
                    answer = await link.call("confide", {**_question(assignment), "keep_key": True})
                except BastideError:
                    return False  # a secret is gone, for example: its start asks again, and says what is wrong
                given = {str(name): str(value) for name, value in answer["environment"].items()}
                same = (
                    given.items() <= dict(told).items()
                    if told is not None
                    else recalled is not None and recalled.holds(given)
                )
                return bool(answer.get("key_kept")) and same
        return True  # nobody can be asked: it goes on as if it had not slept

    async def confide(self, assignment: Assignment) -> tuple[tuple[str, str], ...]:
        """Raises EngineStartFailed where nobody can be asked and nothing was told before."""
        body = _question(assignment)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONFIDE_S_MAX
        while True:
            for link in list(self._controls()):
                with contextlib.suppress(LinkLost):
                    answer = await link.call("confide", body)
                    told = tuple((str(name), str(value)) for name, value in answer["environment"].items())
                    self._told[assignment.instance] = told
                    return told
            if assignment.instance in self._told:
                return self._told[assignment.instance]
            if loop.time() > deadline:
                raise EngineStartFailed("its secrets can't be had while the control plane is away", retry_after_s=2.0)
            await asyncio.sleep(CONFIDE_EVERY_S)

    def forget(self, instance: str) -> None:
        self._told.pop(instance, None)
        self._recalled.pop(instance, None)


def _question(assignment: Assignment) -> dict[str, Any]:
    return {
        "instance": assignment.instance, "project": assignment.spec.project, "service": assignment.spec.name,
        "secrets": list(assignment.spec.app.secrets) if assignment.spec.app is not None else [],
    }  # fmt: skip


class Health:
    """Asks every awake app as often as it wants to be asked. `unwell` is called once too many answers were bad."""

    def __init__(
        self,
        core: NodeCore,
        clock: Clock,
        check: Callable[[str], Awaitable[str | None]],
        unwell: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._core, self._clock, self._check, self._unwell = core, clock, check, unwell
        self._next: dict[str, float] = {}
        self._bad: dict[str, int] = {}
        self._news = asyncio.Event()

    def watch(self, instance: str) -> None:
        """It has just begun to run."""
        record = self._core.records.get(instance)
        app = record.assignment.spec.app if record is not None else None
        if app is not None:
            self._next[instance] = self._clock.now_s() + app.health.interval_s
            self._bad.pop(instance, None)
            self._news.set()

    async def run(self) -> None:
        """Until cancelled. No clock runs while no app is awake."""
        while True:
            self._news.clear()
            now_s = self._clock.now_s()
            for instance in [instance for instance, at_s in self._next.items() if at_s <= now_s]:
                await self._look(instance)
            wait_s = min(self._next.values()) - self._clock.now_s() if self._next else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(0.001, wait_s) if wait_s is not None else None)

    async def _look(self, instance: str) -> None:
        record = self._core.records.get(instance)
        if record is None or record.phase is not Phase.AWAKE or record.assignment.spec.app is None:
            self._next.pop(instance, None)
            self._bad.pop(instance, None)
            return
        health = record.assignment.spec.app.health
        self._next[instance] = self._clock.now_s() + health.interval_s
        wrong = await self._check(instance)
        if wrong is None:
            self._bad.pop(instance, None)
            return
        self._bad[instance] = self._bad.get(instance, 0) + 1
        if self._bad[instance] >= health.failures and record.phase is Phase.AWAKE:
            self._next.pop(instance, None)
            del self._bad[instance]
            await self._unwell(instance, f"was not well {health.failures} times in a row: {wrong}")


class Use:
    """Tells gateways how much processor those apps use that are scaled by it. No clock runs while none is awake."""

    def __init__(
        self,
        core: NodeCore,
        clock: Clock,
        cpu_s: Callable[[str], Awaitable[float]],
        gateways: Callable[[], Iterable[Link]],
    ) -> None:
        self._core, self._clock, self._cpu_s, self._gateways = core, clock, cpu_s, gateways
        self._seen: dict[str, tuple[float, float]] = {}
        self._news = asyncio.Event()

    def watch(self, instance: str) -> None:
        """It has just begun to run."""
        record = self._core.records.get(instance)
        app = record.assignment.spec.app if record is not None else None
        if app is not None and app.target.cpu is not None:
            self._seen[instance] = (self._clock.monotonic_s(), -1.0)
            self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._news.clear()
            for instance in list(self._seen):
                await self._look(instance)
            if not self._seen:
                await self._news.wait()
            await asyncio.sleep(USE_EVERY_S)

    async def _look(self, instance: str) -> None:
        record = self._core.records.get(instance)
        if record is None or record.phase is not Phase.AWAKE:
            del self._seen[instance]
            return
        try:
            used_s = await self._cpu_s(instance)
        except (BastideError, OSError):
            return
        now_s = self._clock.monotonic_s()
        since_s, before_s = self._seen[instance]
        self._seen[instance] = (now_s, used_s)
        if before_s >= 0 and now_s > since_s:
            cores = max(0.0, used_s - before_s) / (now_s - since_s)
            for link in list(self._gateways()):
                link.tell("cpu", {"instance": instance, "cores": round(cores, 3)})


class Visits:
    """Who is inside which instance, by the line they came over."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[str, tuple[str, Link]] = {}

    def begin(self, instance: str, link: Link) -> str:
        visitor = f"{VISITOR}{next(self._numbers)}"
        self._open[visitor] = (instance, link)
        return visitor

    def end(self, visitor: str) -> bool:
        return self._open.pop(visitor, None) is not None

    def inside(self, visitor: str) -> bool:
        return visitor in self._open

    def of(self, link: Link) -> list[str]:
        return [visitor for visitor, (_, came_by) in self._open.items() if came_by is link]
