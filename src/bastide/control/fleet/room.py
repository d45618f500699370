"""Who gives way when a service that is asked for has no place. Owns gathering the candidates; the shipped policies choose:
`pooling` says whose turn it is among those who wait, `room` who gives way on a device."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from bastide.control.fleet.services import Managed
from bastide.policy.fleet import WHOLE, Fleet, Request
from bastide.policy.pooling import Candidate, next_turn
from bastide.policy.room import Fits, GiveWay, Resident, idle_quantum_s, make_room, quantum_s
from bastide.ports.fleet import Instance, Node, Nodes, Timer

# At most so many get room in one go, and so many nodes are looked at for each.
GRANTS_MAX = 8
NODES_MAX = 64
# Who was promised room waits this long before more is asked to go for it.
PATIENCE_S = 2.0
# Of a device whose memory nobody knows, a thousandth has so many bytes: only parts of one device are compared.
UNIT_BYTES = 2**20


class Room:
    """Makes room on nodes. `gives_way` is told who goes, and why; `hint`, that room will be there."""

    def __init__(
        self,
        fleet: Fleet,
        services: Mapping[str, Managed],
        nodes: Nodes,
        timer: Timer,
        memory_bytes: Mapping[str, int],
        gives_way: Callable[[str, str], None],
        hint: Callable[[], None],
    ) -> None:
        self._fleet, self._services, self._nodes, self._timer = fleet, services, nodes, timer
        self._memory_bytes, self._gives_way, self._hint = memory_bytes, gives_way, hint
        self._offset = 0

    def make(self, unplaced: Sequence[Managed]) -> None:
        """Room for those of them that requests wait for, or that must be awake; the most urgent first."""
        now_s = self._timer.monotonic_s()
        wait = [
            (service, since_s if since_s is not None else now_s)
            for service in unplaced
            if (
                (since_s := service.demand.waits_since_s()) is not None
                or service.demand.copies_there() < service.spec.least
            )
            and service.asked_s + PATIENCE_S <= now_s
        ]
        for _ in range(min(GRANTS_MAX, len(wait))):
            candidates = [
                Candidate(
                    service.spec.name,
                    since_s + service.spec.first_token_s - now_s,
                    min(way.cached_s for way in service.spec.ways),
                )
                for service, since_s in wait
            ]
            turn = next_turn(candidates, float("inf"))
            if turn.index is None:
                return
            service, _ = wait.pop(turn.index)
            service.asked_s = now_s
            self._for(service)

    def where_it_rests(self, service: Managed) -> bool:
        """Whether somebody idle makes room where this one sleeps in memory: swapped there, it answers sooner than loaded
        anywhere else. Not asked again before that is done."""
        now_s = self._timer.monotonic_s()
        if service.asked_s + PATIENCE_S > now_s:
            return False
        for asleep in service.demand.instances():
            if asleep.state != "resting":
                continue
            index = asleep.copy.node
            node = self._nodes.node(index)
            way = next(one for one in service.requests if not one.models or node.shape.model in one.models)
            free = sum(1 for used in node.used_milli if used + way.device_milli <= WHOLE)
            if free < way.devices and self._nodes.answers(index):
                service.asked_s = now_s
                return self._on(service, index, False)
        return False

    def _for(self, service: Managed) -> None:
        idle = itertools.islice(self._nodes.idle(), 4 * NODES_MAX)
        nodes = dict.fromkeys(instance.copy.node for instance in idle)
        if any(self._on(service, node, False) for node in itertools.islice(nodes, NODES_MAX)):
            return
        # Nobody idle can help: somebody busy whose time is over finishes and goes.
        count = len(self._fleet)
        looked = ((self._offset + step) % count for step in range(min(NODES_MAX, count)))
        self._offset = (self._offset + NODES_MAX) % count
        for node in looked:
            if self._on(service, node, True):
                return

    def _on(self, service: Managed, index: int, drains: bool) -> bool:
        """Whether room was made, or will be, on that node."""
        node, spec = self._nodes.node(index), service.spec
        shape = node.shape
        if not self._fleet.open[index]:
            return False
        if spec.borders and shape.location not in spec.borders:
            return False
        way = next((one for one in service.requests if not one.models or shape.model in one.models), None)
        if way is None or way.devices > shape.devices:
            return False
        victims = self._victims(node, way, drains)
        if victims is None:
            return False
        lacks_mib = node.memory_mib + way.memory_mib - shape.memory_mib
        freed_mib = sum(one.copy.request.memory_mib for one, _ in victims)
        for asleep in list(self._nodes.asleep(index)):
            if lacks_mib <= freed_mib:
                break
            freed_mib += asleep.copy.request.memory_mib
            self._nodes.stop(asleep.copy)
        for victim, why in victims:
            self._gives_way(victim.copy.service, f"{why}; for {spec.name}")
            if victim.in_flight > 0:
                self._nodes.stop(victim.copy)
            else:
                self._nodes.rest(victim.copy)
        self._hint()
        return True

    def _victims(self, node: Node, request: Request, drains: bool) -> list[tuple[Instance, str]] | None:
        """Who goes so that the devices asked for are free; None where that can't be."""
        found: list[tuple[int, list[tuple[Instance, str]]]] = []
        unit = max(1, self._memory_bytes.get(node.shape.model, UNIT_BYTES * WHOLE) // WHOLE)
        for device in range(node.shape.devices):
            there = {
                name: instance
                for name, instance in node.instances.items()
                if instance.state != "resting" and device in instance.copy.devices
            }
            decision = make_room(
                WHOLE * unit, request.device_milli * unit, tuple(self._residents(there.values(), unit))
            )
            if isinstance(decision, Fits):
                found.append((0, []))
            elif isinstance(decision, GiveWay) and (drains or not decision.drain):
                found.append((len(decision.victims), [(there[victim], decision.reason) for victim in decision.victims]))
        if len(found) < request.devices:
            return None
        found.sort(key=lambda option: option[0])
        chosen = [one for _, victims in found[: request.devices] for one in victims]
        unique = {instance.copy.instance: (instance, why) for instance, why in chosen}
        return list(unique.values())

    def _residents(self, there: Iterable[Instance], unit: int) -> Iterable[Resident]:
        now_s = self._timer.monotonic_s()
        for instance in there:
            held = instance.copy.request.device_milli * unit
            service = self._services.get(instance.copy.service)
            if service is None:  # an inventory has it ended
                yield Resident(
                    instance.copy.instance,
                    instance.copy.service,
                    held,
                    0,
                    0,
                    0.0,
                    0.0,
                    0.0,
                    0.0,
                    pinned=True,
                    moving=True,
                )
                continue
            moving = instance.state != "awake" or instance.draining
            kept = service.demand.awake_there() <= service.spec.least
            busy = instance.in_flight > 0
            idle_s = 0.0 if busy else now_s - instance.idle_since_s
            wake_s = instance.wake_s
            resident_s = now_s - instance.ready_s
            # What is expected of it is worked out anew after each of its requests, and matters only once it may go.
            stays = moving or kept or resident_s < (quantum_s(wake_s) if busy else idle_quantum_s(wake_s, 0.0))
            yield Resident(
                instance.copy.instance,
                service.spec.name,
                held,
                0 if moving else held,
                1 if busy else 0,
                idle_s,
                resident_s,
                wake_s,
                0.0 if stays else service.demand.expected_per_s(now_s, idle_s),
                pinned=kept,
                moving=moving,
            )
