"""The agent's process: carries out what its core decides, and tells the core what came of it.

Owns the links to gateways and control, the tasks that move engines, and the kept assignments. It must decide nothing:
every choice is in agent/core.py, where it can be tested and simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine, Mapping
from typing import Any

from bastide.agent.apps import VISITOR, Confidant, Health, Use, Visits
from bastide.agent.books import Books
from bastide.agent.checks import Checks
from bastide.agent.core import NodeCore
from bastide.agent.effects import (
    AskBack,
    Changed,
    Effect,
    Forgotten,
    Grant,
    Lost,
    Note,
    Refuse,
    SinkEngine,
    Spent,
    StartEngine,
    StopEngine,
    Tell,
    WakeEngine,
)
from bastide.agent.engineroom import EngineRoom, NodeRuntime
from bastide.agent.kept import Kept
from bastide.agent.nodestate import NodeSettings
from bastide.agent.reports import Reports
from bastide.agent.rules import Rules
from bastide.agent.settings import AgentSettings
from bastide.agent.verbs import Verbs
from bastide.domain.errors import BastideError
from bastide.domain.instances import Assignment
from bastide.domain.lifecycle import Phase, Rung
from bastide.engines.port import Translator
from bastide.ports.clock import Clock
from bastide.ports.journal import JournalWriter
from bastide.ports.link import Link, LinkLost, Notify

ACCOUNT_S = 60.0
KEEP_HABITS_S = 600.0


class AgentService(Verbs):
    """One node's agent. `engines`: translators by name; `journal`: its own, for instance time and canaries."""

    def __init__(
        self,
        settings: AgentSettings,
        runtime: NodeRuntime,
        engines: Mapping[str, Translator],
        journal: JournalWriter,
        clock: Clock,
        rules: Rules | None = None,
    ) -> None:
        self.settings = settings
        self.core = NodeCore(NodeSettings(settings.node, settings.budget_bytes, settings.available), rules)
        self._reports = Reports(self.core, settings.node)
        self._checks = Checks(self.core, clock, lambda: self._room, lambda: (self._health, self._use))
        self._runtime, self._engines, self._clock = runtime, engines, clock
        self._books = Books(settings.node, journal, clock)
        self._kept = Kept(settings.assignments_directory, settings.logs_directory, clock)
        self._confidant = Confidant(lambda: self._reports.controls)
        self._room = EngineRoom(
            settings,
            self.core,
            runtime,
            engines,
            self._books,
            clock,
            self._do,
            self._checks.soon,
            self._confidant.confide,
            self._confidant.knows_all,
        )
        self._health = Health(self.core, clock, self._room.check, self._room.distrust)
        self._use = Use(self.core, clock, runtime.cpu_s, lambda: self._gateways.values())
        self._visits = Visits()
        self._suspected: dict[str, asyncio.Future[None]] = {}
        self._tokens = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Grant], Notify]] = {}
        self._gateways: dict[str, Link] = {}
        self._rethink = asyncio.Event()
        self._moves: set[asyncio.Task[None]] = set()

    # --- life ------------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take up where an earlier agent left: kept assignments, and its engines that still live."""
        self._runtime.watch(self._room.died)
        self._kept.recall(self.core.habits)
        for assignment in self._kept.assignments():
            self._take_on(assignment)
        for launch, identity, rung in await self._runtime.survivors():
            if launch.instance in self.core.records and await self._runtime.adopt(launch, identity):
                self._room.launches[launch.instance] = launch
                if rung is not Rung.AWAKE:
                    await self._runtime.wake(launch.instance)
                self._do(self.core.adopt(launch.instance, Phase.AWAKE, identity.pid, self._clock.now_s()))
                self._checks.soon(launch.instance)
            elif await self._runtime.adopt(launch, identity):
                await self._runtime.stop(launch.instance, 0.0)
        for instance, told in (await self._room.recall()).items():
            self._confidant.recall(instance, told)
            self._do(self.core.recall(instance, self._clock.now_s()))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick_forever())
            group.create_task(self._reports.run())
            group.create_task(self._checks.run())
            group.create_task(self._health.run())
            group.create_task(self._use.run())

    async def close(self, *, end_engines: bool) -> None:
        """End in order. `end_engines`: nobody will come back for them."""
        self._do(self.core.account(self._clock.now_s()))
        self._kept.keep_habits(self.core.habits)
        for task in list(self._moves):
            task.cancel()
        if end_engines:
            awake = [r.instance for r in self.core.records.values() if r.phase is Phase.AWAKE]
            await asyncio.gather(*(self._room.count(instance) for instance in awake), return_exceptions=True)
        await self._runtime.close(end_engines=end_engines)
        self._books.close()

    def moves(self) -> tuple[asyncio.Task[None], ...]:
        """What is being carried out now."""
        return tuple(self._moves)

    # --- links -----------------------------------------------------------------------------------------------------

    def came(self, link: Link) -> None:
        if link.peer.get("role") == "gateway":
            worker = str(link.peer["worker"])
            self._gateways[worker] = link
            self._do(self.core.gateway_came(worker, tuple(link.peer.get("leases", ())), self._clock.now_s()))
        else:
            self._reports.came(link)

    def left(self, link: Link) -> None:
        self._reports.left(link)
        for visitor in self._visits.of(link):
            self._leave(visitor)
        worker = str(link.peer.get("worker", ""))
        if self._gateways.get(worker) is link:
            del self._gateways[worker]
            self._do(self.core.gateway_left(worker, self._clock.now_s()))

    # --- carrying out ----------------------------------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartEngine(instance):
                    self._spawn(self._room.start(instance))
                case SinkEngine(instance, _, rung):
                    self._spawn(self._room.sink(instance, rung))
                case WakeEngine(instance):
                    self._spawn(self._room.wake(instance))
                case StopEngine(instance):
                    self._spawn(self._room.stop(instance))
                case AskBack():
                    self._spawn(self._ask_back(effect))
                case Grant(token) | Refuse(token):
                    self._answer(token, effect)
                case Tell(tokens, text, fraction):
                    for token in tokens:
                        if token in self._waiting:
                            self._waiting[token][1]({"text": text, "fraction": fraction})
                case Lost(workers, instance, reason):
                    for worker in workers:
                        if worker in self._gateways:
                            self._gateways[worker].tell("lost", {"instance": instance, "reason": reason})
                case Note(decision):
                    self._reports.decided(decision)
                    self._kept.write(decision.instance, f"{decision.what}: {decision.reason}")
                case Changed(instance):
                    self._reports.changed(instance)
                case Spent(instance):
                    if instance in self.core.records:
                        self._books.time(self.core.records[instance].assignment.spec, effect)
                case Forgotten(instance):
                    self._forget(instance)
        self._reports.soon()
        self._rethink.set()

    def _answer(self, token: int, effect: Grant | Refuse) -> None:
        waiting = self._waiting.get(token)
        if waiting is None or waiting[0].done():
            return
        if isinstance(effect, Grant):
            waiting[0].set_result(effect)
        else:
            waiting[0].set_exception(effect.error)

    def _spawn(self, move: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(move)
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _ask_back(self, ask: AskBack) -> None:
        link = self._gateways.get(ask.worker)
        if self._visits.inside(ask.worker) and not ask.drain:
            self._do(self.core.returned(ask.worker, ask.instance, False, 0.0, 1, self._clock.now_s()))
            return
        if link is None:
            if ask.worker.startswith(VISITOR):
                self._visits.end(ask.worker)  # it is let go: whoever is inside goes with it
            self._do(self.core.gateway_left(ask.worker, self._clock.now_s()))
            return
        body = {
            "instance": ask.instance,
            "lease": ask.serial,
            "only_if_idle_s": ask.only_if_idle_s,
            "drain": ask.drain,
        }
        try:
            answer = await link.call("revoke", body)
        except (LinkLost, BastideError):
            return  # the line is gone: `left` takes its leases back
        self._do(
            self.core.returned(
                ask.worker,
                ask.instance,
                bool(answer["released"]),
                float(answer.get("idle_s") or 0.0),
                int(answer.get("in_flight", 0)),
                self._clock.now_s(),
            )
        )

    # --- checks and reports ----------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        next_account_s = self._clock.now_s() + ACCOUNT_S
        next_keep_s = self._clock.now_s() + KEEP_HABITS_S
        while True:
            now_s = self._clock.now_s()
            self._do(self.core.tick(now_s))
            if now_s >= next_account_s:
                self._do(self.core.account(now_s))
                self._books.sync()
                next_account_s = now_s + ACCOUNT_S
            if now_s >= next_keep_s:
                self.core.habits.keep_only(record.assignment for record in self.core.records.values())
                self._kept.keep_habits(self.core.habits)
                next_keep_s = now_s + KEEP_HABITS_S
            due_s = self.core.next_due_s()
            wait_s = min(next_account_s, due_s if due_s is not None else next_account_s) - self._clock.now_s()
            self._rethink.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rethink.wait(), max(0.001, wait_s))

    # --- assignments -----------------------------------------------------------------------------------------------

    def _take_on(self, assignment: Assignment) -> None:
        engine = self._engines.get("llama.cpp" if assignment.spec.engine == "auto" else assignment.spec.engine)
        if engine is None or (assignment.weights is None and assignment.build is None):
            return
        estimate = assignment.spec.resources.memory_bytes or engine.estimate_bytes(assignment.spec, assignment.weights)
        self._do(self.core.assign(assignment, estimate, self._clock.now_s()))

    def _forget(self, instance: str) -> None:
        self._checks.forget(instance)
        self._confidant.forget(instance)
        self._room.watcher.forget(instance)
        launch = self._room.launches.pop(instance, None)
        if launch is not None:
            self._runtime.forget_state(launch)
        self._kept.forget(instance)
        self._reports.forgotten(instance)
