"""A runtime without processes: for tests and the simulator. Same contract as the real one; time and faults are given.

Waiting goes through the event loop, so that under a virtual loop a day takes seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from bastide.domain.errors import EngineLost, EngineStartFailed, StateLost, Unsupported
from bastide.domain.instances import EngineCounters, Footprint, LaunchSpec, ProcessIdentity, ToldDigest
from bastide.domain.lifecycle import Rung
from bastide.ports.runtime import Progress, Runtime

CANARY = EngineCounters(input_tokens=8, output_tokens=4)


@dataclass(frozen=True, slots=True)
class Costs:
    """What things cost, in seconds and bytes. `held_bytes`: of an awake instance."""

    start_s: float = 0.05
    wake_s: dict[Rung, float] = field(default_factory=lambda: {Rung.FROZEN: 0.002, Rung.LIGHT: 0.02})
    sink_s: dict[Rung, float] = field(
        default_factory=lambda: {Rung.FROZEN: 0.001, Rung.LIGHT: 0.02, Rung.DEEP: 0.01, Rung.OFF: 0.01}
    )
    held_bytes: int = 40 * 2**20
    light_bytes: int = 4 * 2**20
    canary_s: float = 0.0


@dataclass(slots=True)
class Faults:
    """What shall go wrong next; each is used up once."""

    start_fails: dict[str, str] = field(default_factory=dict)
    start_hangs: set[str] = field(default_factory=set)
    sink_fails: dict[str, str] = field(default_factory=dict)
    canary_differs: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Process:
    launch: LaunchSpec
    identity: ProcessIdentity
    rung: Rung = Rung.AWAKE
    counters: EngineCounters = field(default_factory=EngineCounters)


class MemoryRuntime(Runtime):
    """`costs`: by instance, or one for all under the empty name. `processes` outlive it: hand them to the next one.

    `spend`: lets so many seconds of a processor's work pass, which on a busy machine takes longer.
    """

    def __init__(
        self,
        costs: dict[str, Costs] | None = None,
        processes: dict[str, _Process] | None = None,
        spend: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spend = spend
        self._costs = costs or {"": Costs()}
        self._processes: dict[str, _Process] = processes if processes is not None else {}
        self._numbers = max((p.identity.pid for p in self._processes.values()), default=100)
        self._died: Callable[[str, str, bool], Awaitable[None]] | None = None
        self._telling: dict[asyncio.Future[None], None] = {}
        self._claimed: set[str] = set()
        self.faults = Faults()

    @property
    def processes(self) -> dict[str, _Process]:
        return self._processes

    def is_awake(self, instance: str) -> bool:
        """Whether a request would be answered now."""
        process = self._processes.get(instance)
        return process is not None and process.rung is Rung.AWAKE

    def work(self, instance: str, input_tokens: int, output_tokens: int) -> None:
        """Count a request, as an engine would. Raises EngineLost where no process is awake."""
        if not self.is_awake(instance):
            raise EngineLost(f"{instance} is not awake")
        process = self._processes[instance]
        old = process.counters
        process.counters = EngineCounters(old.input_tokens + input_tokens, 0, old.output_tokens + output_tokens)

    async def kill(self, instance: str, reason: str = "ended by SIGKILL") -> None:
        """As kill -9 from outside."""
        if self._processes.pop(instance, None) is not None and self._died is not None:
            await self._died(instance, reason, True)

    # --- the port --------------------------------------------------------------------------------------------------

    async def start(self, launch: LaunchSpec, progress: Progress) -> ProcessIdentity:
        instance = launch.instance
        if instance in self._processes:
            raise EngineStartFailed(f"{instance} already runs")
        progress("loading weights", None)
        if instance in self.faults.start_hangs:
            self.faults.start_hangs.discard(instance)
            await asyncio.sleep(launch.start_s_max)
            raise EngineStartFailed(f"the engine was not ready within {launch.start_s_max:.0f} s")
        await self._spend(self._of(instance).start_s)
        if instance in self.faults.start_fails:
            raise EngineStartFailed(self.faults.start_fails.pop(instance))
        progress("loading weights", 1.0)
        self._numbers += 1
        identity = ProcessIdentity(self._numbers, self._numbers * 7, "memory")
        self._processes[instance] = _Process(launch, identity)
        self._claimed.add(instance)
        return identity

    async def run(self, launch: LaunchSpec, limit_s: float) -> str:
        await asyncio.sleep(min(limit_s, self._of(launch.instance).start_s))
        return "ended with status 0"

    async def adopt(self, launch: LaunchSpec, identity: ProcessIdentity) -> bool:
        process = self._processes.get(launch.instance)
        if process is None or process.identity != identity:
            return False
        self._claimed.add(launch.instance)
        return True

    async def sink(self, instance: str, rung: Rung) -> str:
        process = self._one(instance)
        await asyncio.sleep(self._of(instance).sink_s[rung])
        if instance in self.faults.sink_fails:
            raise Unsupported(self.faults.sink_fails.pop(instance))
        if rung.has_process:
            process.rung = rung
        else:
            self._processes.pop(instance, None)
        return ""

    async def wake(self, instance: str) -> None:
        process = self._one(instance)
        await self._spend(self._of(instance).wake_s.get(process.rung, 0.0))
        if self._processes.get(instance) is not process:
            raise EngineLost(f"{instance} ended while it woke")
        process.rung = Rung.AWAKE

    async def stop(self, instance: str, grace_s: float) -> None:
        if instance in self._processes:
            await asyncio.sleep(self._of(instance).sink_s[Rung.OFF])
            self._processes.pop(instance, None)

    async def footprint(self, instance: str) -> Footprint:
        process = self._processes.get(instance)
        if process is None:
            return Footprint()
        costs = self._of(instance)
        if process.rung is Rung.LIGHT:
            return Footprint(zram_bytes=costs.light_bytes, swapped_bytes=costs.held_bytes)
        return Footprint(anonymous_bytes=costs.held_bytes)

    async def counters(self, instance: str) -> EngineCounters | None:
        return self._one(instance).counters

    async def canary(self, instance: str) -> tuple[str, EngineCounters]:
        if not self.is_awake(instance):
            raise EngineLost(f"{instance} is not awake")
        if self._of(instance).canary_s:
            await self._spend(self._of(instance).canary_s)
        self.work(instance, CANARY.input_tokens, CANARY.output_tokens)
        if instance in self.faults.canary_differs:
            self.faults.canary_differs.discard(instance)
            return "garbage", CANARY
        return "the same", CANARY

    def address(self, instance: str, name: str = "app") -> str:
        return self._one(instance).launch.socket

    def identity(self, instance: str) -> ProcessIdentity | None:
        process = self._processes.get(instance)
        return process.identity if process is not None and instance in self._claimed else None

    def last_lines(self, instance: str, count: int) -> tuple[str, ...]:
        return ()

    def watch(self, died: Callable[[str, str, bool], Awaitable[None]]) -> None:
        self._died = died

    async def survivors(self) -> tuple[tuple[LaunchSpec, ProcessIdentity, Rung], ...]:
        """What an earlier agent left running."""
        return tuple((p.launch, p.identity, p.rung) for p in self._processes.values())

    def saved_bytes(self, launch: LaunchSpec) -> int:
        return 0

    async def cpu_s(self, instance: str) -> float:
        return 0.0

    async def recall(self, launches: Iterable[LaunchSpec]) -> dict[str, ToldDigest | StateLost]:
        return {}

    def keeps(self, launch: LaunchSpec) -> bool:
        return False  # models keep their prompts, not their processes

    def forget_state(self, launch: LaunchSpec) -> None:
        return

    async def close(self, *, end_engines: bool) -> None:
        if end_engines:
            self._processes.clear()

    def _of(self, instance: str) -> Costs:
        return self._costs.get(instance) or self._costs[""]

    def _one(self, instance: str) -> _Process:
        process = self._processes.get(instance)
        if process is None:
            raise EngineLost(f"{instance} has no process")
        return process
