"""One simulated location: control loop and agent as shipped, on fake ports, with gateways, arrivals, faults, checkers.

Owns the wiring of a simulated node and the invariants that must hold at every moment. The invariants are checked from
outside, on what is visible, never by asking the code under test whether it did well.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from bastide.adapters.journal.memory import MemoryJournals
from bastide.adapters.link.memory import Exchange
from bastide.adapters.runtime.memory import Costs, MemoryRuntime
from bastide.adapters.store.memory import MemoryStore
from bastide.agent.rules import Rules
from bastide.agent.service import AgentService
from bastide.agent.settings import AgentSettings
from bastide.control.loop import ControlLoop
from bastide.control.routing import table
from bastide.domain.lifecycle import Phase, Rung
from bastide.domain.spec import ServiceSpec
from bastide.engines.llamacpp import LlamaCpp
from bastide.metering.fold import Folder
from bastide.ports.link import Body, Link, LinkLost, Notify
from bastide.sim.gateway import SimGateway
from bastide.sim.loop import VirtualClock
from bastide.sim.weights import SimWeights

AGENT = "agent"
REDIAL_S = 0.2


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """`budget_bytes` of the device; `costs` by service name; `available`: the rungs that hold. `rules`: other ones than
    the shipped; `spend`: how a processor's work passes."""

    budget_bytes: int
    costs: dict[str, Costs]
    services: tuple[ServiceSpec, ...]
    available: frozenset[Rung] = frozenset({Rung.FROZEN, Rung.DEEP, Rung.OFF})
    seed: int = 1
    rules: Callable[[], Rules] = Rules
    spend: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(slots=True)
class Report:
    """What a run showed."""

    broken: list[str] = field(default_factory=list)
    wakes: dict[str, int] = field(default_factory=dict)
    gave_way: int = 0
    ahead: int = 0  # woken ahead of a request
    steps: int = 0
    digest: str = ""


