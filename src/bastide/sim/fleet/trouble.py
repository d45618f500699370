"""What breaks in a simulated fleet, and what that does to nodes, reports and hints. Owns the faults; repairs nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bastide.control.fleet.loop import DETECT_S
from bastide.policy.fleetstate import Copy
from bastide.sim.fleet.setup import Fault, Trouble

if TYPE_CHECKING:
    from bastide.sim.fleet.nodes import Node
    from bastide.sim.fleet.world import World

# While hints are lost or doubled, or the store times out, this part of them is.
PART = 0.5
SLOW_TIMES = 8.0
CLOCK_JUMPS_S = (-7200.0, -60.0, 30.0, 3600.0)
HERD_REQUESTS = 6


class Troubles:
    """Which faults are under way."""

    def __init__(self, world: World, faults: Iterable[Fault]) -> None:
        self.world = world
        self.chance = random.Random(world.setup.seed * 7919 + 17)
        self.active: Counter[Trouble] = Counter()
        self._struck: Counter[tuple[Trouble, int]] = Counter()  # of a kind, each node so many times at once
        self._stale: dict[int, tuple[dict[str, Copy], float]] = {}
        self.any = False
        self.last_s = 0.0
        for fault in faults:
            self.any = True
            self.last_s = max(self.last_s, fault.at_s + fault.lasts_s)
            world.at(fault.at_s, self._begin, fault)

    # --- asked by the rest of the world ----------------------------------------------------------------------------------

    def loses_hint(self) -> bool:
        return bool(self.active[Trouble.HINT_LOST]) and self.chance.random() < PART

    def doubles_hint(self) -> bool:
        return bool(self.active[Trouble.HINT_DOUBLED]) and self.chance.random() < PART

    def store_times_out(self) -> bool:
        return bool(self.active[Trouble.STORE_TIMEOUT]) and self.chance.random() < PART

    def seen(self, node: int) -> tuple[dict[str, Copy], float]:
        """What a node's inventory says, and when that was seen: old where inventories are stale."""
        if node in self._stale:
            return self._stale[node]
        return _copies(self.world.agents.nodes[node]), self.world.now_s

    # --- what happens ----------------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        world = self.world
        world.measured.faults[fault.kind.value] += 1
        nodes = self._nodes(fault)
        self.active[fault.kind] += 1
        self._struck.update((fault.kind, node.index) for node in nodes)
        if fault.kind is Trouble.CLOCK_JUMP:
            world.clock_shift_s += self.chance.choice(CLOCK_JUMPS_S)
        elif fault.kind is Trouble.HERD:
            self._herd()
        elif fault.kind is Trouble.STATE_TORN:
            names = list(world.lives)
            why = world.control.declare([name for name in names if self.chance.random() < 0.5])
            if why is not None:
                world.measured.reason(world.now_s, "not believed", "", why)
        elif fault.kind is Trouble.STALE:
            for node in nodes:
                self._stale.setdefault(node.index, (_copies(node), world.now_s))
        elif fault.kind is Trouble.NODE_LOST:
            for node in nodes:
                self._lose(node)
        elif fault.kind is Trouble.LOCATION_CUT:
            for node in nodes:
                node.cut = True
            world.control.location_cut([node.index for node in nodes])
        else:
            self._set(fault.kind, nodes, True)
        world.at(world.now_s + fault.lasts_s, self._end, fault, nodes)

    def _end(self, fault: Fault, nodes: list[Node]) -> None:
        self.active[fault.kind] -= 1
        self._struck.subtract((fault.kind, node.index) for node in nodes)
        nodes = [node for node in nodes if not self._struck[fault.kind, node.index]]  # the others still are
        control = self.world.control
        if fault.kind is Trouble.STALE:
            for node in nodes:
                self._stale.pop(node.index, None)
        elif fault.kind is Trouble.STATE_TORN:
            if not self.active[fault.kind]:
                control.declare(self.world.lives)
                for name in self.world.lives:
                    control.rescale(name)
        elif fault.kind is Trouble.NODE_LOST:
            for node in nodes:
                node.up = True
                if not node.cut:
                    control.node_back(node.index)
        elif fault.kind is Trouble.LOCATION_CUT:
            for node in nodes:
                node.cut = False
                if node.up:
                    control.node_back(node.index)
        else:
            self._set(fault.kind, nodes, False)

    @staticmethod
    def _set(kind: Trouble, nodes: list[Node], on: bool) -> None:
        for node in nodes:
            if kind is Trouble.START_SLOW:
                node.slow = SLOW_TIMES if on else 1.0
            elif kind is Trouble.START_HANGS:
                node.hangs = on
            elif kind is Trouble.DISK_FULL:
                node.disk_full = on
            elif kind is Trouble.OOM:
                node.out_of_memory = on

    def _nodes(self, fault: Fault) -> list[Node]:
        """The nodes it strikes: that one, those of that location, or one (for a cut: one location) by chance."""
        nodes = self.world.agents.nodes
        struck = [node for node in nodes if fault.where in (node.shape.name, node.shape.location)]
        if struck or fault.where:
            return struck
        chosen = self.chance.choice(nodes)
        if fault.kind is Trouble.LOCATION_CUT:
            return [node for node in nodes if node.shape.location == chosen.shape.location]
        return [chosen]

    def _lose(self, node: Node) -> None:
        """As if its power were cut: all that ran there is gone, its disk is not."""
        world = self.world
        node.up = False
        for running in list(node.instances.values()):
            world.agents.end(running.copy)
        node.starting = 0
        world.at(world.now_s + DETECT_S, world.control.node_lost, node.index)

    def _herd(self) -> None:
        world = self.world
        chance = random.Random(f"{world.setup.seed}/herd/{world.now_s}")  # the same herd whatever the policy
        for live in world.lives.values():
            if chance.random() < PART:
                for _ in range(HERD_REQUESTS):
                    world.gateway.ask(live, world.now_s, 1.0, 0.0, 200, 50)


def _copies(node: Node) -> dict[str, Copy]:
    if not node.up:
        return {}
    return {name: running.copy for name, running in node.instances.items() if running.state != "gone"}
