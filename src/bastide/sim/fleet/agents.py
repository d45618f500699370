"""The agents of a simulated fleet's nodes: they start, rest and end copies, and say how long each takes.

A fake port. It keeps the promises that real agents keep (a busy copy is never rested; what doesn't fit is refused), measures
what devices do, and never chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bastide.policy.fleet import WHOLE, Request
from bastide.policy.fleetstate import Copy
from bastide.policy.guards import drain
from bastide.ports.fleet import Begun, NotBegun
from bastide.sim.fleet.live import Live
from bastide.sim.fleet.nodes import Node, Running

if TYPE_CHECKING:
    from bastide.sim.fleet.world import World

# Copies asleep in host memory hold at most this part of it; the one asleep longest goes first.
ASLEEP_PART = 0.5
MIB = 2**20


class Meter:
    """A quantity over time: what it is, and its sum over the time gone by."""

    __slots__ = ("since_s", "sum", "value")

    def __init__(self) -> None:
        self.value = self.sum = self.since_s = 0.0

    def add(self, delta: float, now_s: float) -> None:
        self.sum += self.value * (now_s - self.since_s)
        self.since_s = now_s
        self.value += delta

    def until(self, now_s: float) -> float:
        self.add(0.0, now_s)
        return self.sum


class Agents:
    """All agents: the port `Nodes`. `_holders`: nodes that have weights on their disk, by weights. `_idle`: awake copies without work."""

    def __init__(self, world: World) -> None:
        self.world = world
        setup = world.setup
        self.nodes = [Node(index, shape, setup.disk_bytes) for index, shape in enumerate(setup.shapes)]
        self._holders: dict[str, dict[int, None]] = {}
        self._idle: dict[str, Running] = {}
        self.resting: dict[int, dict[str, Running]] = {}
        names = [location.name for location in setup.locations]
        self.allocated = {name: Meter() for name in names}  # devices
        self.rented = {name: Meter() for name in names}  # devices x their price
        self.busy_devices = {name: Meter() for name in names}
        self.busy_w = {name: Meter() for name in names}
        self.awake = 0
        self._link_free_s = dict.fromkeys(
            names, 0.0
        )  # when a location's link to the source has brought all it was asked for

    # --- what is known -------------------------------------------------------------------------------------------------

    def node(self, index: int) -> Node:
        return self.nodes[index]

    def up(self, index: int) -> bool:
        return self.nodes[index].up

    def answers(self, index: int) -> bool:
        node = self.nodes[index]
        return node.up and not node.cut

    def find(self, service: str, instance: str) -> Running | None:
        live = self.world.lives.get(service)
        return live.copies.get(instance) if live is not None else None

    def idle(self) -> Iterable[Running]:
        return self._idle.values()

    def asleep(self, index: int) -> Iterable[Running]:
        return self.resting.get(index, {}).values()

    def holders(self, weights: str) -> Sequence[int]:
        return list(self._holders.get(weights, ()))

    def inventory(self, index: int) -> tuple[Mapping[str, Copy], float]:
        return self.world.trouble.seen(index)

    # --- what a start takes --------------------------------------------------------------------------------------------

    def wake(self, live: Live, node: Node, asleep: Running | None, cached_s: float) -> tuple[str, float]:
        """From which rung or place it wakes there, and in how many seconds, were it alone."""
        if asleep is not None and asleep.way.light_s is not None:
            return "light", asleep.way.light_s
        if live.spec.weights in node.cached:
            return "cached", cached_s
        location = self.world.locations[node.shape.location]
        holders = self._holders.get(live.spec.weights, {})
        if any(self.nodes[one].shape.location == node.shape.location and self.nodes[one].up for one in holders):
            return "neighbour", cached_s + live.spec.weights_bytes / location.neighbour_bytes_per_s
        return "source", cached_s + live.spec.weights_bytes / location.source_bytes_per_s

    def link_s(self, location: str) -> float:
        """For how long the link from the source to that location is taken: weights come over it one after the other."""
        return max(0.0, self._link_free_s[location] - self.world.now_s)

    def start(self, copy: Copy) -> Begun | NotBegun:
        node, live = self.nodes[copy.node], self.world.lives[copy.service]
        if not node.up or node.cut:
            return NotBegun("the node does not answer")
        there = node.instances.get(copy.instance)
        if there is not None and there.state != "resting":
            return self._begun(there)  # asked twice
        lacks = node.lacks(copy.request, copy.devices, there)
        if lacks is not None:
            return NotBegun(lacks)
        way = live.way_of[copy.request]
        rung, wake_s = self.wake(live, node, there, way.cached_s)
        if node.disk_full and rung in ("neighbour", "source"):
            return NotBegun("its disk is full")
        now_s = self.world.now_s
        if there is not None:
            self._forget(there)
            node.release(there)
        node.starting += 1
        moves_s = 0.0 if rung == "light" else wake_s - way.cached_s
        if rung == "source":
            # What is ended meanwhile has had its turn all the same: what it fetched is of no use to the next.
            location = node.shape.location
            wake_s += self.link_s(location)
            self._link_free_s[location] = now_s + self.link_s(location) + moves_s
            moves_s = 0.0
        if rung != "light":
            # Those who load on one node share its disk, and its link to its neighbours.
            wake_s += (node.starting - 1) * (moves_s + way.load_s)
        running = Running(copy, live, way, "starting", now_s, changed_s=now_s, rung=rung, expected_s=wake_s)
        node.hold(running)
        live.copies[copy.instance] = running
        live.starting += 1
        self._allocate(running, 1)
        if node.out_of_memory:
            self.world.at(now_s + wake_s / 2, self._dies, running, "out of memory")
        elif not node.hangs:
            self.world.at(now_s + wake_s * node.slow, self._ready, running)
        return self._begun(running)

    def _begun(self, running: Running) -> Begun:
        """It is on its way; where the store times out, nobody says so."""
        return Begun(running.expected_s, heard=not self.world.trouble.store_times_out())

    def _ready(self, running: Running) -> None:
        live, node = running.service, self.nodes[running.copy.node]
        if running.state != "starting" or live.copies.get(running.copy.instance) is not running:
            return
        now_s = self.world.now_s
        running.state, running.ready_s, running.changed_s, running.idle_since_s = "awake", now_s, now_s, now_s
        live.starting -= 1
        node.starting -= 1
        self.awake += 1
        live.awake.append(running)
        measured = self.world.measured
        measured.wakes[running.rung] += 1
        measured.wake_s[running.rung] = measured.wake_s.get(running.rung, 0.0) + now_s - running.began_s
        self.cache(live, node)
        self.world.report(self.world.control.started, running.copy)
        self.world.gateway.serve_waiting(live)
        if running.in_flight <= 1e-9:
            self.became_idle(running)
            if live.in_flight <= 1e-9 and not live.waiting and live.spans is None:
                self.world.gateway.idle(live)  # else it was woken ahead, and is let go as was planned then

    def cache(self, live: Live, node: Node) -> None:
        """Its weights are on that node's disk from now on."""
        if node.disk_full:
            return
        for gone in node.cache(live.spec.weights, live.spec.weights_bytes):
            self._holders[gone].pop(node.index, None)
        if live.spec.weights in node.cached:
            self._holders.setdefault(live.spec.weights, {})[node.index] = None

    def _dies(self, running: Running, why: str) -> None:
        if running.service.copies.get(running.copy.instance) is running:
            lived_s = self.world.now_s - running.ready_s if running.state == "awake" else 0.0
            self._end(running)
            self.world.report(self.world.control.died, running.copy, why, lived_s)

    # --- resting and ending ----------------------------------------------------------------------------------------------

    def rest(self, copy: Copy) -> bool:
        running = self.find(copy.service, copy.instance)
        if running is None or running.state != "awake" or not drain(round(running.in_flight, 6), 0.0).ends:
            return False
        running.state = "sinking"
        running.service.awake.remove(running)
        self.awake -= 1
        self._idle.pop(running.copy.instance, None)
        self.world.at(self.world.now_s + running.way.sleep_s, self._rested, running)
        return True

    def _rested(self, running: Running) -> None:
        live, node = running.service, self.nodes[running.copy.node]
        if running.state != "sinking" or live.copies.get(running.copy.instance) is not running:
            return
        copy = running.copy
        holds = Request(0, -(-live.spec.weights_bytes // MIB))
        room = node.shape.memory_mib - node.memory_mib + copy.request.memory_mib >= holds.memory_mib
        light = self.world.setup.policies.light and running.way.light_s is not None and not running.draining
        if not (light and room and holds.memory_mib <= ASLEEP_PART * node.shape.memory_mib):
            self._end(running)
            self.world.report(self.world.control.ended, running.copy)
            return
        self._allocate(running, -1)
        node.release(running)
        running.copy = replace(copy, devices=(), request=holds, resting=True)
        running.state = "resting"
        node.hold(running)
        asleep = self.resting.setdefault(node.index, {})
        asleep[copy.instance] = running
        self.world.report(self.world.control.rested, running.copy)
        while sum(one.copy.request.memory_mib for one in asleep.values()) > ASLEEP_PART * node.shape.memory_mib:
            self._stop(next(iter(asleep.values())))  # its weights stay on the disk

    def stop(self, copy: Copy) -> None:
        running = self.find(copy.service, copy.instance)
        if running is not None:
            self._stop(running)

    def end(self, copy: Copy) -> None:
        running = self.find(copy.service, copy.instance)
        if running is not None:
            self._end(running)

    def _stop(self, running: Running) -> None:
        """It ends for good, after what is in flight."""
        running.draining = True
        if running.state == "resting" or (running.state == "awake" and running.in_flight <= 1e-9):
            self._end(running)
            self.world.report(self.world.control.ended, running.copy)

    def _end(self, running: Running) -> None:
        """It is gone now, whatever it did; requests in flight move."""
        live, node = running.service, self.nodes[running.copy.node]
        if running.state == "starting":
            live.starting -= 1
            node.starting -= 1
        elif running.state == "awake":
            live.awake.remove(running)
            self.awake -= 1
        state, running.state = running.state, "gone"
        self._idle.pop(running.copy.instance, None)
        self._forget(running)
        del live.copies[running.copy.instance]
        if running.works:
            self.world.gateway.lost(running)
        if state != "resting":
            self._allocate(running, -1)
        node.release(running)

    def _forget(self, asleep: Running) -> None:
        self.resting.get(asleep.copy.node, {}).pop(asleep.copy.instance, None)

    # --- what devices do -------------------------------------------------------------------------------------------------

    def company(self, running: Running) -> float:
        """How many copies compute on its device, itself included: they take turns."""
        if not running.copy.request.shares:
            return 1.0
        device = running.copy.devices[0]
        found = 1.0
        for other in self.nodes[running.copy.node].instances.values():
            if other is not running and other.in_flight > 0 and device in other.copy.devices:
                found += min(1.0, other.in_flight)
        return found

    def busy(self, running: Running, delta: float) -> None:
        """So much more is in flight there."""
        now_s = self.world.now_s
        before = min(1.0, running.in_flight)
        running.in_flight = max(0.0, running.in_flight + delta)
        if running.in_flight < 1e-9:
            running.in_flight = 0.0
        change = min(1.0, running.in_flight) - before
        if delta > 0:
            self._idle.pop(running.copy.instance, None)
        if change:
            shape = self.nodes[running.copy.node].shape
            size = running.copy.request.total_milli / WHOLE
            facts = self.world.setup.device_facts.get(shape.model)
            self.busy_devices[shape.location].add(change * size, now_s)
            if facts is not None:
                self.busy_w[shape.location].add(change * size * (facts.power_w - facts.idle_power_w), now_s)

    def became_idle(self, running: Running) -> None:
        running.idle_since_s = self.world.now_s
        if running.draining:
            self._stop(running)
        elif running.state == "awake":
            self._idle[running.copy.instance] = running

    def _allocate(self, running: Running, sign: int) -> None:
        shape = self.nodes[running.copy.node].shape
        size = sign * running.copy.request.total_milli / WHOLE
        now_s = self.world.now_s
        self.allocated[shape.location].add(size, now_s)
        self.rented[shape.location].add(size * self.world.price[running.copy.node], now_s)
