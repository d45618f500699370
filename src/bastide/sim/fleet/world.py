"""The world of a simulated fleet: virtual time as a heap of what is due, and everything in it wired together.

The order of what is due at one moment is the order in which it was scheduled; nothing reads a clock or draws but from the
seed. So a seed replays to the bit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from bastide.control.fleet.loop import FleetLoop
from bastide.control.fleet.services import FleetService
from bastide.control.fleet.services import Way as DeclaredWay
from bastide.control.fleet.settings import FleetSettings, Site
from bastide.policy.placement import Mix, Score, costs
from bastide.sim.evaluate.packing import Fgd, best_fit, gpu_packing
from bastide.sim.fleet.agents import Agents
from bastide.sim.fleet.checkers import Checkers
from bastide.sim.fleet.gateway import Gateway
from bastide.sim.fleet.live import Live
from bastide.sim.fleet.measure import Latencies, Measured, Sample
from bastide.sim.fleet.setup import Placing, Service, Setup
from bastide.sim.fleet.trouble import Troubles

START_S = 0.0
# Placement by others, to compare with.
SCORES: dict[Placing, Callable[[Mix], Score]] = {
    Placing.FGD: Fgd,
    Placing.BEST_FIT: lambda mix: best_fit,
    Placing.GPU_PACKING: lambda mix: gpu_packing,
}
# Whether a run is worth going on with is asked so often.
HOPELESS_LOOK_S = 60.0


class World:
    """Make it, `run` it, read `measured`."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.now_s = START_S
        self.clock_shift_s = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self.events = 0
        self._stopped = False
        self.measured = Measured()
        self.recent = Latencies()
        self.locations = {location.name: location for location in setup.locations}
        self.price = [self._price(shape.model, shape.location) for shape in setup.shapes]
        self.lives: dict[str, Live] = {spec.name: Live(spec, spec.arrivals()) for spec in setup.services}
        self.agents = Agents(self)
        self.control = self._control()
        self.gateway = Gateway(self)
        self.trouble = Troubles(self, setup.faults)
        self.checkers = Checkers(self)
        if setup.prefetched:
            self._prefetch()
        self._before = (0.0, 0.0, 0.0, dict[str, int]())
        self._idle_w: dict[str, float] = {}

    def _control(self) -> FleetLoop:
        """The shipped loop, on this world's ports."""
        setup, policies = self.setup, self.setup.policies
        control = FleetLoop(
            [Site(one.name, one.power_w, one.source_bytes_per_s, one.neighbour_bytes_per_s) for one in setup.locations],
            setup.shapes,
            [(declared(spec), self.lives[spec.name]) for spec in setup.services],
            self.agents,
            Time(self),
            self.measured.control,
            lambda what, service, reason: self.measured.reason(self.now_s, what, service, reason),
            FleetSettings(
                setup.tick_s,
                setup.react_s,
                setup.inventory_s,
                policies.predict,
                policies.give_way,
                policies.starts_per_minute,
            ),
            self.price,
            {model: facts.memory_bytes for model, facts in setup.device_facts.items()},
            SCORES.get(policies.placing, costs),
        )
        for name, service in control.services.items():
            self.lives[name].managed = service
        return control

    def _prefetch(self) -> None:
        """A deploy fetches weights before anybody asks: every location that may run a service has them on one node."""
        by_location: dict[str, list[int]] = {}
        for node in self.agents.nodes:
            if node.shape.devices:
                by_location.setdefault(node.shape.location, []).append(node.index)
        for number, live in enumerate(self.lives.values()):
            for name, nodes in by_location.items():
                if not live.spec.borders or name in live.spec.borders:
                    self.agents.cache(live, self.agents.nodes[nodes[number % len(nodes)]])

    def _price(self, model: str, location: str) -> float:
        facts = self.setup.device_facts.get(model)
        if facts is not None and facts.price_per_hour:
            return facts.price_per_hour
        return self.locations[location].price_per_gpu_hour or 1.0

    @property
    def clock_s(self) -> float:
        """The wall clock as control reads it; it may jump."""
        return self.now_s + self.clock_shift_s

    def at(self, when_s: float, act: Callable[..., None], *arguments: Any) -> None:
        """Do it then; what lies in the past is done now."""
        self._serial += 1
        heapq.heappush(self._due, (max(when_s, self.now_s), self._serial, act, arguments))

    def report(self, told: Callable[..., None], *arguments: Any) -> None:
        """An agent tells control something; it may be lost, or told twice. The inventory makes up for that."""
        node = self.agents.nodes[arguments[0].node]
        if node.cut or self.trouble.loses_hint():
            return
        told(*arguments)
        if self.trouble.doubles_hint():
            told(*arguments)

    def run(self, hopeless: Callable[[Measured], bool] | None = None) -> Measured:
        """Until the duration is over and time has settled, or until `hopeless`, which is asked now and then, says enough."""
        setup = self.setup
        for live in self.lives.values():
            self.gateway.begin(live)
        self.control.begin()
        if setup.samples:
            self.at(setup.duration_s / setup.samples, self._sample)
        if self.trouble.any:
            self.control.begin_inventories()
        if setup.check_every_s:
            self.at(setup.check_every_s, self._check)
        if hopeless is not None:
            self.at(HOPELESS_LOOK_S, self._look, hopeless)
        self.until(setup.duration_s + setup.settle_s)
        self.gateway.close()
        self._close()
        return self.measured

    def until(self, when_s: float) -> None:
        """Do what is due until then; where `hopeless` said enough, until that moment."""
        due = self._due
        while due and due[0][0] <= when_s:
            self.now_s, _, act, arguments = heapq.heappop(due)
            act(*arguments)
            self.events += 1
            if self._stopped:
                return
        self.now_s = when_s

    def _look(self, hopeless: Callable[[Measured], bool]) -> None:
        self._stopped = hopeless(self.measured)
        self.at(self.now_s + HOPELESS_LOOK_S, self._look, hopeless)

    def _check(self) -> None:
        self.checkers.look()
        self.at(self.now_s + self.setup.check_every_s, self._check)

    def _close(self) -> None:
        agents, measured = self.agents, self.measured
        for name in self.locations:
            measured.allocated_device_s[name] = agents.allocated[name].until(self.now_s)
            measured.busy_device_s[name] = agents.busy_devices[name].until(self.now_s)

    def idle_w(self) -> dict[str, float]:
        """What all devices draw when idle, by location."""
        if self._idle_w:
            return self._idle_w
        drawn = dict.fromkeys(self.locations, 0.0)
        for shape in self.setup.shapes:
            facts = self.setup.device_facts.get(shape.model)
            if facts is not None:
                drawn[shape.location] += shape.devices * facts.idle_power_w
        self._idle_w = drawn
        return drawn

    def energy_kwh(self, location: str) -> float:
        """What all devices of a location used until now."""
        return (self.idle_w()[location] * self.now_s + self.agents.busy_w[location].until(self.now_s)) / 3.6e6

    def rent(self, location: str) -> float:
        """What the devices that were held there have cost until now."""
        if not self.locations[location].price_per_gpu_hour:
            return 0.0
        return self.agents.rented[location].until(self.now_s) / 3600

    def _sample(self) -> None:
        agents, measured = self.agents, self.measured
        step_s = self.setup.duration_s / self.setup.samples
        devices = max(1, sum(shape.devices for shape in self.setup.shapes))
        busy = sum(meter.until(self.now_s) for meter in agents.busy_devices.values())
        watts = sum(meter.until(self.now_s) for meter in agents.busy_w.values())
        arrived, busy_before, watts_before, wakes_before = self._before
        measured.timeline.append(
            Sample(
                self.now_s,
                sum(meter.value for meter in agents.allocated.values()) / devices,
                (busy - busy_before) / step_s / devices,
                agents.awake,
                sum(len(asleep) for asleep in agents.resting.values()),
                max(0.0, self.gateway.held_weight),
                sum(live.in_flight for live in self.lives.values()),
                measured.arrived - arrived,
                {rung: count - wakes_before.get(rung, 0) for rung, count in sorted(measured.wakes.items())},
                self.recent.at(0.5),
                self.recent.at(0.99),
                (watts - watts_before) / step_s + sum(self.idle_w().values()),
                sum(self.energy_kwh(name) for name in self.locations),
                sum(
                    self.rent(name) + self.energy_kwh(name) * place.price_per_kwh
                    for name, place in self.locations.items()
                ),
                int(self.control.planner.fleet.open.sum()),
            )
        )
        self._before = (measured.arrived, busy, watts, dict(measured.wakes))
        self.recent = Latencies()
        if self.now_s + step_s <= self.setup.duration_s + 1e-6:
            self.at(self.now_s + step_s, self._sample)


class Time:
    """The port `Timer` in virtual time; hints are lost or doubled while that is among the troubles."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now_s(self) -> float:
        return self._world.clock_s

    def monotonic_s(self) -> float:
        return self._world.now_s

    def at(self, when_s: float, act: Callable[..., None], *arguments: Any) -> None:
        self._world.at(when_s, act, *arguments)

    def soon(self, act: Callable[[], None]) -> bool:
        world = self._world
        if world.trouble.loses_hint():
            return False
        for _ in range(2 if world.trouble.doubles_hint() else 1):
            world.at(world.now_s + world.setup.react_s, act)
        return True


def declared(spec: Service) -> FleetService:
    """What control is told of a service."""
    ways = tuple(
        DeclaredWay(way.request, way.slots, way.prefill_tokens_per_s, way.cached_s, way.light_s, way.sleep_s)
        for way in spec.ways
    )
    return FleetService(
        spec.name, spec.weights, spec.weights_bytes, ways, spec.least, spec.most, spec.borders, spec.first_token_s
    )
