"""Every verb of the agent's socket, as the table in docs/architecture.md lists them.

Each asks the core, the engine room or what is kept, and answers. None decides.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import msgspec

from bastide.agent.apps import Confidant, Visits
from bastide.agent.core import NodeCore
from bastide.agent.effects import Effect, Grant
from bastide.agent.engineroom import EngineRoom, NodeRuntime
from bastide.agent.kept import Kept
from bastide.agent.settings import AgentSettings
from bastide.domain.errors import Conflict, EngineStartFailed, InvalidRequest, NotFound, Unavailable
from bastide.domain.instances import Assignment, RungFact
from bastide.domain.lifecycle import Phase, Rung
from bastide.ports.clock import Clock
from bastide.ports.link import Body, Link, Notify


class Verbs(ABC):
    """What the agent answers; its state is made by the service (agent/service.py), which carries effects out."""

    settings: AgentSettings
    core: NodeCore
    _runtime: NodeRuntime
    _room: EngineRoom
    _kept: Kept
    _confidant: Confidant
    _visits: Visits
    _suspected: dict[str, asyncio.Future[None]]  # those that are being asked whether they are well
    _clock: Clock
    _rethink: asyncio.Event
    _tokens: itertools.count[int]
    _waiting: dict[int, tuple[asyncio.Future[Grant], Notify]]

    @abstractmethod
    def _do(self, effects: list[Effect]) -> None: ...

    @abstractmethod
    def _take_on(self, assignment: Assignment) -> None: ...

    async def handle(self, link: Link, verb: str, body: Body, note: Notify) -> Body:
        """Every verb of the agent's socket; the table in docs/architecture.md lists them."""
        handler: Callable[[Link, Body, Notify], Awaitable[Body]] | None = getattr(self, f"_on_{verb}", None)
        if handler is None:
            raise InvalidRequest(f"the agent knows no verb {verb!r}")
        return await handler(link, body, note)

    async def _on_acquire(self, link: Link, body: Body, note: Notify) -> Body:
        worker = str(link.peer["worker"]) if link.peer.get("role") == "gateway" else None
        if (looking := self._suspected.get(str(body["instance"]))) is not None:
            await asyncio.wait((looking,))  # it may be dead, and we not have heard so yet
        grant = await self._acquire(str(body["instance"]), worker, note)
        launch = self._room.launches[grant.instance]
        record = self.core.records[grant.instance]
        return {
            "lease": grant.serial,
            "address": self._runtime.address(grant.instance),
            "secret": launch.secret,
            "woke_from": grant.woke_from.value,
            "wake_s": grant.waited_s,
            "pid": record.pid,
        }

    async def _on_activity(self, link: Link, body: Body, note: Notify) -> Body:
        for instance, seen in body["instances"].items():
            self._do(
                self.core.activity(
                    str(link.peer["worker"]),
                    instance,
                    int(seen["in_flight"]),
                    float(seen["last_used_s"]),
                    self._clock.now_s(),
                    seen.get("requests"),
                )
            )
        return {}

    async def _on_suspect(self, link: Link, body: Body, note: Notify) -> Body:
        """A gateway had no good answer from it. Until it has been asked whether it is well, nobody is sent to it."""
        instance = str(body["instance"])
        record = self.core.records.get(instance)
        if record is None or record.phase is not Phase.AWAKE or instance in self._suspected:
            return {}
        looking = self._suspected[instance] = asyncio.get_running_loop().create_future()
        try:
            wrong = await self._room.check(instance)
            if wrong is not None and record.phase is Phase.AWAKE and record.assignment.build is None:
                await self._room.distrust(instance, f"a gateway suspects it ({body.get('reason', '')}) and {wrong}")
        finally:
            del self._suspected[instance]
            looking.set_result(None)
        return {}

    async def _on_assign(self, link: Link, body: Body, note: Notify) -> Body:
        for item in body.get("upserts", ()):
            assignment = msgspec.convert(item, Assignment)
            self._kept.keep(assignment)
            self._take_on(assignment)
        for instance in body.get("removals", ()):
            self._do(self.core.unassign(str(instance), self._clock.now_s()))
        for fact in body.get("facts", ()):
            self.core.costs.know(msgspec.convert(fact, RungFact))
        return {}

    async def _on_inventory(self, link: Link, body: Body, note: Notify) -> Body:
        """All instances, or those named in `instances` that are here."""
        named = body.get("instances", self.core.records)
        found = [self.core.records[name] for name in named if name in self.core.records]
        return {
            "reports": [msgspec.to_builtins(record.report(self.settings.node)) for record in found],
            "budget_bytes": self.settings.budget_bytes,
            "held_bytes": self.core.held_bytes(),
            "available": sorted(rung.value for rung in self.settings.available),
        }

    async def _on_prove(self, link: Link, body: Body, note: Notify) -> Body:
        """Start it, ask its canary, measure it: what a rollout waits for."""
        instance = str(body["instance"])
        self._do(self.core.forgive(instance, self._clock.now_s()))
        grant = await self._acquire(instance, None, note)
        if self.core.records[instance].assignment.build is None:
            note({"text": "asking its canary", "fraction": None})
        wrong = await self._room.check(instance)
        if wrong is not None:
            await self._room.distrust(instance, wrong)
            raise EngineStartFailed(f"{instance} started, but {wrong}")
        held = await self._room.measure(instance)
        report = msgspec.to_builtins(self.core.records[instance].report(self.settings.node))
        return {"woke_from": grant.woke_from.value, "wake_s": grant.waited_s, "held_bytes": held, "report": report}

    async def _on_wake(self, link: Link, body: Body, note: Notify) -> Body:
        instance = str(body["instance"])
        self._do(self.core.forgive(instance, self._clock.now_s()))
        grant = await self._acquire(instance, None, note)
        return {"woke_from": grant.woke_from.value, "wake_s": grant.waited_s}

    async def _on_sleep(self, link: Link, body: Body, note: Notify) -> Body:
        instance, rung = str(body["instance"]), Rung(body["rung"])
        record = self.core.records.get(instance)
        before = record.held_bytes if record is not None else 0
        self._do(self.core.sleep(instance, rung, self._clock.now_s()))
        while (record := self.core.records.get(instance)) is not None and (
            record.sink_to is not None or record.phase in (Phase.SINKING, Phase.STOPPING)
        ):
            self._rethink.clear()
            await self._rethink.wait()
        if record is None:
            raise NotFound(f"{instance} went away")
        if record.phase is Phase.AWAKE and record.flying:
            raise Conflict(
                f"{instance} has {record.flying} request(s) in flight; a busy instance is never put to sleep"
            )
        if record.phase.rung is None or record.phase.rung is Rung.AWAKE:
            raise Unavailable(f"{instance} did not go to sleep: {record.reason}", retry_after_s=2.0)
        return {
            "rung": record.phase.value,
            "gave_back_bytes": max(0, before - record.held_bytes),
            "held_bytes": record.held_bytes,
        }

    async def _on_run(self, link: Link, body: Body, note: Notify) -> Body:
        """A job, from its start to its end. Who asks must stay on the line: a job that nobody waits for is ended."""
        assignment = msgspec.convert(body["assignment"], Assignment)
        self._kept.write(assignment.instance, "run: a job begins")
        ended = await self._room.run(assignment, float(body["limit_s"]))
        self._kept.write(assignment.instance, f"run: the job {ended}")
        said = await asyncio.to_thread(self._kept.read, assignment.instance, -4096)
        self._confidant.forget(assignment.instance)
        return {"ended": ended, "said": said["text"]}

    async def _on_visit(self, link: Link, body: Body, note: Notify) -> Body:
        """Somebody goes inside an app's box: wake it, say where its agent listens, and let it not sleep meanwhile."""
        instance = str(body["instance"])
        visitor = self._visits.begin(instance, link)
        try:
            await self._acquire(instance, visitor, note)
            return {"visit": visitor, "address": self._runtime.address(instance, "agent")}
        except BaseException:
            self._leave(visitor)
            raise

    async def _on_leave(self, link: Link, body: Body, note: Notify) -> Body:
        self._leave(str(body["visit"]))
        return {}

    def _leave(self, visitor: str) -> None:
        if self._visits.end(visitor):
            self._do(self.core.gateway_left(visitor, self._clock.now_s()))

    async def _on_count(self, link: Link, body: Body, note: Notify) -> Body:
        """Write down what every idle, awake engine has counted, for whoever reads the ledger now."""
        idle = [r.instance for r in self.core.records.values() if r.phase is Phase.AWAKE and not r.flying]
        await asyncio.gather(*(self._room.count(instance) for instance in idle))
        return {}

    async def _on_log(self, link: Link, body: Body, note: Notify) -> Body:
        """Part of an instance's log from byte `after` on (negative: that many bytes before the end)."""
        instance = str(body["instance"])
        if instance not in self.core.records and not self._kept.has_log(instance):
            raise NotFound(f"this node has no instance {instance}")
        return await asyncio.to_thread(self._kept.read, instance, int(body.get("after", -8192)))

    async def _acquire(self, instance: str, worker: str | None, note: Notify) -> Grant:
        token = next(self._tokens)
        answer: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiting[token] = (answer, note)
        try:
            self._do(self.core.acquire(token, worker, instance, self._clock.now_s()))
            return await answer
        finally:
            del self._waiting[token]
            if answer.cancelled():
                self._do(self.core.withdraw(token, self._clock.now_s()))
