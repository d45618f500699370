"""What control believes of a fleet: copies and what they hold, starts under way, which nodes are to be given anything.

Owns the planner, the books that the check reads, and when each copy was ordered or ended. Reports and inventories change it; what
comes late does not undo what was ordered since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bastide.policy.fleetcheck import Books
from bastide.policy.fleetplan import Planner
from bastide.policy.fleetstate import Copy, Start
from bastide.policy.guards import Health, start_failed, start_succeeded
from bastide.ports.fleet import Instance, Nodes, Timer

# Who ended is remembered for so long, and an inventory that is older is not believed.
KEPT_S = 3600.0


class Picture:
    """Of all nodes. Moments are by `monotonic_s`."""

    def __init__(self, planner: Planner, nodes: Nodes, timer: Timer) -> None:
        self.planner, self.books = planner, Books()
        self.starting = np.zeros(len(planner.fleet))  # by node; whose they are is in `_begun`
        self._nodes, self._timer = nodes, timer
        self._begun: dict[str, tuple[int, int]] = {}  # the start's number, and its node
        self._starts = 0
        self._ordered: dict[str, float] = {}
        self._ended_s: dict[str, float] = {}
        self._health: dict[int, Health] = {}

    def find(self, instance: str) -> Instance | None:
        """As its agent sees it."""
        return self._nodes.find(instance.rpartition(".")[0], instance)

    # --- starts ----------------------------------------------------------------------------------------------------------

    def begins(self, copy: Copy) -> int:
        """Its start was ordered. Returns the start's number."""
        self.books.holds(copy)
        self._ordered[copy.instance] = self._timer.monotonic_s()
        self.no_longer_starts(copy.instance)  # that it was ready the last time may have been told to nobody
        self._starts += 1
        self._begun[copy.instance] = self._starts, copy.node
        self.starting[copy.node] += 1
        return self._starts

    def starts(self, instance: str, number: int) -> bool:
        """Whether nobody has told what became of that start."""
        return self._begun.get(instance, (0, 0))[0] == number

    def not_begun(self, start: Start) -> None:
        """What the plan took for it is given back; where it was to wake, it still rests."""
        instance = start.copy.instance
        self.planner.gone(instance)
        there = self.find(instance) if start.wakes else None
        if there is not None:
            self.planner.came(there.copy)

    def no_longer_starts(self, instance: str) -> None:
        begun = self._begun.pop(instance, None)
        if begun is not None:
            self.starting[begun[1]] -= 1

    def started(self, copy: Copy) -> None:
        self.no_longer_starts(copy.instance)
        if copy.node in self._health:
            self._health[copy.node] = start_succeeded(self._health[copy.node])

    def failed(self, copy: Copy, again: Callable[[int], None]) -> bool:
        """A start failed there, or a copy died. Whether that node gets none for a while now; `again` is called after it."""
        self.is_gone(copy.instance)
        there = self.find(copy.instance)
        if there is not None and there.state == "resting":  # it was asleep there, and still is
            self.planner.came(there.copy)
            self.books.holds(there.copy)
        health = start_failed(self._health.get(copy.node, Health()), self._timer.monotonic_s())
        self._health[copy.node] = health
        if self.aside(copy.node):
            self.planner.fleet.set_open(copy.node, False)
            self._timer.at(health.aside_until_s, again, copy.node)
            return True
        return False

    def aside(self, node: int) -> bool:
        """Whether it gets none for now, because starts failed there."""
        return self._health.get(node, Health()).aside_until_s > self._timer.monotonic_s() + 1e-6

    # --- copies ----------------------------------------------------------------------------------------------------------

    def rested(self, copy: Copy) -> None:
        self.planner.rested(copy.instance, copy.request)
        self.books.holds(copy)

    def knows(self, instance: str) -> bool:
        """Whether it is believed to be there, or on its way."""
        return instance in self.planner.copies or instance in self._begun

    def ended(self, instance: str) -> None:
        now_s = self._timer.monotonic_s()
        self._ended_s.pop(instance, None)
        self._ended_s[instance] = now_s
        while self._ended_s[oldest := next(iter(self._ended_s))] < now_s - KEPT_S:
            del self._ended_s[oldest]

    def is_gone(self, instance: str) -> None:
        self.no_longer_starts(instance)
        self.planner.gone(instance)
        self.books.ended(instance)
        self._ordered.pop(instance, None)

    def node_lost(self, node: int) -> tuple[Copy, ...]:
        """Answers what it had."""
        lost = self.planner.node_lost(node)
        for copy in lost:
            self.books.ended(copy.instance)
            self.no_longer_starts(copy.instance)
            self._ordered.pop(copy.instance, None)
        return lost

    def too_old(self, seen_s: float) -> bool:
        """Whether an inventory was seen so long ago that nobody remembers what was done since."""
        return seen_s < self._timer.monotonic_s() - KEPT_S

    def missing(self, node: int, there: Mapping[str, Copy], seen_s: float) -> list[Copy]:
        """Of what is believed, what that node no longer has, or has otherwise; but for what was ordered since it was seen."""
        return [
            copy
            for instance, copy in self.planner.on(node).items()
            if (there.get(instance) is None or there[instance].resting != copy.resting)
            and self._ordered.get(instance, -1.0) <= seen_s
        ]

    def forget_missing(self, node: int, there: Mapping[str, Copy], seen_s: float) -> None:
        """In the books."""
        for instance in list(self.books.on.get(node, ())):
            if instance not in there and self._ordered.get(instance, -1.0) <= seen_s:
                self.books.ended(instance)

    def unknown(self, there: Mapping[str, Copy], seen_s: float) -> list[Copy]:
        """What a node has and the picture lacks; but for what was ordered or ended since it was seen."""
        return [
            copy
            for instance, copy in there.items()
            if instance not in self.planner.copies
            and max(self._ended_s.get(instance, -1.0), self._ordered.get(instance, -1.0)) < seen_s
        ]
