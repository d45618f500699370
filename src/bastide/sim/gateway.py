"""A gateway in the simulator: the shipped picking and holding, with requests that are only durations.

It keeps the lease rule as the real one does, and complains at once where the other side breaks it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from bastide.adapters.link.memory import Exchange, MemoryLink
from bastide.adapters.runtime.memory import MemoryRuntime
from bastide.domain.errors import BastideError, EngineLost
from bastide.domain.spec import HoldSettings
from bastide.policy.hold import may_queue
from bastide.policy.routing import Act, Candidate, Stance, pick
from bastide.ports.clock import Clock
from bastide.ports.link import Body, Link, LinkLost, Notify

TELL_S = 1.0
REDIAL_S = 0.2
REFUSED_S = 1.0


@dataclass(slots=True)
class Tally:
    """What became of requests. Waits in seconds, by the rung they woke (awake: none)."""

    answered: int = 0
    queue_full: int = 0
    timed_out: int = 0
    failed: int = 0
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    firsts_s: list[float] = field(default_factory=list)  # to the first token, where a request says when it has that
    broken_rules: list[str] = field(default_factory=list)


class Work(Protocol):
    """What a request makes an engine do: read its prompt, whose end is the first token, and write its answer."""

    async def read(self, instance: str) -> None: ...
    async def write(self, instance: str) -> None: ...


@dataclass(slots=True)
class _Instance:
    name: str
    stance: Stance = Stance.ASLEEP
    in_flight: int = 0
    last_used_s: float = 0.0
    requests: int = 0
    draining: asyncio.Event | None = None
    woke_from: str = "awake"
    refused_until_s: float = 0.0
    serial: int = 0
    waking: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Service:
    name: str
    instances: list[_Instance]
    target: int
    hold: HoldSettings
    waiting: deque[asyncio.Future[_Instance]] = field(default_factory=deque)


class SimGateway:
    """One worker. `agent`: the agent's name on the exchange."""

    def __init__(
        self, exchange: Exchange, agent: str, runtime: MemoryRuntime, clock: Clock, worker: str = "gateway-0"
    ) -> None:
        self._exchange, self._agent, self._runtime, self._worker = exchange, agent, runtime, worker
        self._clock = clock
        self._services: dict[str, _Service] = {}
        self._instances: dict[str, _Instance] = {}
        self._link: MemoryLink | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.tally = Tally()

    def serve(self, service: str, instances: list[str], target: int, hold: HoldSettings) -> None:
        """Know a service, as the routing table would tell."""
        made = [self._instances.setdefault(name, _Instance(name)) for name in instances]
        self._services[service] = _Service(service, made, target, hold)

    async def run(self) -> None:
        """Keep the line to the agent, and tell it what happens."""
        while True:
            held = [i.name for i in self._instances.values() if i.stance is Stance.LEASED]
            try:
                self._link = await self._exchange.connect(
                    self._agent, {"role": "gateway", "worker": self._worker, "leases": held}, self._on
                )
            except LinkLost:
                await asyncio.sleep(REDIAL_S)
                continue
            told = asyncio.ensure_future(self._tell())
            await self._link.run()
            told.cancel()
            self._link = None

    async def request(self, service: str, duration_s: float, tokens: tuple[int, int], work: Work | None = None) -> None:
        """One request from its arrival to its end. `work`: what it does instead of taking `duration_s`."""
        found = self._services[service]
        now_s = asyncio.get_running_loop().time()
        for attempt in range(3):
            try:
                instance = await self._get(found)
            except TimeoutError:
                self.tally.timed_out += 1
                return
            except OverflowError:
                self.tally.queue_full += 1
                return
            except BastideError:
                self.tally.failed += 1
                return
            waited_s = asyncio.get_running_loop().time() - now_s
            instance.in_flight += 1
            instance.requests += 1
            try:
                if not self._runtime.is_awake(instance.name) and instance.name in self._runtime.processes:
                    self.tally.broken_rules.append(f"{instance.name} was asleep under a lease")
                self._runtime.work(instance.name, *tokens)
                if work is None:
                    await asyncio.sleep(duration_s)
                else:
                    await work.read(instance.name)
                    first_s = asyncio.get_running_loop().time() - now_s
                    await work.write(instance.name)
                    self.tally.firsts_s.append(first_s)
                if not self._runtime.is_awake(instance.name):
                    raise EngineLost("it ended under the request")
            except EngineLost:
                self._drop(instance)
                if attempt == 2:
                    self.tally.failed += 1
                continue
            finally:
                self._release(found, instance)
            self.tally.answered += 1
            kind = instance.woke_from if waited_s > 0.0005 else "awake"
            self.tally.waits_s.setdefault(kind, []).append(waited_s)
            return

    def waiting(self) -> int:
        return sum(len(service.waiting) for service in self._services.values())

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _get(self, service: _Service) -> _Instance:
        chosen = self._choose(service, 1)
        if chosen is not None and not service.waiting:
            return chosen
        if not may_queue(service.hold, len(service.waiting)):
            raise OverflowError
        place: asyncio.Future[_Instance] = asyncio.get_running_loop().create_future()
        service.waiting.append(place)
        self._serve_waiting(service)
        try:
            return await asyncio.wait_for(place, service.hold.wait_s_max)
        finally:
            if place in service.waiting:
                service.waiting.remove(place)

    def _choose(self, service: _Service, waiting: int) -> _Instance | None:
        now_s = asyncio.get_running_loop().time()
        for instance in service.instances:
            if instance.stance is Stance.REFUSED and now_s >= instance.refused_until_s:
                instance.stance = Stance.ASLEEP
        candidates = [
            Candidate(Stance.WAKING if i.draining is not None else i.stance, i.in_flight) for i in service.instances
        ]
        decision = pick(candidates, service.target, waiting)
        if decision.act is Act.USE:
            return service.instances[decision.index]
        if decision.act is Act.WAKE:
            instance = service.instances[decision.index]
            instance.stance = Stance.WAKING
            instance.waking = self._spawn(self._acquire(service, instance))
        return None

    def _serve_waiting(self, service: _Service) -> None:
        while service.waiting:
            chosen = self._choose(service, len(service.waiting))
            if chosen is None:
                return
            place = service.waiting.popleft()
            if not place.done():
                chosen.in_flight += 1  # kept for it until it runs
                place.set_result(chosen)
                asyncio.get_running_loop().call_soon(self._unreserve, chosen)

    def _unreserve(self, instance: _Instance) -> None:
        instance.in_flight -= 1

    async def _acquire(self, service: _Service, instance: _Instance) -> None:
        try:
            if self._link is None:
                raise LinkLost("the agent is away")
            answer = await self._link.call("acquire", {"instance": instance.name})
        except (LinkLost, BastideError) as error:
            instance.stance = Stance.REFUSED
            instance.refused_until_s = asyncio.get_running_loop().time() + REFUSED_S
            if isinstance(error, BastideError) and not error.retry_helps:
                while service.waiting:
                    place = service.waiting.popleft()
                    if not place.done():
                        place.set_exception(error)
            await asyncio.sleep(REFUSED_S)
        else:
            instance.stance = Stance.LEASED
            instance.serial = int(answer["lease"])
            instance.woke_from = str(answer["woke_from"])
            instance.last_used_s = asyncio.get_running_loop().time()
        self._serve_waiting(service)

    def _release(self, service: _Service, instance: _Instance) -> None:
        instance.in_flight -= 1
        instance.last_used_s = asyncio.get_running_loop().time()
        if instance.draining is not None and instance.in_flight == 0:
            instance.draining.set()
        self._serve_waiting(service)

    def _drop(self, instance: _Instance) -> None:
        instance.stance = Stance.ASLEEP
        if instance.draining is not None:
            instance.draining.set()

    async def _on(self, link: Link, verb: str, body: Body, note: Notify) -> Body:
        instance = self._instances.get(str(body.get("instance", "")))
        if instance is None:
            return {"released": True, "idle_s": 0.0, "in_flight": 0}
        if verb == "lost":
            self._drop(instance)
            return {}
        if int(body["lease"]) > instance.serial and instance.waking is not None and not instance.waking.done():
            await asyncio.wait((instance.waking,))
        idle_s = asyncio.get_running_loop().time() - instance.last_used_s if instance.in_flight == 0 else 0.0
        only_if_idle_s = body.get("only_if_idle_s")
        if body.get("drain") and instance.in_flight:
            instance.draining = asyncio.Event()
            await instance.draining.wait()
            instance.draining, idle_s = None, 0.0
        elif instance.in_flight or (only_if_idle_s is not None and idle_s < only_if_idle_s):
            return {"released": False, "idle_s": idle_s, "in_flight": instance.in_flight}
        instance.stance = Stance.ASLEEP
        for service in self._services.values():
            self._serve_waiting(service)
        return {"released": True, "idle_s": idle_s, "in_flight": 0}

    async def _tell(self) -> None:
        told: dict[str, tuple[int, int]] = {}
        while True:
            await asyncio.sleep(TELL_S)
            changed = {}
            for i in self._instances.values():
                if i.stance is Stance.LEASED and told.get(i.name) != (i.in_flight, i.requests):
                    told[i.name] = (i.in_flight, i.requests)
                    ago_s = asyncio.get_running_loop().time() - i.last_used_s
                    changed[i.name] = {
                        "in_flight": i.in_flight,
                        "last_used_s": self._clock.now_s() - ago_s,
                        "requests": i.requests,
                    }
            if changed and self._link is not None:
                self._link.tell("activity", {"instances": changed})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task
