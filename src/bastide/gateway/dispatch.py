"""From a service to an instance that may be used now: picks, holds, wakes once. Owns the waiting queues.

First come, first served. A request in a queue is never forgotten: it is served, told why not, or has left.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from bastide.domain.apps import Target
from bastide.domain.errors import BastideError, QueueFull, Unavailable
from bastide.domain.routes import ServiceRoute
from bastide.gateway.fleet import Fleet, Slot
from bastide.gateway.prefixes import Prefixes, blocks
from bastide.gateway.scaling import Scaling
from bastide.policy import hold as hold_policy
from bastide.policy.routing import Act, Candidate, Stance, nearest, pick

NO_TARGET = Target()


class Waiter:
    """One held request. `slot` resolves to a slot already counted as in use, or to the error that ends the wait."""

    __slots__ = ("noted", "prompt", "slot")

    def __init__(self, noted: Callable[[str, float | None], None], prompt: tuple[int, ...]) -> None:
        self.prompt = prompt
        self.slot: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self.noted = noted


class ServiceQueue:
    """The instances of one service and those who wait for one."""

    def __init__(self, route: ServiceRoute, fleet: Fleet) -> None:
        self._fleet = fleet
        self._waiting: deque[Waiter] = deque()
        self.in_flight = 0
        self.requests_total = 0
        self.errors_total = 0
        self._wake_s: float | None = None
        self.scaling: Scaling | None = None  # of an app with targets, and more than one instance
        self._slots: list[Slot] = []
        self._prefixes = Prefixes()
        self.update(route)

    def update(self, route: ServiceRoute) -> None:
        """Take a new generation's instances; those who wait go on waiting, now for these."""
        before, self.route = self._slots, route
        target = route.app.target if route.app is not None and len(route.instances) > 1 else NO_TARGET
        if target == NO_TARGET:
            self.scaling = None
        elif self.scaling is None or not self.scaling.is_for(target, route.target_in_flight):
            self.scaling = Scaling(target, route.target_in_flight, self._fleet.workers)
        self._slots = [self._fleet.slot(ref) for ref in route.instances]
        for slot in before:
            slot.owner = None
        for slot in self._slots:
            slot.owner = self._changed
        self._prefixes.keep([slot.instance for slot in self._slots])
        if self._waiting:
            self._pump()

    @property
    def queued(self) -> int:
        return len(self._waiting)

    def note(self) -> tuple[str, float | None]:
        """What the wake that is under way says of itself."""
        for slot in self._slots:
            if slot.waking is not None:
                return slot.note
        return ("waiting for its turn", None)

    def take(self, body: bytes = b"") -> Slot | None:
        """An instance that may be used at once, counted as in use; None where the request must wait.

        `body`: of a request to a model, whose prompt an instance may have read in part.
        """
        if self._waiting:
            return None  # never past those who came first
        if self.scaling is not None and (spread := self._spread(self.scaling)) is not None:
            return self._used(spread)
        if body and len(self._slots) > 1 and (near := self._nearest(blocks(body))) is not None:
            return self._used(near)
        for slot in self._slots:  # the common case, without the general one's cost
            if slot.lease is not None and slot.in_flight < self.route.target_in_flight and slot.draining is None:
                return self._used(slot)
        return None

    def _spread(self, scaling: Scaling) -> Slot | None:
        """The least busy of as many as should share the requests; the next of them is woken where it is not yet awake."""
        now_s = time.monotonic()
        scaling.arrived(now_s)
        if scaling.is_due(now_s):
            awake = [slot for slot in self._slots if slot.lease is not None]
            starting = sum(slot.waking is not None for slot in self._slots)
            scaling.look(
                now_s, self.in_flight, len(self._waiting), len(awake), starting, [slot.cpu_cores for slot in awake],
                len(self._slots),
            )  # fmt: skip
        shared = self._slots[: scaling.copies]
        if not any(slot.waking is not None for slot in shared):
            asleep = next((slot for slot in shared if slot.lease is None and slot.failure is None), None)
            if asleep is not None and asleep is not shared[0]:
                self._fleet.wake(asleep, lambda: scaling.copies > 1)
        ready = [
            slot
            for slot in shared
            if slot.lease is not None and slot.draining is None and slot.in_flight < self.route.target_in_flight
        ]
        return min(ready, key=lambda slot: (slot.in_flight, slot.rested_at), default=None)

    def _nearest(self, prompt: tuple[int, ...]) -> Slot | None:
        """Of those that may be used, the one that has read most of this prompt, unless it is too busy for that to pay."""
        most = self.route.target_in_flight
        ready = [s for s in self._slots if s.lease is not None and s.draining is None and s.in_flight < most]
        if not ready:
            return None
        known = [(slot.in_flight, self._prefixes.share(slot.instance, prompt)) for slot in ready]
        chosen = ready[nearest(known, most)]
        self._prefixes.sent(chosen.instance, prompt)
        return chosen

    def join(self, noted: Callable[[str, float | None], None], body: bytes = b"") -> Waiter:
        """Wait for an instance. QueueFull where too many do. `body`: as for `take`."""
        hold = self.route.hold
        if not hold_policy.may_queue(hold, len(self._waiting)):
            raise QueueFull(
                f"{self.route.service} is waking or busy and {len(self._waiting)} requests already wait (its "
                "hold.queue_max); try again soon",
                retry_after_s=hold_policy.queue_retry_after_s(hold, self._wake_s),
            )
        waiter = Waiter(noted, blocks(body) if len(self._slots) > 1 else ())
        self._waiting.append(waiter)
        self._pump()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting; a slot that was handed over in the same moment goes back."""
        if waiter.slot.done():
            if not waiter.slot.cancelled() and waiter.slot.exception() is None:
                self.give_back(waiter.slot.result())
        else:
            waiter.slot.cancel()
            self._waiting.remove(waiter)
            self._count_queued()

    def give_back(self, slot: Slot) -> None:
        slot.done()
        self.in_flight -= 1
        if self._waiting:
            self._pump()

    def end(self) -> None:
        """The service is gone: nobody waits for it any more."""
        for slot in self._slots:
            slot.owner = None
        self._slots = []
        self._refuse(Unavailable(f"{self.route.service} was removed or replaced while the request waited"))

    def _used(self, slot: Slot) -> Slot:
        slot.use()
        self.in_flight += 1
        self.requests_total += 1
        return slot

    def _changed(self, slot: Slot) -> None:
        if slot.lease is not None:
            self._wake_s = slot.lease.wake_s
            if slot.woke == "off":
                self._prefixes.forget(slot.instance)
        elif slot.waking is not None:
            for waiter in self._waiting:
                waiter.noted(*slot.note)
            return
        self._pump()

    def _pump(self) -> None:
        """Hand out what can be handed out, wake what must be woken, and end the wait of all where nothing is left."""
        failures: list[BastideError] = []
        while self._waiting:
            candidates = [Candidate(_stance(slot), slot.in_flight) for slot in self._slots]
            choice = pick(candidates, self.route.target_in_flight, len(self._waiting))
            if choice.act is Act.USE:
                waiter, slot = self._waiting.popleft(), self._slots[choice.index]
                if waiter.prompt:
                    self._prefixes.sent(slot.instance, waiter.prompt)
                waiter.slot.set_result(self._used(slot))
            elif choice.act is Act.WAKE:
                self._fleet.wake(self._slots[choice.index], lambda: bool(self._waiting))
            else:
                if choice.act is Act.GIVE_UP:
                    failures = [slot.failure for slot in self._slots if slot.failure is not None]
                    self._refuse(failures[0] if failures else None)
                break
        if not self._waiting:
            for slot in self._slots:
                slot.failure = None  # the next request may try anew; the agent has its own back-off
        self._count_queued()

    def _refuse(self, failure: BastideError | None) -> None:
        reason = self.route.unavailable or f"{self.route.service} has no instance that can serve now"
        while self._waiting:
            error = failure or Unavailable(reason, retry_after_s=5.0)
            waiter = self._waiting.popleft()
            waiter.slot.set_exception(error)

    def _count_queued(self) -> None:
        if self._slots:
            self._slots[0].queued = len(self._waiting)


def _stance(slot: Slot) -> Stance:
    if slot.draining is not None:
        return Stance.WAKING  # it gives way; those who wait for it are served when it is back
    if slot.lease is not None:
        return Stance.LEASED
    if slot.waking is not None:
        return Stance.WAKING
    return Stance.ASLEEP if slot.failure is None else Stance.REFUSED