class World:
    """Make it inside a virtual loop, `start` it, let time pass, `stop` it."""

    def __init__(self, settings: WorldSettings, clock: VirtualClock) -> None:
        self.settings, self.clock = settings, clock
        self.chance = random.Random(settings.seed)
        self.exchange = Exchange()
        self.journals = MemoryJournals()
        self.store = MemoryStore()
        self.report = Report()
        self.engines = {LlamaCpp.name: LlamaCpp()}
        self._directory = tempfile.TemporaryDirectory(prefix="bastide-sim-")
        by_instance = {
            f"{spec.project}.{spec.name}.{generation}.{index}": settings.costs[spec.name]
            for spec in settings.services
            for generation in range(1, 9)
            for index in range(spec.replicas.most)
        }
        self.runtime = MemoryRuntime(by_instance | {"": Costs()}, spend=settings.spend)
        sizes = {spec.model.url: 2**20 for spec in settings.services if spec.model is not None}
        self.weights = SimWeights(sizes)
        self.control = ControlLoop(
            self.store, self, self.weights, self.engines, settings.budget_bytes, self._routes_changed, clock
        )
        self.gateway = SimGateway(self.exchange, AGENT, self.runtime, clock)
        self.agent: AgentService | None = None
        self._agents = 0
        self._agent_tasks: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._line: Link | None = None

    # --- the Node port, over a line that may be lost --------------------------------------------------------------

    async def call(self, verb: str, body: Body, progress: Notify | None = None) -> Body:
        if self._line is None:
            raise LinkLost("the agent is away")
        return await self._line.call(verb, body, progress)

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring everything up, declare the services, and wait until each serves."""
        await self.start_agent()
        self._spawn(self._dial())
        self._spawn(self.control.run())
        self._spawn(self.gateway.run())
        self._spawn(self._watch())
        self.control.declare(self.settings.services)
        serving = self.control.watch()
        while any(service.serving == 0 for service in self.control.services.values()):
            serving.clear()
            await serving.wait()
        self.control.unwatch(serving)

    async def stop(self) -> None:
        for task in (*self._tasks, *self._agent_tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._agent_tasks, return_exceptions=True)
        self._directory.cleanup()

    async def start_agent(self) -> None:
        self._agents += 1
        folder = Path(self._directory.name)
        settings = AgentSettings(
            node="simulated",
            socket=AGENT,
            assignments_directory=str(folder),
            sockets_directory=str(folder),
            logs_directory="/dev/null",
            state_directory="",
            budget_bytes=self.settings.budget_bytes,
            threads=2,
            available=self.settings.available,
        )
        journal = self.journals.writer(f"agent-{self._agents}")
        self.agent = AgentService(settings, self.runtime, self.engines, journal, self.clock, self.settings.rules())
        await self.agent.recover()
        self.exchange.serve(AGENT, self.agent.handle, self.agent.came, self.agent.left)
        self._agent_tasks = [asyncio.get_running_loop().create_task(self.agent.run())]

    async def kill_agent(self) -> None:
        """As kill -9: its engines live on, its lines are lost, nothing it meant to do is done."""
        assert self.agent is not None
        for task in (*self._agent_tasks, *self.agent.moves()):
            task.cancel()
        await asyncio.gather(*self._agent_tasks, return_exceptions=True)
        await self.exchange.stop(AGENT)
        self.journals.end(f"agent-{self._agents}")
        self.runtime = self.gateway._runtime = MemoryRuntime(
            self.runtime._costs, self.runtime.processes, self.settings.spend
        )
        self.agent = None

    def fold(self) -> Folder:
        """Bring the ledger up to date; what `bastide usage` does."""
        folder = Folder(self.store, self.journals)
        folder.fold()
        return folder

    # --- inside ----------------------------------------------------------------------------------------------------

    def _spawn(self, work: object) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))  # type: ignore[arg-type]

    def _routes_changed(self) -> None:
        found = table(1, self.control.services.values(), (), AGENT, lambda project, name: None)
        for route in found.services:
            names = [ref.instance for ref in route.instances]
            self.gateway.serve(route.service, names, route.target_in_flight, route.hold)

    async def _dial(self) -> None:
        while True:
            try:
                line = await self.exchange.connect(AGENT, {"role": "control"}, self._told)
            except LinkLost:
                await asyncio.sleep(REDIAL_S)
                continue
            self._line = line
            try:
                await self.control.node_came()
            except LinkLost:
                continue
            await line.run()
            self._line = None
            self.control.node_left()

    async def _told(self, link: Link, verb: str, body: Body, note: Notify) -> Body:
        handlers: dict[str, Callable[[], None]] = {
            "reports": lambda: self.control.reported(body["reports"]),
            "decisions": lambda: self._decided(body["decisions"]),
            "facts": lambda: self.control.learned(body["facts"]),
            "forgotten": lambda: self.control.forgotten(str(body["instance"])),
        }
        handlers[verb]()
        return {}

    def _decided(self, decisions: list[dict[str, object]]) -> None:
        self.control.add_decisions(decisions)
        for decision in decisions:
            if decision["what"] == "give way":
                self.report.gave_way += 1
            elif decision["what"] == "wake ahead":
                self.report.ahead += 1
            elif decision["what"] == "awake":
                facts = decision["facts"]
                assert isinstance(facts, dict)
                rung = str(facts["woke_from"])
                self.report.wakes[rung] = self.report.wakes.get(rung, 0) + 1

    async def _watch(self) -> None:
        """Check what must hold at every moment, many times a virtual second while anything moves."""
        while True:
            self.check()
            await asyncio.sleep(0.25)

    def check(self) -> None:
        """The safety invariants, on what is really there."""
        self.report.steps += 1
        held = 0
        for instance, running in self.runtime.processes.items():
            costs = self.runtime._of(instance)
            held += costs.light_bytes if running.rung is Rung.LIGHT else costs.held_bytes
        if held > self.settings.budget_bytes:
            self._broke(f"the device holds {held} of {self.settings.budget_bytes} bytes")
        if self.agent is None:
            return
        for record in self.agent.core.records.values():
            if record.leases and record.phase not in (Phase.AWAKE,):
                self._broke(f"{record.instance} is {record.phase} while a gateway holds its lease")
            if record.phase is Phase.AWAKE and not self.runtime.is_awake(record.instance):
                process = self.runtime.processes.get(record.instance)
                if process is not None:
                    self._broke(f"{record.instance} is called awake, but rests on {process.rung}")

    def _broke(self, what: str) -> None:
        self.report.broken.append(f"{self.clock.monotonic_s():.3f}: {what}")
