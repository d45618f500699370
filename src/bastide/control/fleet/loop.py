"""The control loop of a fleet: observe, plan, check, apply. Level-triggered: every hint and report may be lost, late or told twice.

It sees nodes through reports and inventories, and tells them what to do; never anything else. What to do is decided in policy/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from bastide.control.fleet.picture import Picture
from bastide.control.fleet.room import Room
from bastide.control.fleet.services import FleetService, Managed
from bastide.control.fleet.settings import Counts, FleetSettings, Site
from bastide.policy.admission import Bucket
from bastide.policy.backoff import CEILING_S
from bastide.policy.fleet import Fleet, NodeShape, Request
from bastide.policy.fleetcheck import check
from bastide.policy.fleetplan import Planner
from bastide.policy.fleetstate import Copy, FleetPlan, Start, Wanted
from bastide.policy.guards import HANGS_S_MIN, after_failure, hangs_at_s, mass_change, node_takes_start, starts_now
from bastide.policy.placement import Mix, Numbers, Score, costs
from bastide.ports.fleet import Demand, Nodes, NotBegun, Timer

RETRY_S = 1.0
REFUSED_S = 5.0  # by then an inventory may have mended what the check saw
DETECT_S = 3.0  # a dead node is known after this

# What, of which service, why.
Decided = Callable[[str, str, str], None]


class FleetLoop:
    """One loop for all locations. `score`: how placement scores, for the mix of what was declared; `price`: of a device there an hour, by
    node; `memory_bytes`: of a device, by model."""

    def __init__(
        self,
        sites: Sequence[Site],
        shapes: Sequence[NodeShape],
        services: Iterable[tuple[FleetService, Demand]],
        nodes: Nodes,
        timer: Timer,
        counts: Counts,
        decided: Decided,
        settings: FleetSettings,
        price: Sequence[float],
        memory_bytes: Mapping[str, int],
        score: Callable[[Mix], Score] = costs,
    ) -> None:
        self._shapes, self._nodes, self._timer = shapes, nodes, timer
        self.settings, self.counts, self._decided = settings, counts, decided
        self._sites = {site.name: site for site in sites}
        self._power = {site.name: site.power_w for site in sites if site.power_w is not None}
        self.services = {spec.name: Managed(spec, demand) for spec, demand in services}
        self._declared = set(self.services)
        fleet = Fleet(shapes, self._power)
        seen = [(way.request, 1.0 / len(one.spec.ways)) for one in self.services.values() for way in one.spec.ways]
        prices = np.array(price, dtype=np.float64)
        even = not len(prices) or bool((prices == prices[0]).all())
        self.planner = Planner(fleet, score(Mix.expected(seen, fleet)), None if even else prices)
        self.picture = Picture(self.planner, nodes, timer)
        self.room = Room(fleet, self.services, nodes, timer, memory_bytes, self._gives_way, self.hint)
        self.confirmed = False
        self._bucket = Bucket(float(settings.starts_per_minute), 0.0)
        self._active: dict[str, Managed] = {}
        self._hinted = False

    def begin(self) -> None:
        """From now on active services are looked at."""
        self._timer.at(self._timer.monotonic_s() + self.settings.tick_s, self.tick)

    def begin_inventories(self) -> None:
        self._timer.at(self._timer.monotonic_s() + self.settings.inventory_s, self._inventories)

    # --- how many ------------------------------------------------------------------------------------------------------

    def asked(self, name: str) -> None:
        """A request came for it: it is looked at from now on."""
        if name in self._declared:
            self._active[name] = self.services[name]

    def rescale(self, name: str) -> None:
        """How many copies it should have; of what nobody declares, none."""
        if name not in self._declared:
            self._active.pop(name, None)
            return
        service, now_s, settings = self.services[name], self._timer.monotonic_s(), self.settings
        copies = service.copies_wanted(now_s, self._timer.now_s(), settings.tick_s, settings.predict)
        have = service.demand.copies_there()
        waits = service.demand.waits_since_s() is not None
        if copies and not have and waits and settings.give_way and self.room.where_it_rests(service):
            self._later(service, service.spec.ways[0].sleep_s + settings.react_s)
        if service.hold_until_s > now_s:
            copies = min(copies, have)
        service.wanted = copies
        self._active[name] = service
        self.planner.want(Wanted(name, copies, service.requests))
        if copies != have:
            self.planner.again(name)
            self.hint()
        elif copies <= 1 and not waits and not service.demand.busy():
            self._active.pop(name, None)  # nothing changes until it is asked, or its keep-alive says so

    def tick(self) -> None:
        """Whatever hints were lost, every active service is looked at again."""
        try:
            for name in list(self._active):
                self.rescale(name)
            self.run()
        finally:  # whatever went wrong, the next round tries again
            self.begin()

    def hint(self) -> None:
        """Something changed: plan soon."""
        if not self._hinted:
            self._hinted = self._timer.soon(self.run)

    # --- plan, check, apply ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """One round."""
        self._hinted = False
        plan = self.planner.plan(self._ladder, self._busy)
        if plan.starts or plan.rests or plan.stops or plan.unplaced:
            self._apply(plan)

    def _busy(self, instance: str) -> bool:
        there = self.picture.find(instance)
        return there is not None and there.in_flight > 0

    def _ladder(self, name: str, ways: tuple[Request, ...]) -> Numbers | None:
        """In how many seconds it could answer, by node: light here < on the disk here < at a neighbour < at the source."""
        spec, fleet = self.services[name].spec, self.planner.fleet
        first = spec.ways[0]
        by_location = [
            first.cached_s + self._nodes.link_s(place) + spec.weights_bytes / self._sites[place].source_bytes_per_s
            for place in fleet.locations
        ]
        holders = self._nodes.holders(spec.weights)
        for node in holders:
            place = int(fleet.location[node])
            near_s = spec.weights_bytes / self._sites[fleet.locations[place]].neighbour_bytes_per_s
            by_location[place] = min(by_location[place], first.cached_s + near_s)
        wake_s = np.array(by_location)[fleet.location]
        if holders:
            wake_s[holders] = first.cached_s
        wake_s *= 1.0 + self.picture.starting
        for copy in self.planner.of(name).values():
            if copy.resting and first.light_s is not None:
                wake_s[copy.node] = first.light_s
        return wake_s

    def _apply(self, plan: FleetPlan) -> None:
        counts, books, now_s = self.counts, self.picture.books, self._timer.monotonic_s()
        counts.plans += 1
        refused = check(
            plan,
            self._shapes,
            books,
            lambda service: self.services[service].spec.borders,
            lambda node: bool(self.planner.fleet.open[node]),
            now_s,
            self.confirmed,
            self._power,
            lambda service: self.services[service].spec.most,
        )
        bad = {id(one.action): one.reason for one in refused}
        counts.refused_actions += len(refused)
        for one in refused[:3]:
            service = one.action.copy.service if isinstance(one.action, Start) else one.action.service
            self._decided("refused", service, one.reason)
        granted, self._bucket = starts_now(len(plan.starts), self._bucket, self.settings.starts_per_minute, now_s)
        for number, start in enumerate(plan.starts):
            if id(start) in bad:
                self._not_started(start, REFUSED_S)
            elif number >= granted or not node_takes_start(int(self.picture.starting[start.copy.node])):
                self._not_started(start, RETRY_S)
            else:
                self._start(start)
        for rest in plan.rests:
            there = self.picture.find(rest.instance)
            if there is not None and self._nodes.answers(there.copy.node) and self._nodes.rest(there.copy):
                counts.rests += 1
        unasked = 0
        for stop in plan.stops:
            there = self.picture.find(stop.instance)
            if there is None:
                continue
            if id(stop) in bad or not self._nodes.answers(there.copy.node):
                self.planner.again(stop.service)  # in a later round
                continue
            counts.stops += 1
            unasked += not stop.asked
            self._nodes.stop(there.copy)
        if unasked:
            books.stopped_unasked(now_s, unasked)
        for lacks in plan.unplaced:
            counts.unplaced += lacks.copies
            if self.services[lacks.service].demand.waits_since_s() is not None:
                self._decided("no place", lacks.service, lacks.reason)
        if plan.unplaced and self.settings.give_way:
            self.room.make([self.services[one.service] for one in plan.unplaced])

    def _gives_way(self, service: str, reason: str) -> None:
        self.counts.gave_way += 1
        self._decided("gave way", service, reason)

    def _start(self, start: Start) -> None:
        copy = start.copy
        begun = self._nodes.start(copy)
        if isinstance(begun, NotBegun):
            self._failed(copy, begun.reason, 0.0)
            return
        self.counts.starts += 1
        number = self.picture.begins(copy)
        now_s = self._timer.monotonic_s()
        if not begun.heard:
            # It may be on its way, but nobody said so. The planner believes that it is not; the books keep it as perhaps
            # there, so that nothing is put in its place before the inventory tells.
            self.planner.gone(copy.instance)
            self._timer.at(now_s + RETRY_S, self.rescale, copy.service)
        self._timer.at(now_s + hangs_at_s(begun.expected_s), self._hangs, copy, number)

    def _not_started(self, start: Start, again_s: float) -> None:
        self.picture.not_begun(start)
        self._later(self.services[start.copy.service], again_s)

    def _later(self, service: Managed, wait_s: float) -> None:
        """Nothing of it is started before; then it is looked at again, once however often this is said."""
        service.hold_until_s = max(service.hold_until_s, self._timer.monotonic_s() + wait_s)
        if not service.looks_again:
            service.looks_again = True
            self._timer.at(service.hold_until_s, self._again, service)

    def _again(self, service: Managed) -> None:
        service.looks_again = False
        if service.hold_until_s > self._timer.monotonic_s():
            self._later(service, 0.0)
        else:
            self.rescale(service.spec.name)

    def _hangs(self, copy: Copy, number: int) -> None:
        """By now it should have been told what became of that start."""
        if not self.picture.starts(copy.instance, number):
            return
        there = self.picture.find(copy.instance)
        if there is None or there.state != "starting":
            self.picture.no_longer_starts(copy.instance)  # an inventory tells what it is
        elif not self._nodes.answers(copy.node):
            self._timer.at(self._timer.monotonic_s() + HANGS_S_MIN, self._hangs, copy, number)  # once the link is back
        else:
            self._nodes.end(copy)
            self._failed(copy, "the start hangs", 0.0)

    def _failed(self, copy: Copy, why: str, lived_s: float) -> None:
        self.counts.starts_failed[why] += 1
        if self.picture.failed(copy, self._no_longer_aside):
            self._decided("set aside", copy.service, f"{self._shapes[copy.node].name}: {why}")
        service = self.services[copy.service]
        retry = after_failure(service.failures, lived_s)
        service.failures = retry.failures
        self._later(service, retry.wait_s if retry.wait_s is not None else CEILING_S)

    def _no_longer_aside(self, node: int) -> None:
        if self._nodes.answers(node) and not self.picture.aside(node):
            self.planner.node_back(node)

    # --- what is reported ------------------------------------------------------------------------------------------------

    def started(self, copy: Copy) -> None:
        self.picture.started(copy)
        if copy.service in self.services:
            self.services[copy.service].failures = 0

    def rested(self, copy: Copy) -> None:
        there = self.picture.find(copy.instance)
        if there is not None and there.state == "resting":  # else this comes late, and it was woken or ended since
            self.picture.rested(copy)
            self._settle(copy.service)

    def ended(self, copy: Copy) -> None:
        self.picture.ended(copy.instance)
        self.picture.is_gone(copy.instance)
        self._settle(copy.service)

    def died(self, copy: Copy, why: str, lived_s: float) -> None:
        known = self.picture.knows(copy.instance)
        self.picture.ended(copy.instance)
        if known:  # else it was told before
            self._failed(copy, why, lived_s)

    def _settle(self, name: str) -> None:
        """Room came, or a service lacks a copy: look again."""
        service = self.services.get(name)
        if service is None or service.wanted != service.demand.copies_there() or self.planner.waits():
            self.hint()

    def node_lost(self, node: int) -> None:
        """It has been silent for `DETECT_S`."""
        if not self._nodes.up(node):
            for copy in self.picture.node_lost(node):
                self.rescale(copy.service)

    def node_back(self, node: int) -> None:
        self.inventory(node)
        if not self.picture.aside(node):
            self.planner.node_back(node)
        self.hint()

    def location_cut(self, nodes: Iterable[int]) -> None:
        """Nothing is given to them until they are back; what runs there goes on."""
        for node in nodes:
            self.planner.fleet.set_open(node, False)

    def inventory(self, node: int) -> None:
        """What a node says it has, as seen at a moment: what the picture lacks is taken in, what isn't there is forgotten;
        what was ordered or ended since then is left as it is known. What nobody declared, or has no place in the picture, ends."""
        there, seen_s = self._nodes.inventory(node)
        if self.picture.too_old(seen_s):
            return
        for copy in self.picture.missing(node, there, seen_s):
            self.picture.is_gone(copy.instance)
            self.rescale(copy.service)
        self.picture.forget_missing(node, there, seen_s)
        for copy in self.picture.unknown(there, seen_s):
            found = self.picture.find(copy.instance)
            if found is None:
                continue
            if copy.service in self.services and self.planner.came(copy):
                self.picture.books.holds(copy)
                self.rescale(copy.service)
            elif found.in_flight == 0 and self._nodes.answers(node):
                self._nodes.stop(found.copy)
        self.hint()

    def _inventories(self) -> None:
        try:
            for node in range(len(self._shapes)):
                if self._nodes.answers(node):
                    self.inventory(node)
        finally:
            self.begin_inventories()

    def add(self, spec: FleetService, demand: Demand) -> None:
        """A service, or a new generation of one, is known from now on. It runs once it is declared."""
        self.services[spec.name] = Managed(spec, demand)

    def declare(self, names: Iterable[str]) -> str | None:
        """A new desired state: those services and no others. Answers why it is not believed."""
        kept = set(names) & self.services.keys()
        gone = self._declared - kept
        why = mass_change(len(self._declared), len(self._declared) - len(gone), self.confirmed)
        if why is None:
            came, self._declared = kept - self._declared, kept
            for name in sorted(gone):
                self._active.pop(name, None)
                self.planner.forget(name)
            for name in sorted(came):
                self.rescale(name)
            self.hint()
        return why
