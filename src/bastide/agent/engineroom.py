"""The engine room: carries out one move of one engine at a time, and tells the core what came of it.

Owns the launches of this node's engines. It decides nothing and waits for nobody but the runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from bastide.agent.books import Books
from bastide.agent.core import NodeCore
from bastide.agent.effects import Effect, Tell
from bastide.agent.settings import AgentSettings
from bastide.agent.watch import Watcher
from bastide.domain.errors import BastideError, EngineGarbage, EngineStartFailed, StateLost
from bastide.domain.instances import Assignment, EngineCounters, LaunchSpec, ProcessIdentity, ToldDigest
from bastide.domain.lifecycle import Phase, Rung
from bastide.engines.port import Place, Translator
from bastide.ports.clock import Clock
from bastide.ports.runtime import Runtime

_log = logging.getLogger("bastide.agent")


class NodeRuntime(Runtime, Protocol):
    """What the agent needs beyond the port: survivors of an earlier agent, and prompt state kept for deep wakes."""

    async def survivors(self) -> tuple[tuple[LaunchSpec, ProcessIdentity, Rung], ...]: ...
    async def run(self, launch: LaunchSpec, limit_s: float) -> str: ...
    def address(self, instance: str, name: str = "app") -> str: ...
    def saved_bytes(self, launch: LaunchSpec) -> int: ...
    async def cpu_s(self, instance: str) -> float: ...
    def keeps(self, launch: LaunchSpec) -> bool: ...
    async def recall(self, launches: Iterable[LaunchSpec]) -> dict[str, ToldDigest | StateLost]: ...
    def forget_state(self, launch: LaunchSpec) -> None: ...
    async def close(self, *, end_engines: bool) -> None: ...


class EngineRoom:
    """`do` carries out effects; `check_soon` is told of every engine that has just begun to run."""

    def __init__(
        self,
        settings: AgentSettings,
        core: NodeCore,
        runtime: NodeRuntime,
        engines: Mapping[str, Translator],
        books: Books,
        clock: Clock,
        do: Callable[[list[Effect]], None],
        check_soon: Callable[[str], None],
        confide: Callable[[Assignment], Awaitable[tuple[tuple[str, str], ...]]],
        knows_all: Callable[[Assignment], Awaitable[bool]],
    ) -> None:
        self._settings, self._core, self._runtime, self._engines = settings, core, runtime, engines
        self._books, self._clock, self._do, self._check_soon = books, clock, do, check_soon
        self.watcher = Watcher(runtime, self._booked)
        self._knows_all = knows_all  # whether what an app was told at its last start still holds
        self._confide = confide  # what an app is told in confidence at its start: secrets, and its key
        self.launches: dict[str, LaunchSpec] = {}
        self._lost: dict[str, str] = {}  # why what an earlier agent kept is not used, until it has been told
        self._quiet: dict[str, asyncio.Lock] = {}

    async def start(self, instance: str) -> None:
        record = self._core.records[instance]
        lost = self._lost.pop(instance, "")
        began, how = self._clock.monotonic_s(), f"started anew ({lost})" if lost else "started"

        def progress(text: str, fraction: float | None) -> None:
            tokens = tuple(waiter.token for waiter in record.waiters)
            self._do([Tell(tokens, text, fraction)])

        try:
            launch = self._launch(record.assignment)
            if self._runtime.keeps(launch) and not await self._knows_all(record.assignment):
                self._runtime.forget_state(launch)
                how = "started anew, for what it was told no longer holds,"
            if self._runtime.keeps(launch):
                how = "brought back with its processes"
            else:
                launch = await self._told(record.assignment, launch)
            self.launches[instance] = launch
            try:
                identity = await self._runtime.start(launch, progress)
            except StateLost as error:
                _log.warning("%s starts anew: %s", instance, error.message)
                how = f"started anew ({error.message})"
                launch = self.launches[instance] = await self._told(record.assignment, launch)
                identity = await self._runtime.start(launch, progress)
            if launch.serving is not None:  # told; nobody needs to remember it
                self.launches[instance] = replace(launch, serving=replace(launch.serving, environment=()))
        except BastideError as error:
            self._do(self._core.start_failed(instance, error, self._clock.now_s()))
        except (OSError, TimeoutError) as error:
            failed = EngineStartFailed(f"the engine could not be started: {error}")
            self._do(self._core.start_failed(instance, failed, self._clock.now_s()))
        except Exception as error:
            # A fault of ours must end the start too: whoever waits for it would wait for ever.
            _log.exception("the start of %s", instance)
            failed = EngineStartFailed(f"a fault in Bastide itself, its log has the details: {type(error).__name__}")
            self._do(self._core.start_failed(instance, failed, self._clock.now_s()))
        else:
            self._check_soon(instance)
            took_s = self._clock.monotonic_s() - began
            self._do(self._core.started(instance, identity.pid, took_s, self._clock.now_s(), how))

    async def recall(self) -> dict[str, ToldDigest]:
        """Which of the instances at hand an earlier agent has left with their processes kept, and what those were told."""
        launches = {}
        for instance, record in self._core.records.items():
            if record.assignment.spec.app is not None and record.phase is Phase.OFF:
                with contextlib.suppress(BastideError, ValueError):  # its start will say what is wrong
                    launches[instance] = self._launch(record.assignment)
        found = {}
        for instance, told in (await self._runtime.recall(launches.values())).items():
            if isinstance(told, StateLost):
                self._lost[instance] = told.message
            else:
                found[instance], self.launches[instance] = told, launches[instance]
        return found

    async def run(self, assignment: Assignment, limit_s: float) -> str:
        """A job, to its end; how it ended. It is no instance: nobody asks it anything."""
        return await self._runtime.run(await self._told(assignment, self._launch(assignment)), limit_s)

    async def _told(self, assignment: Assignment, launch: LaunchSpec) -> LaunchSpec:
        """An app's launch with what it is told in confidence; any other as it is."""
        if launch.serving is None:
            return launch
        told = (*launch.serving.environment, *await self._confide(assignment))
        return replace(launch, serving=replace(launch.serving, environment=told))

    async def check(self, instance: str) -> str | None:
        """Ask its canary, unless it is no longer awake. Returns what is wrong, or None."""
        async with self._alone(instance):
            record = self._core.records.get(instance)
            if record is None or record.phase is not Phase.AWAKE:
                return None
            return await self.watcher.canary(instance)

    def _alone(self, instance: str) -> asyncio.Lock:
        """A canary and a step down never overlap: what the one costs would be missing in the other's last count."""
        return self._quiet.setdefault(instance, asyncio.Lock())

    async def sink(self, instance: str, rung: Rung) -> None:
        async with self._alone(instance):
            await self._sink(instance, rung)

    async def _sink(self, instance: str, rung: Rung) -> None:
        began = self._clock.monotonic_s()
        try:
            if rung is Rung.DEEP or self._core.records[instance].sinking_from is Rung.AWAKE:
                if self._core.records[instance].sinking_from is not Rung.AWAKE:
                    await self._runtime.wake(instance)  # only a running engine can save and count
                await self.count(instance)
            lost = await self._runtime.sink(instance, rung)
            wake_s = await self._rehearse(instance) if rung is Rung.LIGHT else None
        except (BastideError, OSError, TimeoutError) as error:
            if self._runtime.identity(instance) is None:
                self._do(self._core.rested(instance, Rung.OFF, 0, 0.0, self._clock.now_s()))
            else:
                with contextlib.suppress(BastideError):
                    await self._runtime.wake(instance)
                self._do(self._core.sink_failed(instance, str(error), self._clock.now_s()))
            return
        if rung.has_process:
            held = (await self._runtime.footprint(instance)).charge_bytes
        else:
            held = self._runtime.saved_bytes(self.launches[instance])
            self._core.records[instance].kept = self._runtime.keeps(self.launches[instance])
        took_s = self._clock.monotonic_s() - began
        self._do(self._core.rested(instance, rung, held, took_s, self._clock.now_s(), wake_s, lost))

    async def _rehearse(self, instance: str) -> float | None:
        """The first few times that a model is paged out here: wake it at once, to learn what that truly costs.

        A process goes on in a millisecond, but its pages come back as they are touched: a canary right after waking,
        less the same canary again, is the cost that policy must know. None where it is known already.
        """
        if self._core.costs.knows_wake(self._core.records[instance].assignment.content, Rung.LIGHT):
            return None
        times_s = [self._clock.monotonic_s()]
        await self._runtime.wake(instance)
        for _ in range(2):
            wrong = await self.watcher.canary(instance)
            if wrong is not None:
                raise EngineGarbage(f"paged in again, {wrong}")
            times_s.append(self._clock.monotonic_s())
        await self._runtime.sink(instance, Rung.LIGHT)
        return max(0.001, times_s[1] - times_s[0] - (times_s[2] - times_s[1]))

    async def wake(self, instance: str) -> None:
        began = self._clock.monotonic_s()
        try:
            await self._runtime.wake(instance)
        except (BastideError, OSError) as error:
            await self.died(instance, str(error))
        else:
            self._check_soon(instance)
            self._do(self._core.woken(instance, self._clock.monotonic_s() - began, self._clock.now_s()))

    async def stop(self, instance: str) -> None:
        async with self._alone(instance):
            if self._runtime.identity(instance) is not None:
                with contextlib.suppress(BastideError):
                    await self._runtime.wake(instance)
                await self.count(instance)
                await self._runtime.stop(instance, 2.0)
        self._quiet.pop(instance, None)
        if instance in self.launches:
            self._runtime.forget_state(self.launches[instance])
        self._do(self._core.rested(instance, Rung.OFF, 0, 0.0, self._clock.now_s()))

    async def died(self, instance: str, reason: str, own_fault: bool = True) -> None:
        self._do(self._core.died(instance, reason, self._clock.now_s(), own_fault=own_fault))

    async def distrust(self, instance: str, reason: str) -> None:
        await self._runtime.stop(instance, 0.0)
        await self.died(instance, reason)

    async def measure(self, instance: str) -> int:
        footprint = await self._runtime.footprint(instance)
        if footprint.resident_bytes:
            self._do(self._core.measured(instance, footprint.charge_bytes, self._clock.now_s()))
        return footprint.charge_bytes

    async def count(self, instance: str) -> None:
        """Write the engine's own count down, for the ledger to be compared with."""
        counted = await self.watcher.count(instance)
        record = self._core.records.get(instance)
        if counted is not None and record is not None:
            process, tokens = counted
            self._books.count(record.assignment.spec, instance, process, tokens, settled=not record.leases)

    def _booked(self, instance: str, cost: EngineCounters) -> None:
        record = self._core.records.get(instance)
        if record is not None and record.assignment.build is None:  # an app's health costs no tokens
            self._books.canary(record.assignment.spec, instance, cost)

    def _launch(self, assignment: Assignment) -> LaunchSpec:
        engine = self._engines["llama.cpp" if assignment.spec.engine == "auto" else assignment.spec.engine]
        return engine.launch(
            assignment,
            Place(
                sockets_directory=self._settings.sockets_directory,
                logs_directory=self._settings.logs_directory,
                state_directory=self._settings.state_directory,
                threads=self._settings.threads,
                lease_s=self._settings.lease_s,
                secret=secrets.token_urlsafe(24),
                binary=self._settings.llama_server,
                boxes=self._settings.boxes,
            ),
        )
