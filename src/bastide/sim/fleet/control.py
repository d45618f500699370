"""Control of a simulated fleet: observe, plan, check, apply, with the shipped policies. Owns what control believes.

It sees the fleet through reports and inventories that may be late or lost, and tells nodes what to do; never anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bastide.policy.admission import Bucket
from bastide.policy.backoff import CEILING_S
from bastide.policy.fleet import Fleet, Request
from bastide.policy.fleetcheck import Books, check
from bastide.policy.fleetplan import Planner
from bastide.policy.fleetstate import Copy, FleetPlan, Start, Wanted
from bastide.policy.guards import (
    HANGS_S_MIN,
    Health,
    after_failure,
    hangs_at_s,
    mass_change,
    node_takes_start,
    start_failed,
    start_succeeded,
    starts_now,
)
from bastide.policy.placement import Mix, Numbers, Score, costs
from bastide.sim.evaluate.packing import Fgd, best_fit, gpu_packing
from bastide.sim.fleet.autoscaling import copies_wanted
from bastide.sim.fleet.live import Live
from bastide.sim.fleet.nodes import Running
from bastide.sim.fleet.setup import Placing

if TYPE_CHECKING:
    from bastide.sim.fleet.world import World

RETRY_S = 1.0
REFUSED_S = 5.0  # by then an inventory may have mended what the check saw
DETECT_S = 3.0  # a dead node is known after this


class Control:
    """One control loop for all locations."""

    def __init__(self, world: World) -> None:
        self.world = world
        setup = world.setup
        self.power = {one.name: one.power_w for one in setup.locations if one.power_w is not None}
        fleet = Fleet(setup.shapes, self.power)
        seen = [(way.request, 1.0 / len(one.ways)) for one in setup.services for way in one.ways]
        price = np.array(world.price, dtype=np.float64)
        even = not len(price) or bool((price == price[0]).all())
        self.planner = Planner(
            fleet, _score(setup.policies.placing, Mix.expected(seen, fleet)), None if even else price
        )
        self.books = Books()
        self.ordered: dict[str, float] = {}
        self.ended_s: dict[str, float] = {}
        self.health: dict[int, Health] = {}
        self.bucket = Bucket(float(setup.policies.starts_per_minute), 0.0)
        self.active: dict[str, Live] = {}
        self.starting = np.zeros(len(fleet))  # by node; whose they are is in `_begun`
        self._begun: dict[str, int] = {}
        self.confirmed = False
        self._hinted = False

    # --- how many ------------------------------------------------------------------------------------------------------

    def rescale(self, live: Live) -> None:
        """How many copies it should have, by the shipped autoscaling."""
        world, name = self.world, live.spec.name
        setup = world.setup
        copies = copies_wanted(live, world.now_s, world.clock_s, setup.tick_s, setup.policies.predict)
        have = len(live.awake) + live.starting
        if copies and not have and live.waiting and world.room.where_it_rests(live):
            self._later(live, live.spec.ways[0].sleep_s + setup.react_s)
        if live.hold_until_s > world.now_s:
            copies = min(copies, have)
        live.wanted = copies
        self.active[name] = live
        self.planner.want(Wanted(name, copies, live.requests))
        if copies != have:
            self.planner.again(name)
            self.hint()
        elif copies <= 1 and not live.in_flight and not live.waiting:
            self.active.pop(name, None)  # nothing changes until it is asked, or its keep-alive says so

    def tick(self) -> None:
        """Level-triggered: whatever hints were lost, every active service is looked at again."""
        for live in list(self.active.values()):
            self.rescale(live)
        self.run()
        self.world.at(self.world.now_s + self.world.setup.tick_s, self.tick)

    def hint(self) -> None:
        """Something changed: plan soon."""
        trouble = self.world.trouble
        if self._hinted or trouble.loses_hint():
            return
        self._hinted = True
        for _ in range(2 if trouble.doubles_hint() else 1):
            self.world.at(self.world.now_s + self.world.setup.react_s, self.run)

    # --- plan, check, apply ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._hinted = False
        plan = self.planner.plan(self.ladder, self._busy)
        if plan.starts or plan.rests or plan.stops or plan.unplaced:
            self.apply(plan)

    def _busy(self, instance: str) -> bool:
        running = self._running(instance)
        return running is not None and running.in_flight > 0

    def _running(self, instance: str) -> Running | None:
        live = self.world.lives.get(instance.rpartition(".")[0])
        return live.copies.get(instance) if live is not None else None

    def ladder(self, service: str, ways: tuple[Request, ...]) -> Numbers | None:
        """In how many seconds it could answer, by node: light here < on the disk here < at a neighbour < at the source."""
        live, world = self.world.lives[service], self.world
        spec, fleet = live.spec, self.planner.fleet
        cached_s = spec.ways[0].cached_s
        by_location = [
            cached_s + world.agents.link_s(name) + spec.weights_bytes / world.locations[name].source_bytes_per_s
            for name in fleet.locations
        ]
        holders = list(world.agents.holders.get(spec.weights, ()))
        for node in holders:
            place = int(fleet.location[node])
            near_s = spec.weights_bytes / world.locations[fleet.locations[place]].neighbour_bytes_per_s
            by_location[place] = min(by_location[place], cached_s + near_s)
        wake_s = np.array(by_location)[fleet.location]
        if holders:
            wake_s[holders] = cached_s
        wake_s *= 1.0 + self.starting
        for copy in self.planner.of(service).values():
            if copy.resting and spec.ways[0].light_s is not None:
                wake_s[copy.node] = spec.ways[0].light_s
        return wake_s

    def apply(self, plan: FleetPlan) -> None:
        world, measured = self.world, self.world.measured
        measured.plans += 1
        refused = check(
            plan,
            world.setup.shapes,
            self.books,
            lambda service: world.lives[service].spec.borders,
            lambda node: bool(self.planner.fleet.open[node]),
            world.clock_s,
            self.confirmed,
            self.power,
            lambda service: world.lives[service].spec.most,
        )
        bad = {id(one.action): one.reason for one in refused}
        measured.refused_actions += len(refused)
        for one in refused[:3]:
            service = one.action.copy.service if isinstance(one.action, Start) else one.action.service
            measured.reason(world.now_s, "refused", service, one.reason)
        granted, self.bucket = starts_now(
            len(plan.starts), self.bucket, world.setup.policies.starts_per_minute, world.clock_s
        )
        for number, start in enumerate(plan.starts):
            if id(start) in bad:
                self._not_started(start, REFUSED_S)
            elif number >= granted or not node_takes_start(int(self.starting[start.copy.node])):
                self._not_started(start, RETRY_S)
            else:
                self._start(start)
        for rest in plan.rests:
            running = self._running(rest.instance)
            if running is not None and self._reaches(running) and world.agents.rest(running):
                measured.rests += 1
        unasked = 0
        for stop in plan.stops:
            running = self._running(stop.instance)
            if id(stop) in bad or running is None or not self._reaches(running):
                continue
            measured.stops += 1
            unasked += not stop.asked
            world.agents.stop(running)
        if unasked:
            self.books.stopped_unasked(world.clock_s, unasked)
        for lacks in plan.unplaced:
            measured.unplaced += lacks.copies
            if world.lives[lacks.service].waiting:
                measured.reason(world.now_s, "no place", lacks.service, lacks.reason)
        if plan.unplaced and world.setup.policies.give_way:
            world.room.make([world.lives[one.service] for one in plan.unplaced])

    def _reaches(self, running: Running) -> bool:
        node = self.world.agents.nodes[running.copy.node]
        return node.up and not node.cut

    def _start(self, start: Start) -> None:
        world, copy = self.world, start.copy
        live = world.lives[copy.service]
        why = world.agents.start(copy, live)
        if why is not None:
            self._failed(copy, why, 0.0)
            return
        world.measured.starts += 1
        self.books.holds(copy)
        self.ordered[copy.instance] = world.now_s
        self._over(copy.instance)  # that it was ready the last time may have been told to nobody
        self._begun[copy.instance] = copy.node
        self.starting[copy.node] += 1
        if world.trouble.store_times_out():
            # It was written and done, but nobody said so. The planner believes it was not; the books keep it as perhaps
            # there, so that nothing is put in its place before the inventory tells.
            self.planner.gone(copy.instance)
            world.at(world.now_s + RETRY_S, self.rescale, live)
        running = live.copies[copy.instance]
        world.at(world.now_s + hangs_at_s(running.expected_s), self._hangs, running)

    def _not_started(self, start: Start, again_s: float) -> None:
        copy = start.copy
        self.planner.gone(copy.instance)
        live = self.world.lives[copy.service]
        if start.wakes and copy.instance in live.copies:
            self.planner.came(live.copies[copy.instance].copy)
        self._later(live, again_s)

    def _later(self, live: Live, wait_s: float) -> None:
        """Nothing of it is started before; then it is looked at again, once however often this is said."""
        live.hold_until_s = max(live.hold_until_s, self.world.now_s + wait_s)
        if not live.looks_again:
            live.looks_again = True
            self.world.at(live.hold_until_s, self._again, live)

    def _again(self, live: Live) -> None:
        live.looks_again = False
        if live.hold_until_s > self.world.now_s:
            self._later(live, 0.0)
        else:
            self.rescale(live)

    def _hangs(self, running: Running) -> None:
        self._over(running.copy.instance)  # whatever became of it, and whoever has told
        if running.state != "starting":
            return
        if not self._reaches(running):
            self.world.at(self.world.now_s + HANGS_S_MIN, self._hangs, running)  # once the link is back
        else:
            self.world.agents.end(running)
            self._failed(running.copy, "the start hangs", 0.0)

    def _failed(self, copy: Copy, why: str, lived_s: float) -> None:
        world = self.world
        world.measured.starts_failed[why] += 1
        self._is_gone(copy.instance)
        live = world.lives[copy.service]
        there = live.copies.get(copy.instance)
        if there is not None:  # it was asleep there, and still is
            self.planner.came(there.copy)
            self.books.holds(there.copy)
        health = start_failed(self.health.get(copy.node, Health()), world.clock_s)
        if health.aside_until_s > world.clock_s:
            aside_s = health.aside_until_s - world.clock_s
            self.planner.fleet.set_open(copy.node, False)
            world.at(world.now_s + aside_s, self._no_longer_aside, copy.node)
            world.measured.reason(
                world.now_s, "set aside", copy.service, f"{world.setup.shapes[copy.node].name}: {why}"
            )
        self.health[copy.node] = health
        retry = after_failure(live.failures, lived_s)
        live.failures = retry.failures
        self._later(live, retry.wait_s if retry.wait_s is not None else CEILING_S)

    def _no_longer_aside(self, node: int) -> None:
        there = self.world.agents.nodes[node]
        if there.up and not there.cut and self.health[node].aside_until_s <= self.world.clock_s + 1e-6:
            self.planner.node_back(node)

    def _over(self, instance: str) -> None:
        """It no longer starts."""
        node = self._begun.pop(instance, None)
        if node is not None:
            self.starting[node] -= 1

    def _is_gone(self, instance: str) -> None:
        self._over(instance)
        self.planner.gone(instance)
        self.books.ended(instance)
        self.ordered.pop(instance, None)

    # --- what is reported ------------------------------------------------------------------------------------------------

    def started(self, running: Running) -> None:
        node = running.copy.node
        self._over(running.copy.instance)
        running.service.failures = 0
        if node in self.health:
            self.health[node] = start_succeeded(self.health[node])

    def rested(self, running: Running) -> None:
        if running.state == "resting":
            self.planner.rested(running.copy.instance, running.copy.request)
            self.books.holds(running.copy)
            self._settle(running.service)

    def ended(self, running: Running) -> None:
        self.ended_s[running.copy.instance] = self.world.now_s
        self._is_gone(running.copy.instance)
        self._settle(running.service)

    def died(self, running: Running, why: str, lived_s: float) -> None:
        self.ended_s[running.copy.instance] = self.world.now_s
        self._failed(running.copy, why, lived_s)

    def _settle(self, live: Live) -> None:
        """Room came, or a service lacks a copy: look again."""
        if live.wanted != len(live.awake) + live.starting or self.planner.waits():
            self.hint()

    def node_lost(self, node: int) -> None:
        """Known `DETECT_S` after it happened."""
        if self.world.agents.nodes[node].up:
            return  # it was back before anybody saw that it was gone; the inventory tells what is missing
        for copy in self.planner.node_lost(node):
            self.books.ended(copy.instance)
            self._over(copy.instance)
            self.rescale(self.world.lives[copy.service])

    def node_back(self, node: int) -> None:
        self.inventory(node)
        self.planner.node_back(node)
        self.hint()

    def location_cut(self, nodes: list[int]) -> None:
        for node in nodes:
            self.planner.fleet.set_open(node, False)

    def inventory(self, node: int) -> None:
        """What a node says it has, as seen at a moment: what the picture lacks is taken in, what isn't there is forgotten;
        what was ordered or ended since then is left as it is known."""
        there, seen_s = self.world.trouble.seen(node)
        for instance, copy in list(self.planner.on(node).items()):
            found = there.get(instance)
            if (found is None or found.resting != copy.resting) and self.ordered.get(instance, -1.0) <= seen_s:
                self._is_gone(instance)
                self.rescale(self.world.lives[copy.service])
        for instance in list(self.books.on.get(node, ())):
            if instance not in there and self.ordered.get(instance, -1.0) <= seen_s:
                self.books.ended(instance)
        for instance, copy in there.items():
            since_s = max(self.ended_s.get(instance, -1.0), self.ordered.get(instance, -1.0))
            if instance in self.planner.copies or since_s >= seen_s:
                continue
            live = self.world.lives[copy.service]
            running = live.copies.get(instance)
            if running is None:
                continue
            if self.planner.came(copy):
                self.books.holds(copy)
                self.rescale(live)
            elif running.in_flight == 0 and self._reaches(running):
                self.world.agents.stop(running)
        self.hint()

    def declare(self, names: list[str]) -> str | None:
        """A new desired state: those services and no others. Answers why it is not believed."""
        known = self.planner.wanted
        why = mass_change(len(known), sum(1 for name in names if name in known), self.confirmed)
        if why is None:
            kept = set(names)
            for name in [name for name in known if name not in kept]:
                self.planner.forget(name)
            self.hint()
        return why


def _score(placing: Placing, mix: Mix) -> Score:
    match placing:
        case Placing.FGD:
            return Fgd(mix)
        case Placing.BEST_FIT:
            return best_fit
        case Placing.GPU_PACKING:
            return gpu_packing
    return costs(mix)
