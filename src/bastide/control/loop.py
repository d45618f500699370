"""The control loop: observe, plan, check, apply. Level-triggered: every hint may be lost and it still converges.

Owns the desired state in memory (it is its only writer), what the node last reported, and the work under way. What to
do is decided in policy/; here it is done. It must never be in the path of a user's request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from bastide.control.preparing import Preparations
from bastide.domain.decisions import Decision
from bastide.domain.errors import BastideError, Unavailable
from bastide.domain.instances import Assignment, InstanceReport, RungFact
from bastide.domain.lifecycle import Phase
from bastide.domain.plan import (
    Action,
    Assign,
    DesiredService,
    FetchWeights,
    Forget,
    MakeBuild,
    Prove,
    Serve,
    Unassign,
)
from bastide.domain.spec import ServiceSpec
from bastide.domain.units import format_bytes
from bastide.engines.port import Translator
from bastide.policy.check import Known, check
from bastide.policy.reconcile import Present, Snapshot, plan
from bastide.ports.builds import Builds
from bastide.ports.clock import Clock
from bastide.ports.link import Body, LinkLost, Notify
from bastide.ports.store import Store
from bastide.ports.weights import Weights

_log = logging.getLogger("bastide.control")
RESYNC_S = 30.0
# After a round comes a pause of three times what it took: a round looks at every service, and a thousand of them that
# change at once must not keep it busy. With few services it is a millisecond or two.
STEP_PAUSES = 3.0
STEP_PAUSE_S_MAX = 1.0
PROOFS_AT_ONCE = 4


class Node(Protocol):
    """The node's agent, as control calls it."""

    async def call(self, verb: str, body: Body, progress: Notify | None = None) -> Body: ...


@dataclass(slots=True)
class Work:
    """Something that takes a while, for progress: what, how far (0 to 1) where that is known."""

    text: str
    fraction: float | None
    since_s: float


