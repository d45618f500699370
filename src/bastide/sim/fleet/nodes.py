"""The nodes of a simulated fleet: what really runs where, and what a start takes. A fake port: it decides nothing.

It refuses what doesn't fit, whatever anybody's picture says; so a mistake of the planner shows as a failed start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bastide.policy.fleet import WHOLE, NodeShape, Request
from bastide.policy.fleetstate import Copy
from bastide.sim.fleet.setup import Way

if TYPE_CHECKING:
    from bastide.sim.fleet.live import Live, Work


@dataclass(slots=True, eq=False)
class Running:
    """An instance as it really is. `state`: starting, awake, sinking or resting (asleep in host memory)."""

    copy: Copy
    service: Live
    way: Way
    state: str
    began_s: float
    ready_s: float = 0.0
    in_flight: float = 0.0
    prefill_free_s: float = 0.0
    changed_s: float = 0.0
    idle_since_s: float = 0.0
    draining: bool = False
    rung: str = "off"  # it woke from
    expected_s: float = 0.0
    works: dict[int, Work] = field(default_factory=dict)
    device_s: float = 0.0  # busy so far
    kv_tokens: float = 0.0

    @property
    def wake_s(self) -> float:
        return self.way.light_s if self.way.light_s is not None else self.way.cached_s


@dataclass(slots=True)
class Node:
    """One machine. `cached`: weights on its disk, by name with their bytes; the least recently used go first."""

    index: int
    shape: NodeShape
    disk_bytes: int
    up: bool = True
    cut: bool = False
    slow: float = 1.0
    hangs: bool = False
    disk_full: bool = False
    out_of_memory: bool = False
    instances: dict[str, Running] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    starting: int = 0
    cpu_milli: int = 0
    memory_mib: int = 0
    power_w: int = 0
    used_milli: list[int] = field(default_factory=list)
    cached_bytes: int = 0

    def __post_init__(self) -> None:
        self.used_milli = [0] * self.shape.devices

    def lacks(self, request: Request, devices: tuple[int, ...], without: Running | None = None) -> str | None:
        """What is missing for it, None where it fits. `without`: that one gives back what it holds first."""
        shape = self.shape
        cpu, memory = self.cpu_milli, self.memory_mib
        if without is not None:
            cpu -= without.copy.request.cpu_milli
            memory -= without.copy.request.memory_mib
        if cpu + request.cpu_milli > shape.cpu_milli:
            return "no cores"
        if memory + request.memory_mib > shape.memory_mib:
            return "no host memory"
        watts = self.power_w - (without.copy.request.power_w if without is not None else 0)
        if shape.power_w is not None and watts + request.power_w > shape.power_w:
            return "no power"
        for device in devices:
            if self.used_milli[device] + request.device_milli > WHOLE:
                return f"device {device} is full"
        return None

    def hold(self, running: Running) -> None:
        copy = running.copy
        self.instances[copy.instance] = running
        self._move(copy, 1)

    def release(self, running: Running) -> None:
        del self.instances[running.copy.instance]
        self._move(running.copy, -1)

    def _move(self, copy: Copy, sign: int) -> None:
        self.cpu_milli += sign * copy.request.cpu_milli
        self.memory_mib += sign * copy.request.memory_mib
        self.power_w += sign * copy.request.power_w
        for device in copy.devices:
            self.used_milli[device] += sign * copy.request.device_milli

    def cache(self, weights: str, size: int) -> list[str]:
        """Weights are on its disk now; returns those that had to go."""
        self.cached_bytes -= self.cached.pop(weights, 0)
        gone: list[str] = []
        if size > self.disk_bytes:
            return gone
        while self.cached_bytes + size > self.disk_bytes:
            oldest = next(iter(self.cached))
            self.cached_bytes -= self.cached.pop(oldest)
            gone.append(oldest)
        self.cached[weights] = size
        self.cached_bytes += size
        return gone
