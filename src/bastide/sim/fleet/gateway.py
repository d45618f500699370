"""The gateways of a simulated fleet: requests come, are answered by an awake copy, or are held while one wakes.

The picking, the holding and the keeping warm are the shipped policies; what is made up is how long an answer takes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bastide.domain.spec import HoldSettings
from bastide.policy.affinity import Prospect, choose
from bastide.policy.hold import may_queue
from bastide.policy.keepalive import GRADED, MINUTES, Rhythm, warm_times
from bastide.policy.routing import Act, Candidate, Stance, pick
from bastide.sim.fleet.live import Live, Work
from bastide.sim.fleet.nodes import Running
from bastide.sim.fleet.setup import Arrival, KeepAlive

if TYPE_CHECKING:
    from bastide.sim.fleet.world import World

ATTEMPTS_MAX = 4
# With traces by the minute nothing is decided sooner after the last request; else not within a pause of a conversation.
BIN_S = 60.0
PAUSE_S = 5.0
# A copy with less room than this part of a slot is full.
FULL = 1e-3
NOTHING = 1e-9


class Gateway:
    """All gateways of the fleet as one: they share what they know through routes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.numbers = 0
        self.held_weight = 0.0

    # --- requests ----------------------------------------------------------------------------------------------------

    def begin(self, live: Live) -> None:
        """Schedule its first request."""
        self._next(live)
        policies = self.world.setup.policies
        if policies.keep_alive is KeepAlive.ALWAYS:
            live.warm = True
            self.world.control.rescale(live.spec.name)
        elif policies.keep_alive is KeepAlive.LEARNED:
            live.rhythm = Rhythm(GRADED if self.world.setup.graded else MINUTES)
        if live.spec.least:
            self.world.control.rescale(live.spec.name)

    def _next(self, live: Live) -> None:
        arrival = next(live.arrivals, None)
        if arrival is not None and arrival[0] < self.world.setup.duration_s:
            self.world.at(arrival[0], self._arrive, live, arrival)

    def _arrive(self, live: Live, arrival: Arrival) -> None:
        self._next(live)
        self.ask(live, *arrival)

    def ask(self, live: Live, at_s: float, weight: float, span_s: float, prompt: int, answer: int) -> None:
        """A request (or a stream of them) comes now."""
        self.world.measured.arrived += weight
        live.asked += weight
        self._note(live, at_s, span_s, weight * prompt)
        self.world.control.asked(live.spec.name)
        self.numbers += 1
        self._place(Work(self.numbers, live, at_s, weight, span_s, prompt, answer))

    def _note(self, live: Live, at_s: float, span_s: float, tokens: float) -> None:
        """What policies remember of it."""
        live.epoch += 1
        live.spans = None
        live.prompts(at_s, tokens)
        if live.last_s >= 0:
            gap_s = at_s - live.last_s
            live.gap_s = gap_s if live.gap_s == math.inf else live.gap_s + 0.1 * (gap_s - live.gap_s)
        live.last_s = at_s + span_s
        if live.rhythm is None:
            return
        if not self.world.setup.graded:
            at_s = at_s // BIN_S * BIN_S
        if live.origin_s >= 0 and at_s > live.origin_s:
            live.rhythm.saw(at_s - live.origin_s)
        live.origin_s = at_s

    def _place(self, work: Work) -> None:
        """Answer it now where a copy has room, else hold it."""
        if work.service.waiting or not self._fill(work):
            self._hold(work)

    def _fill(self, work: Work) -> bool:
        """Give it to copies with room. False where some of it is left over; that stays in `work`."""
        while True:
            running = self._pick(work.service, work)
            if running is None:
                return False
            if self._serve(running, work):
                return True

    def _pick(self, live: Live, work: Work) -> Running | None:
        """The copy that takes it: the shipped picking, over those that are awake."""
        awake = live.awake
        if len(awake) == 1:
            only = awake[0]
            return only if not only.draining and only.in_flight < only.way.slots - FULL else None
        able = [one for one in awake if not one.draining and one.in_flight < one.way.slots - FULL]
        if not able:
            return None
        if self.world.setup.policies.soonest:
            # Among the copies that are wanted, whoever answers soonest; those beyond get nothing, so that they can sleep.
            wanted = live.managed.wanted
            kept = [one for one in able if one in awake[:wanted]] if len(awake) > wanted else able
            if kept:
                return kept[choose([self._prospect(one, work) for one in kept]).index]
        candidates = [Candidate(Stance.LEASED, math.floor(one.in_flight)) for one in able]
        decision = pick(candidates, max(one.way.slots for one in able), 1)
        return able[decision.index] if decision.act is Act.USE else able[0]

    def _prospect(self, running: Running, work: Work) -> Prospect:
        way = running.way
        return Prospect(
            max(0.0, running.prefill_free_s - self.world.now_s),
            work.prompt / way.prefill_tokens_per_s,
            load=running.in_flight / way.slots,
        )

    def _serve(self, running: Running, work: Work) -> bool:
        """Begin it there. False where it exceeds the copy's slots: then a part begins, and the rest stays in `work`."""
        world, way, live = self.world, running.way, work.service
        now_s = world.now_s
        company = world.agents.company(running)
        begins_s = max(now_s, running.prefill_free_s)
        first_s = begins_s + work.prompt / way.prefill_tokens_per_s * company
        batch = min(len(way.step_s) - 1, int(running.in_flight) + 1)
        ends_s = first_s + (work.answer - 1) * way.step_s[batch] * company
        part, whole = work, True
        share = work.weight
        if work.span_s:  # so many at a time, by Little's law
            each = (ends_s - begins_s) / work.span_s
            room = (way.slots - running.in_flight) / max(each, 1e-12)
            if room < work.weight:
                whole = False
                part = self._another(work, room, work.span_s)
                work.weight -= room
            share = part.weight * each
        else:
            running.prefill_free_s = first_s
        part.waiting = False
        part.attempts += 1
        part.share = share
        self._waited(live, part, now_s, first_s - now_s)
        world.agents.busy(running, share)
        live.in_flight += share
        running.kv_tokens += share * (part.prompt + part.answer)
        running.works[part.number] = part
        world.at(max(ends_s, now_s + part.span_s), self._done, running, part)
        return whole

    def _another(self, work: Work, weight: float, span_s: float) -> Work:
        self.numbers += 1
        return Work(self.numbers, work.service, work.at_s, weight, span_s, work.prompt, work.answer, work.attempts)

    def _waited(self, live: Live, work: Work, now_s: float, takes_s: float) -> None:
        """Note when first tokens came. Of a stream that was held, those that came later waited less."""
        measured = self.world.measured
        held_s = now_s - work.at_s
        parts = [(held_s, work.weight)]
        if work.span_s and held_s > 0:
            early = work.weight * min(1.0, held_s / work.span_s)
            measured.held += early
            parts = [(0.75 * held_s, early / 2), (0.25 * held_s, early / 2), (0.0, work.weight - early)]
        elif held_s > 0:
            measured.held += work.weight
        for waited_s, weight in parts:
            if weight > 0:
                first_s = waited_s + takes_s
                measured.first_token.add(first_s, weight)
                self.world.recent.add(first_s, weight)
                if first_s > live.spec.first_token_s:
                    measured.late += weight
                    live.missed += weight
                live.late_s = max(first_s, live.late_s * 0.5 ** (1.0 / max(1.0, live.in_flight)))

    def _done(self, running: Running, work: Work) -> None:
        if running.works.get(work.number) is not work:
            return
        del running.works[work.number]
        live, world = work.service, self.world
        world.measured.answered += work.weight
        world.measured.whole.add(max(0.0, world.now_s - work.span_s - work.at_s), work.weight)
        self._leaves(running, work)
        self.serve_waiting(live)
        if running.in_flight <= NOTHING:
            world.agents.became_idle(running)
        if live.in_flight <= NOTHING and not live.waiting:
            self.idle(live)

    def _leaves(self, running: Running, work: Work) -> None:
        self.world.agents.busy(running, -work.share)
        live = work.service
        live.in_flight -= work.share
        if live.in_flight < NOTHING:  # what sums of fractions leave
            live.in_flight = 0.0
        running.kv_tokens -= work.share * (work.prompt + work.answer)

    def lost(self, running: Running) -> None:
        """Its copy is gone under it: everything in flight moves, silently, to where there is room."""
        works = list(running.works.values())
        running.works.clear()
        for work in works:
            self._leaves(running, work)
            if work.attempts >= ATTEMPTS_MAX:
                self.world.measured.failed += work.weight
                work.service.missed += work.weight
                continue
            self.world.measured.moved += work.weight
            left_s = max(1e-3, work.at_s + work.span_s - self.world.now_s) if work.span_s else 0.0
            again = self._another(work, work.weight, left_s)
            again.at_s = self.world.now_s
            self._place(again)

    # --- holding -----------------------------------------------------------------------------------------------------

    def _hold(self, work: Work) -> None:
        live, world = work.service, self.world
        hold = HoldSettings(wait_s_max=live.spec.wait_s_max, queue_max=live.spec.queue_max)
        single = work.span_s == 0
        if not may_queue(hold, int(live.queued)) and single:
            world.measured.refused += work.weight
            live.missed += work.weight
            return
        work.waiting = True
        live.waiting.append(work)
        live.queued += self._at_a_time(work)
        self.held_weight += work.weight
        world.at(world.now_s + live.spec.wait_s_max, self._gives_up, work)
        world.control.rescale(live.spec.name)

    @staticmethod
    def _at_a_time(work: Work) -> float:
        """How many of it would be in flight at once."""
        if not work.span_s:
            return work.weight
        way = work.service.spec.ways[0]
        takes_s = work.prompt / way.prefill_tokens_per_s + work.answer * way.step_s[-1]
        return work.weight * takes_s / work.span_s

    def serve_waiting(self, live: Live) -> None:
        """Whoever waits longest is served first, while there is room."""
        while live.waiting:
            work = live.waiting[0]
            if not work.waiting:
                live.waiting.popleft()
                continue
            before, asked = work.weight, self._at_a_time(work)
            whole = self._fill(work)
            self.held_weight -= before if whole else before - work.weight
            live.queued -= asked if whole else asked - self._at_a_time(work)
            if not whole:
                return
            live.waiting.popleft()
        live.queued = 0.0  # what sums of fractions leave

    def _gives_up(self, work: Work) -> None:
        if not work.waiting:
            return
        live = work.service
        work.waiting = False
        live.waiting.remove(work)
        live.queued = max(0.0, live.queued - self._at_a_time(work))
        self.held_weight -= work.weight
        self.world.measured.timed_out += work.weight
        live.missed += work.weight

    def close(self) -> None:
        """Time is over. Who waits longer than was promised has missed it; of the others nobody knows."""
        measured, now_s = self.world.measured, self.world.now_s
        for live in self.world.lives.values():
            for work in live.waiting:
                if not work.waiting:
                    continue
                if now_s - work.at_s - work.span_s > live.spec.first_token_s:
                    measured.waiting_late += work.weight
                    live.missed += work.weight
                else:
                    measured.waiting += work.weight
                    live.asked -= work.weight

    # --- keeping warm ------------------------------------------------------------------------------------------------

    def idle(self, live: Live) -> None:
        """Nothing is in flight and nobody waits: when it will be let go is decided once that matters."""
        world, policies = self.world, self.world.setup.policies
        live.warm = True
        wait_s = PAUSE_S if world.setup.graded else BIN_S
        if policies.keep_alive is KeepAlive.FIXED:
            world.at(world.now_s + policies.fixed_s, self._cools, live, live.epoch)
        elif policies.keep_alive is KeepAlive.LEARNED:
            world.at(max(world.now_s, live.last_s) + wait_s, self._look, live, live.epoch)

    def _cools(self, live: Live, epoch: int) -> None:
        if live.epoch == epoch and live.warm:
            live.warm = False
            self.world.control.rescale(live.spec.name)

    def _look(self, live: Live, epoch: int) -> None:
        """What the rhythm says for the time from now on."""
        if live.epoch != epoch or live.rhythm is None:
            return
        if live.spans is None:
            live.spans = warm_times(live.rhythm, self.world.setup.policies.worth_s)
        origin_s = live.origin_s
        now_s = self.world.now_s
        for span in live.spans:
            if origin_s + span.to_s <= now_s:
                continue
            # It is awake in time: what a start takes, before the first minute of the span.
            begins_s = origin_s + span.from_s - max(way.cached_s for way in live.spec.ways)
            if begins_s <= now_s:
                if not live.warm:
                    live.warm = True
                    self.world.control.rescale(live.spec.name)
                self.world.at(origin_s + span.to_s, self._look, live, epoch)
            else:
                if live.warm:
                    live.warm = False
                    self.world.control.rescale(live.spec.name)
                self.world.at(begins_s, self._warms, live, epoch, origin_s + span.to_s)
            return
        if live.warm:
            live.warm = False
            self.world.control.rescale(live.spec.name)

    def _warms(self, live: Live, epoch: int, until_s: float) -> None:
        if live.epoch == epoch and not live.warm:
            live.warm = True
            self.world.control.rescale(live.spec.name)
            self.world.at(until_s, self._look, live, epoch)