class ControlLoop:
    """One location's loop. `changed` is called when the routing table may differ."""

    def __init__(
        self,
        store: Store,
        node: Node,
        weights: Weights,
        engines: Mapping[str, Translator],
        budget_bytes: int,
        changed: Callable[[], None],
        clock: Clock,
        builds: Builds | None = None,
    ) -> None:
        self.builds = builds
        self._store, self._node = store, node
        self.budget_bytes, self._changed, self._clock = budget_bytes, changed, clock
        self.services: dict[tuple[str, str], DesiredService] = {
            (service.spec.project, service.spec.name): service for service in store.services()
        }
        self.reports: dict[str, InstanceReport] = {}
        self.work: dict[tuple[str, str], Work] = {}
        self.job_notes: dict[tuple[str, str], tuple[bool, str]] = {}  # whether it runs now, and what is to say of it
        self.refused: list[str] = []
        self.confirmed = False
        self.synced = False  # whether what the node has is known
        self._assigned: dict[str, Assignment] = {}
        self._letting_go: set[str] = set()
        self._proving: set[str] = set()
        self._proofs = asyncio.Semaphore(PROOFS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._hint = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()
        self._decisions: deque[Decision] = deque()
        self._learned: dict[tuple[str, str], RungFact] = {}
        self._preparations = Preparations(
            self, self._spawn, weights, engines, builds, lambda: self.budget_bytes, self._clock
        )

    # --- what happens outside --------------------------------------------------------------------------------------

    def hint(self) -> None:
        """Something may have changed. Losing this only costs time."""
        self._hint.set()
        self.told()

    def told(self) -> None:
        """Whoever watches progress may see something new."""
        for watcher in self._watchers:
            watcher.set()

    def watch(self) -> asyncio.Event:
        """An event that is set at every change, for progress; give it back with `unwatch`."""
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: asyncio.Event) -> None:
        self._watchers.discard(watcher)

    async def node_came(self) -> None:
        """The agent is on the line: learn what it has, and tell it everything again."""
        facts = [msgspec.to_builtins(fact) for fact in self._store.facts()]
        await self._node.call("assign", {"facts": facts})
        answer = await self._node.call("inventory", {})
        self.reports = {r["instance"]: msgspec.convert(r, InstanceReport) for r in answer["reports"]}
        self._assigned.clear()
        self._letting_go.clear()
        self.synced = True
        self.hint()

    def node_left(self) -> None:
        self.synced = False

    def reported(self, reports: list[Any]) -> None:
        for item in reports:
            report = msgspec.convert(item, InstanceReport)
            self.reports[report.instance] = report
        self.hint()

    def forgotten(self, instance: str) -> None:
        self.reports.pop(instance, None)
        self._assigned.pop(instance, None)
        self._letting_go.discard(instance)
        self.hint()

    def learned(self, facts: list[Any]) -> None:
        """Measured costs. Only the newest of each is written, with the next round's decisions."""
        for item in facts:
            fact = msgspec.convert(item, RungFact)
            self._learned[fact.weights_sha256, fact.rung] = fact
        self._hint.set()

    def forget_weights(self, url: str) -> None:
        """They are no longer on the node."""
        self._preparations.files.pop(url, None)

    # --- desired state ---------------------------------------------------------------------------------------------

    def declare(self, specs: tuple[ServiceSpec, ...]) -> tuple[DesiredService, ...]:
        """Write all or none; durable when it returns."""
        for service in (written := self._store.declare(specs, self._clock.now_s())):
            self._take(service)
            self.note(service.spec, "declare", f"generation {service.generation} is desired")
        self._changed()
        self.hint()
        return written

    def remove(self, project: str, name: str) -> None:
        self._store.remove_service(project, name, self._clock.now_s())
        self._reload(project, name)
        self._changed()
        self.hint()

    def note(self, spec: ServiceSpec, what: str, reason: str) -> None:
        self._decisions.append(Decision(self._clock.now_s(), spec.project, spec.name, "control", what, reason))
        self._hint.set()

    def add_decisions(self, decisions: list[Any]) -> None:
        self._decisions.extend(msgspec.convert(item, Decision) for item in decisions)
        self._hint.set()

    def flush_decisions(self) -> None:
        """Write what was decided, and what was learned."""
        decisions = tuple(self._decisions)
        self._decisions.clear()
        if decisions:
            self._store.add_decisions(decisions)
        learned, self._learned = self._learned, {}
        for fact in learned.values():
            self._store.put_fact(fact)

    def _take(self, service: DesiredService) -> None:
        self.services[service.spec.project, service.spec.name] = service

    def _reload(self, project: str, name: str) -> None:
        service = self._store.service(project, name)
        if service is None:
            self.services.pop((project, name), None)
        else:
            self._take(service)

    # --- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._hint.clear()
                began_s = self._clock.monotonic_s()
                with contextlib.suppress(LinkLost):
                    await self.step()
                pause_s = STEP_PAUSES * (self._clock.monotonic_s() - began_s)
                with contextlib.suppress(Unavailable):
                    await asyncio.to_thread(self.flush_decisions)
                await asyncio.sleep(min(STEP_PAUSE_S_MAX, pause_s))
                if not self._hint.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._hint.wait(), RESYNC_S)
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def step(self) -> tuple[Action, ...]:
        """One round. Returns what was applied."""
        if not self.synced:
            return ()
        snapshot = self._observe()
        actions = plan(snapshot)
        refusals = check(actions, self._known(snapshot))
        refused = {id(refusal.action) for refusal in refusals}
        self.refused = [refusal.reason for refusal in refusals]
        self.confirmed = False
        for refusal in refusals:
            if isinstance(refusal.action, Assign):
                a = refusal.action.assignment
                self.fail(a.spec.project, a.spec.name, refusal.reason)
        allowed = tuple(action for action in actions if id(action) not in refused)
        await self._apply(allowed)
        return allowed

    def _observe(self) -> Snapshot:
        present = tuple(
            Present(
                report.instance,
                report.project,
                report.service,
                report.generation,
                int(report.instance.rpartition(".")[2]),
                report.proven,
                self._assigned.get(report.instance),
                report.phase is Phase.AWAKE,
            )
            for report in self.reports.values()
        )
        for service in self.services.values():
            for spec in (service.spec, service.serving_spec):
                if spec is not None:
                    self._preparations.look(spec)
        known = self._preparations
        return Snapshot(tuple(self.services.values()), present, known.files, self._clock.now_s(), known.built)

    def _known(self, snapshot: Snapshot) -> Known:
        return Known(
            present=frozenset(self.reports),
            proven_services=frozenset((r.project, r.service) for r in self.reports.values() if r.proven),
            outside_services=frozenset(
                key
                for key, s in self.services.items()
                if s.spec.endpoint is not None or (s.spec.app is not None and s.spec.app.job is not None)
            ),
            budget_bytes=self.budget_bytes,
            confirmed=self.confirmed,
        )

    async def _apply(self, actions: tuple[Action, ...]) -> None:
        assigns = [action for action in actions if isinstance(action, Assign)]
        unassigns = [action for action in actions if isinstance(action, Unassign)]
        if assigns:
            await self._node.call("assign", {"upserts": [msgspec.to_builtins(a.assignment) for a in assigns]})
            for assign in assigns:
                self._assigned[assign.assignment.instance] = assign.assignment
                self._letting_go.discard(assign.assignment.instance)
        if unassigns:
            for unassign in unassigns:
                service = self.services.get((unassign.project, unassign.service))
                if service is not None and unassign.instance not in self._letting_go:
                    self.note(service.spec, "let go", f"{unassign.instance}: {unassign.reason}")
            self._letting_go.update(action.instance for action in unassigns)
            await self._node.call("assign", {"removals": [action.instance for action in unassigns]})
        for action in actions:
            match action:
                case FetchWeights():
                    if self._preparations.fetches(self.services[action.project, action.service].spec):
                        self.note(self.services[action.project, action.service].spec, "fetch weights", action.reason)
                case MakeBuild():
                    service = self.services[action.project, action.service]
                    spec = service.spec if service.rolling else service.serving_spec or service.spec
                    if self._preparations.makes(spec):
                        self.note(spec, "build", action.reason)
                case Prove():
                    if action.instance not in self._proving:
                        self._proving.add(action.instance)
                        self._spawn(self._prove(action))
                case Serve():
                    self._store.mark_serving(action.project, action.service, action.generation)
                    self._reload(action.project, action.service)
                    self.note(self.services[action.project, action.service].spec, "serve", action.reason)
                    self.work.pop((action.project, action.service), None)
                    self._changed()
                    self.hint()
                case Forget():
                    self._store.forget_service(action.project, action.service)
                    self.services.pop((action.project, action.service), None)
                    self._changed()
                    self.hint()
                case Assign() | Unassign():
                    pass

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail(self, project: str, name: str, reason: str) -> None:
        service = self.services.get((project, name))
        if service is None or not service.rolling:
            return
        self._store.mark_failed(project, name, service.generation, reason)
        self._reload(project, name)
        self.note(service.spec, "fail", f"generation {service.generation}: {reason}")
        self.work.pop((project, name), None)
        self._changed()
        self.hint()

    def progress(self, key: tuple[str, str], text: str, fraction: float | None) -> None:
        old = self.work.get(key)
        self.work[key] = Work(text, fraction, old.since_s if old is not None else self._clock.now_s())
        self.told()

    def forget_builds(self) -> None:
        """Some were collected: look again what is there."""
        self._preparations.built.clear()
        self.hint()

    async def _prove(self, action: Prove) -> None:
        key = (action.project, action.service)
        service = self.services[key]
        try:
            async with self._proofs:
                self.progress(key, "starting the first instance", None)
                answer = await self._node.call(
                    "prove",
                    {"instance": action.instance},
                    lambda note: self.progress(key, str(note["text"]), note["fraction"]),
                )
            held = format_bytes(answer["held_bytes"])
            # Its report comes by itself too, but later: it must not be proven again meanwhile.
            self.reported([answer["report"]])
            how = "answered its canary" if service.spec.app is None else "is healthy"
            self.note(service.spec, "prove", f"generation {action.generation} {how} and holds {held}")
        except LinkLost:
            pass  # the agent went away: it is planned again when it is back
        except BastideError as error:
            # Where a newer one is desired by now, this one was ended for it: that is no failure of the newer one.
            if self.services.get(key, service).generation == action.generation:
                self.fail(action.project, action.service, error.message)
        finally:
            self._proving.discard(action.instance)
            self.hint()
