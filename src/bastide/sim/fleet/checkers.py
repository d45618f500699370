"""What must hold at every moment of a simulated fleet, and what must come true once faults stop. Looks from outside, on what
really is, adding up anew; never asks the code under test whether it did well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bastide.policy.fleet import WHOLE
from bastide.policy.guards import hangs

if TYPE_CHECKING:
    from bastide.sim.fleet.nodes import Node
    from bastide.sim.fleet.world import World

BROKEN_MAX = 50


class Checkers:
    """Each method is one invariant; what is broken is gathered in `broken`, with the moment."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken: list[str] = []
        self.looks = 0

    def look(self) -> None:
        """The safety invariants, now."""
        self.looks += 1
        for node in self.world.agents.nodes:
            if node.instances:
                self._capacity(node)
                self._residence(node)
        self._twice()
        self._requests()
        self._holds()
        self._power()
        self._counts()

    def _broke(self, what: str) -> None:
        if len(self.broken) < BROKEN_MAX:
            self.broken.append(f"{self.world.now_s:.3f}: {what}")

    def _capacity(self, node: Node) -> None:
        """No node and no device holds more than it has."""
        shape, used = node.shape, [0] * node.shape.devices
        cpu = memory = 0
        for running in node.instances.values():
            request = running.copy.request
            cpu += request.cpu_milli
            memory += request.memory_mib
            for device in running.copy.devices:
                if device < len(used):
                    used[device] += request.device_milli
                else:
                    self._broke(f"{running.copy.instance} is on device {device} of {shape.name}, which has {len(used)}")
        if cpu > shape.cpu_milli or memory > shape.memory_mib or any(milli > WHOLE for milli in used):
            self._broke(
                f"{shape.name} holds {cpu} of {shape.cpu_milli} cpu, {memory} of {shape.memory_mib} MiB, {used}"
            )
        if not node.up:
            self._broke(f"{shape.name} is lost and still runs {sorted(node.instances)}")

    def _residence(self, node: Node) -> None:
        """Nothing is outside its borders, nor on a device it can't use."""
        for running in node.instances.values():
            borders = running.service.spec.borders
            if borders and node.shape.location not in borders:
                self._broke(f"{running.copy.instance} is in {node.shape.location}, outside its borders")
            models = running.copy.request.models
            if models and running.copy.devices and node.shape.model not in models:
                self._broke(f"{running.copy.instance} is on {node.shape.model}")

    def _twice(self) -> None:
        """No instance is in two places."""
        seen: dict[str, str] = {}
        for node in self.world.agents.nodes:
            for instance in node.instances:
                if instance in seen:
                    self._broke(f"{instance} is on {seen[instance]} and on {node.shape.name}")
                seen[instance] = node.shape.name

    def _requests(self) -> None:
        """Every request is somewhere, once; and only awake copies have any."""
        measured, flying = self.world.measured, 0.0
        waiting = 0.0
        for live in self.world.lives.values():
            waiting += sum(work.weight for work in live.waiting if work.waiting)
            for running in live.copies.values():
                weight = sum(work.weight for work in running.works.values())
                flying += weight
                if weight and running.state != "awake":
                    self._broke(f"{running.copy.instance} is {running.state} and has requests")
                if running.in_flight > 1.5 * running.way.slots + 1:
                    self._broke(
                        f"{running.copy.instance} has {running.in_flight:g} requests in {running.way.slots} slots"
                    )
        over = measured.over
        if abs(measured.arrived - over - flying - waiting) > 1e-6 * max(1.0, measured.arrived):
            self._broke(f"{measured.arrived:g} came, {over:g} are over, {flying:g} are under way, {waiting:g} wait")
        if abs(self.world.gateway.held_weight - waiting) > 1e-6 * max(1.0, measured.arrived):
            self._broke(f"the queue says {self.world.gateway.held_weight:g} wait, and {waiting:g} do")

    def _holds(self) -> None:
        """Nobody waits longer than was said, and no queue is longer."""
        for live in self.world.lives.values():
            for work in live.waiting:
                if work.waiting and self.world.now_s - work.at_s > live.spec.wait_s_max + 1.0 and not work.span_s:
                    self._broke(f"a request to {live.spec.name} waits for {self.world.now_s - work.at_s:.1f} s")
            singles = sum(work.weight for work in live.waiting if work.waiting and not work.span_s)
            if singles > live.spec.queue_max + 1:
                self._broke(f"{singles:g} wait for {live.spec.name}, and {live.spec.queue_max} may")

    def _power(self) -> None:
        """No node and no location draws more than it may."""
        drawn = dict.fromkeys(self.world.locations, 0)
        for node in self.world.agents.nodes:
            watts = sum(running.copy.request.power_w for running in node.instances.values())
            drawn[node.shape.location] += watts
            if node.shape.power_w is not None and watts > node.shape.power_w:
                self._broke(f"{node.shape.name} draws {watts} W of {node.shape.power_w}")
        for name, location in self.world.locations.items():
            if location.power_w is not None and drawn[name] > location.power_w:
                self._broke(f"{name} draws {drawn[name]} W of {location.power_w}")

    def _counts(self) -> None:
        """No service has more copies than it may, whatever control believes."""
        for live in self.world.lives.values():
            awake = len(live.awake) + live.starting
            if awake != sum(1 for one in live.copies.values() if one.state in ("awake", "starting")):
                self._broke(f"{live.spec.name} counts {awake} copies")
            if awake > live.spec.most:
                self._broke(f"{live.spec.name} has {awake} copies, and {live.spec.most} may be")

    def settled(self) -> None:
        """What must be true once faults have stopped and time has passed: control's picture is the truth, whoever must be
        awake is, nobody waits, nothing hangs."""
        world = self.world
        real = {
            name: one for live in world.lives.values() for name, one in live.copies.items() if one.state != "sinking"
        }
        picture = world.control.planner.copies
        for instance in sorted(real.keys() ^ picture.keys()):
            where = "is not in control's picture" if instance in real else "is only in control's picture"
            self._broke(f"after the faults {instance} {where}")
        for instance in sorted(real.keys() & picture.keys()):
            if real[instance].copy != picture[instance]:
                self._broke(f"after the faults {instance} is not as control believes")
        for node in world.agents.nodes:
            believed = int(world.control.picture.starting[node.index])
            if believed > sum(1 for one in node.instances.values() if one.state == "starting"):
                self._broke(f"after the faults control believes in {believed} starts on {node.shape.name}")
        for live in world.lives.values():
            if len(live.awake) < live.spec.least:
                self._broke(f"after the faults {live.spec.name} has {len(live.awake)} awake of {live.spec.least}")
            if len(live.awake) + live.starting > live.spec.most:
                self._broke(f"after the faults {live.spec.name} has more copies than {live.spec.most}")
            if live.waiting:
                self._broke(f"after the faults {len(live.waiting)} still wait for {live.spec.name}")
            for running in live.copies.values():
                since_s = world.now_s - running.began_s
                if running.state == "starting" and hangs(since_s, running.expected_s):
                    self._broke(f"after the faults {running.copy.instance} is starting for {since_s:.0f} s")
