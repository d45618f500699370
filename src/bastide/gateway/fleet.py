"""The instances this worker knows, and its lease on each. Owns the lines to agents and what they may ask for.

A lease is what makes a connect safe: while this worker holds one, the agent does not put the instance to sleep. It is
given back only when nothing is in flight, and then the next request must acquire again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from bastide.domain.errors import BastideError, NotFound, Unavailable
from bastide.domain.routes import InstanceRef
from bastide.gateway.links import ConnectLink, SteadyLink
from bastide.gateway.upstream import Endpoint, Pool, post_head
from bastide.ports.link import Body, Link, LinkLost, Notify

_log = logging.getLogger("bastide.gateway")
_LINK_WAIT_S = 1.0
_GONE_S_MAX = 25.0  # how long a node may have no instance that the table names, before those who wait are told

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class Lease:
    endpoint: Endpoint
    secret: str
    woke_from: str
    wake_s: float
    since_s: float
    heads: dict[str, bytes] = field(default_factory=dict)

    def head(self, path: str) -> bytes:
        """The head of a request to this instance, up to the number of its length; made once for each path."""
        found = self.heads.get(path)
        if found is None:
            found = self.heads[path] = post_head(path, "localhost", self.secret)
        return found


class Slot:
    """One instance as this worker sees it."""

    __slots__ = ("_told", "agent", "cpu_cores", "draining", "failure", "in_flight", "instance", "last_used_s", "lease", "note",
                 "owner", "queued", "requests", "requests_before", "rested_at", "serial", "waking", "woke")  # fmt: skip

    def __init__(self, ref: InstanceRef) -> None:
        self.instance, self.agent = ref.instance, ref.agent
        self.lease: Lease | None = None
        self.serial = 0  # of the newest lease that arrived
        self.draining: asyncio.Event | None = None  # asked back: nothing new goes there; set when nothing is in flight
        self.in_flight = 0
        self.cpu_cores = 0.0  # as its node told last
        self.queued = 0
        self.requests = 0
        self.requests_before = 0  # when the lease began
        self.last_used_s = 0.0
        self.rested_at = time.monotonic()
        self.waking: asyncio.Task[None] | None = None
        self.note: tuple[str, float | None] = ("", None)
        self.failure: BastideError | None = None
        self.owner: Callable[[Slot], None] | None = None  # told when a lease came, went or could not be had
        self.woke = "awake"  # the rung of the last wake, until a request has carried it to its client
        self._told: tuple[int, int, int] = (0, 0, 0)

    def use(self) -> None:
        self.in_flight += 1
        self.requests += 1

    def done(self) -> None:
        self.in_flight -= 1
        if self.draining is not None and self.in_flight == 0:
            self.draining.set()
        self.last_used_s = time.time()
        self.rested_at = time.monotonic()

    def activity(self) -> Body | None:
        """What to tell the agent, or None where nothing changed since it was told."""
        now = (self.in_flight, self.queued, self.requests)
        if now == self._told:
            return None
        self._told = now
        return {
            "in_flight": self.in_flight,
            "queued": self.queued,
            "last_used_s": self.last_used_s or time.time(),
            "requests": self.requests,
        }


class Fleet:
    def __init__(
        self, worker: str, incarnation: str, connect: ConnectLink, pool: Pool, spawn: Spawn, workers: int = 1
    ) -> None:
        self.workers = workers  # gateways that share the requests
        self._worker, self._incarnation, self._connect, self._pool, self._spawn = (
            worker, incarnation, connect, pool, spawn,
        )  # fmt: skip
        self.slots: dict[str, Slot] = {}
        self._agents: dict[str, tuple[SteadyLink, asyncio.Task[None]]] = {}

    def slot(self, ref: InstanceRef) -> Slot:
        found = self.slots.get(ref.instance)
        if found is None:
            found = self.slots[ref.instance] = Slot(ref)
        if found.agent != ref.agent:
            found.agent = ref.agent
        self._agent(ref.agent)
        return found

    def keep(self, instances: Iterable[str]) -> None:
        """Forget every other instance once nothing is in flight there; its lease ends with the word."""
        wanted = set(instances)
        for name, slot in list(self.slots.items()):
            if name not in wanted and slot.in_flight == 0 and slot.waking is None:
                self._release(slot)
                del self.slots[name]
        agents = {slot.agent for slot in self.slots.values()}
        for path, (_, task) in list(self._agents.items()):
            if path not in agents:
                task.cancel()
                del self._agents[path]

    def wake(self, slot: Slot, wanted: Callable[[], bool]) -> None:
        """Acquire a lease in the background, once however many wait; `wanted` says whether anyone still does."""
        if slot.waking is None and slot.lease is None:
            slot.failure = None
            slot.note = ("asking its node", None)
            slot.waking = self._spawn(self._acquire(slot, wanted))

    def suspect(self, slot: Slot, reason: str) -> None:
        """The engine misbehaved: tell its agent, and ask for it again before the next request."""
        self._release(slot)
        self._agent(slot.agent).tell("suspect", {"instance": slot.instance, "reason": reason})

    def tell_activity(self) -> None:
        changed: dict[str, dict[str, Body]] = {}
        for slot in self.slots.values():
            link = self._agents.get(slot.agent)
            if link is None or not link[0].is_up:
                continue
            activity = slot.activity()
            if activity is not None:
                changed.setdefault(slot.agent, {})[slot.instance] = activity
        for agent, instances in changed.items():
            self._agent(agent).tell("activity", {"instances": instances})

    async def _acquire(self, slot: Slot, wanted: Callable[[], bool]) -> None:
        def note(progress: Body) -> None:
            slot.note = (str(progress.get("text", "")), progress.get("fraction"))
            if slot.owner is not None:
                slot.owner(slot)

        failure: BastideError | None = None
        gone_at: float | None = None
        try:
            while wanted() and slot.owner is not None:
                try:
                    answer = await self._agent(slot.agent).call(
                        "acquire", {"instance": slot.instance}, _LINK_WAIT_S, note
                    )
                except LinkLost:
                    note({"text": "its node does not answer yet"})
                    await asyncio.sleep(0.05)
                    continue
                except NotFound as error:  # let go, and the table that says so is on its way here
                    gone_at = gone_at or time.monotonic()
                    if time.monotonic() - gone_at > _GONE_S_MAX:
                        raise Unavailable(error.message, retry_after_s=2.0) from None
                    note({"text": "its next generation takes over"})
                    await asyncio.sleep(0.05)
                    continue
                slot.lease = Lease(
                    Endpoint.parse(answer["address"]), answer["secret"], answer.get("woke_from", "awake"),
                    float(answer.get("wake_s", 0.0)), time.monotonic(),
                )  # fmt: skip
                slot.serial = int(answer.get("lease", 0))
                slot.woke = slot.lease.woke_from
                slot.requests_before = slot.requests
                slot.rested_at = time.monotonic()
                break
        except BastideError as error:
            failure = error
        except (KeyError, ValueError, TypeError) as error:
            failure = Unavailable(f"the agent's answer about {slot.instance} can't be read: {error}")
        finally:
            slot.waking = None
            slot.failure = failure
            if slot.owner is not None:
                slot.owner(slot)

    async def _asked(self, link: Link, verb: str, body: Body, notify: Notify) -> Body:
        slot = self.slots.get(str(body.get("instance")))
        if verb == "revoke":
            return await self._revoke(slot, body)
        if verb == "cpu" and slot is not None:
            slot.cpu_cores = float(body["cores"])
        if verb == "lost" and slot is not None:
            _log.info("instance %s is lost: %s", slot.instance, body.get("reason"))
            self._release(slot)
            if slot.owner is not None:
                slot.owner(slot)
        return {}

    async def _revoke(self, slot: Slot | None, body: Body) -> Body:
        if slot is None:
            return {"released": True, "in_flight": 0, "idle_s": 0.0, "requests": 0}
        if int(body.get("lease", 0)) > slot.serial and slot.waking is not None:
            # The lease that is asked back was granted, but its word is still on its way here.
            await asyncio.wait((slot.waking,))
        if body.get("drain") and slot.lease is not None:
            await self._drain(slot)
        only_if_idle_s = None if body.get("drain") else body.get("only_if_idle_s")
        idle_s = time.monotonic() - slot.rested_at if slot.in_flight == 0 else 0.0
        # A request that was handed this slot counts as in flight before it connects, so none can slip between.
        released = slot.in_flight == 0 and (only_if_idle_s is None or idle_s >= only_if_idle_s)
        answer = {
            "released": released,
            "in_flight": slot.in_flight,
            "idle_s": idle_s,
            "requests": slot.requests - slot.requests_before,
        }
        if released:
            self._release(slot)
            if slot.owner is not None:
                slot.owner(slot)
        return answer

    async def _drain(self, slot: Slot) -> None:
        """Until nothing is in flight there. Meanwhile its requests wait, and are served once it is acquired again."""
        if slot.in_flight == 0:
            return
        draining = slot.draining or asyncio.Event()
        slot.draining = draining
        try:
            await draining.wait()
        finally:
            if slot.draining is draining:
                slot.draining = None

    def _release(self, slot: Slot) -> None:
        if slot.lease is not None:
            self._pool.drop(slot.lease.endpoint)
            slot.lease = None
        if slot.draining is not None:
            slot.draining.set()

    def _agent(self, path: str) -> SteadyLink:
        known = self._agents.get(path)
        if known is None:
            link = SteadyLink(path, lambda: self._me(path), self._asked, self._connect)
            known = self._agents[path] = (link, self._spawn(link.run()))
        return known[0]

    def _me(self, agent: str) -> Body:
        held = [slot.instance for slot in self.slots.values() if slot.agent == agent and slot.lease is not None]
        return {"role": "gateway", "worker": self._worker, "incarnation": self._incarnation, "leases": held}
