"""Who gives way when a service that is asked for has no place. Owns gathering the candidates; the shipped policies choose:
`pooling` says whose turn it is among those who wait, `room` who gives way on a device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bastide.policy.fleet import WHOLE, Request
from bastide.policy.pooling import Candidate, next_turn
from bastide.policy.room import Fits, GiveWay, Resident, idle_quantum_s, make_room, quantum_s
from bastide.sim.fleet.live import Live
from bastide.sim.fleet.nodes import Node, Running

if TYPE_CHECKING:
    from bastide.sim.fleet.world import World

# At most so many get room in one go, and so many nodes are looked at for each.
GRANTS_MAX = 8
NODES_MAX = 64
# Who was promised room waits this long before more is asked to go for it.
PATIENCE_S = 2.0
# What is expected of a busy one is worked out so often.
DEMAND_S = 60.0


class Room:
    """Makes room on nodes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._offset = 0

    def make(self, unplaced: Sequence[Live]) -> None:
        """Room for those of them that requests wait for, or that must be awake; the most urgent first."""
        now_s = self.world.now_s
        wait = [
            live
            for live in unplaced
            if (live.waiting or len(live.awake) + live.starting < live.spec.least)
            and live.asked_s + PATIENCE_S <= now_s
        ]
        for _ in range(min(GRANTS_MAX, len(wait))):
            candidates = [
                Candidate(
                    live.spec.name,
                    (live.waiting[0].at_s if live.waiting else now_s) + live.spec.first_token_s - now_s,
                    min(way.cached_s for way in live.spec.ways),
                )
                for live in wait
            ]
            turn = next_turn(candidates, float("inf"))
            if turn.index is None:
                return
            live = wait.pop(turn.index)
            live.asked_s = now_s
            self._for(live)

    def where_it_rests(self, live: Live) -> bool:
        """Whether somebody idle makes room where this one sleeps in memory: swapped there, it answers sooner than loaded
        anywhere else. Not asked again before that is done."""
        now_s = self.world.now_s
        if not self.world.setup.policies.give_way or live.asked_s + PATIENCE_S > now_s:
            return False
        for asleep in live.copies.values():
            if asleep.state != "resting":
                continue
            node = self.world.agents.nodes[asleep.copy.node]
            way = next(one for one in live.requests if not one.models or node.shape.model in one.models)
            free = sum(1 for used in node.used_milli if used + way.device_milli <= WHOLE)
            if free < way.devices and node.up and not node.cut:
                live.asked_s = now_s
                return self._on(live, node, False)
        return False

    def _for(self, live: Live) -> None:
        agents = self.world.agents
        idle = itertools.islice(agents.idle.values(), 4 * NODES_MAX)
        nodes = dict.fromkeys(running.copy.node for running in idle)
        if any(self._on(live, agents.nodes[node], False) for node in itertools.islice(nodes, NODES_MAX)):
            return
        # Nobody idle can help: somebody busy whose time is over finishes and goes.
        count = len(agents.nodes)
        looked = (agents.nodes[(self._offset + step) % count] for step in range(min(NODES_MAX, count)))
        self._offset = (self._offset + NODES_MAX) % count
        for node in looked:
            if self._on(live, node, True):
                return

    def _on(self, live: Live, node: Node, drains: bool) -> bool:
        """Whether room was made, or will be, on that node."""
        world, shape = self.world, node.shape
        if not world.control.planner.fleet.open[node.index]:
            return False
        if live.spec.borders and shape.location not in live.spec.borders:
            return False
        way = next((one for one in live.requests if not one.models or shape.model in one.models), None)
        if way is None or way.devices > shape.devices:
            return False
        victims = self._victims(node, way, drains)
        if victims is None:
            return False
        lacks_mib = node.memory_mib + way.memory_mib - shape.memory_mib
        freed_mib = sum(one.copy.request.memory_mib for one, _ in victims)
        for asleep in list(world.agents.resting.get(node.index, {}).values()):
            if lacks_mib <= freed_mib:
                break
            freed_mib += asleep.copy.request.memory_mib
            world.agents.drop(asleep)
        for running, why in victims:
            world.measured.gave_way += 1
            world.measured.reason(world.now_s, "gave way", running.service.spec.name, f"{why}; for {live.spec.name}")
            if running.in_flight > 0:
                running.draining = True
            else:
                world.agents.rest(running)
        world.control.hint()
        return True

    def _victims(self, node: Node, request: Request, drains: bool) -> list[tuple[Running, str]] | None:
        """Who goes so that the devices asked for are free; None where that can't be."""
        found: list[tuple[int, list[tuple[Running, str]]]] = []
        unit = self._unit(node)
        for device in range(node.shape.devices):
            there = {
                name: running
                for name, running in node.instances.items()
                if running.state != "resting" and device in running.copy.devices
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
        unique = {running.copy.instance: (running, why) for running, why in chosen}
        return list(unique.values())

    def _unit(self, node: Node) -> int:
        """Bytes of a thousandth of one of its devices."""
        facts = self.world.setup.device_facts.get(node.shape.model)
        return max(1, facts.memory_bytes // WHOLE) if facts is not None else 2**20

    def _residents(self, there: Iterable[Running], unit: int) -> Iterable[Resident]:
        now_s = self.world.now_s
        for running in there:
            live, held = running.service, running.copy.request.device_milli * unit
            moving = running.state != "awake" or running.draining
            kept = len(live.awake) <= live.spec.least
            busy = running.in_flight > 0
            idle_s = 0.0 if busy else now_s - running.idle_since_s
            wake_s = running.way.light_s if running.way.light_s is not None else running.way.cached_s
            resident_s = now_s - running.ready_s
            # What is expected of it is worked out anew after each of its requests, and matters only once it may go.
            stays = moving or kept or resident_s < (quantum_s(wake_s) if busy else idle_quantum_s(wake_s, 0.0))
            yield Resident(
                running.copy.instance,
                live.spec.name,
                held,
                0 if moving else held,
                1 if busy else 0,
                idle_s,
                resident_s,
                wake_s,
                0.0 if stays else self._demand_per_s(live, idle_s),
                pinned=kept,
                moving=moving,
            )

    def _demand_per_s(self, live: Live, idle_s: float) -> float:
        """Requests a second to expect of it: as learned, else by the gaps lately."""
        if live.rhythm is not None and live.rhythm.gaps_seen:
            if idle_s > 0:
                return live.rhythm.curve().demand_per_s(idle_s)
            # One request more changes little of what is expected of those who are asked all the time.
            if live.demand_until_s <= self.world.now_s:
                live.demand_per_s = live.rhythm.curve().demand_per_s(0.0)
                live.demand_until_s = self.world.now_s + DEMAND_S
            return live.demand_per_s
        return 1.0 / max(live.gap_s, idle_s, 1e-3)
