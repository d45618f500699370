"""How instances move on one node: the queue of wakes, the steps down, failures, room on the device. No input or output.

Owns the records. agent/core.py turns what happens outside into these moves; nothing else may change a record.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from bastide.agent.costs import CostBook
from bastide.agent.effects import (
    AskBack,
    Changed,
    Effect,
    Forgotten,
    Grant,
    Lost,
    Note,
    Refuse,
    SinkEngine,
    Spent,
    StartEngine,
    StopEngine,
    Tell,
    WakeEngine,
)
from bastide.agent.record import Record, Waiter
from bastide.domain.decisions import Decision
from bastide.domain.errors import EngineStartFailed, NoRoom
from bastide.domain.lifecycle import Happening, Phase, Rung
from bastide.domain.units import format_bytes
from bastide.policy import backoff, room
from bastide.policy.sleep import RungCost, ladder, next_step, step_due

HOLDING = {Phase.STARTING, Phase.AWAKE, Phase.SINKING, Phase.FROZEN, Phase.LIGHT, Phase.WAKING, Phase.STOPPING}


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the core knows of its node: its name, its device's budget in bytes, and the rungs that hold here."""

    node: str
    budget_bytes: int
    available: frozenset[Rung]


class Moves:
    """The state of one node and every move of its instances; effects gather until they are taken."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.records: dict[str, Record] = {}
        self._queue: deque[str] = deque()
        self._due: list[tuple[float, str]] = []
        self.costs = CostBook()
        self._out: list[Effect] = []
        self._serial = 0

    def next_due_s(self) -> float | None:
        """When `tick` should be called next, in seconds since the epoch; None: not before something happens."""
        return self._due[0][0] if self._due else None

    def held_bytes(self) -> int:
        """What all instances count for on the device now."""
        return sum(self._charge(record) for record in self.records.values())

    def _flush(self) -> list[Effect]:
        out, self._out = self._out, []
        return out

    def _decide(self, record: Record, what: str, reason: str, now_s: float, **facts: float | int | str) -> None:
        spec = record.assignment.spec
        self._out.append(Note(Decision(now_s, spec.project, spec.name, "agent", what, reason, record.instance, facts)))

    def _spend(self, record: Record, now_s: float) -> None:
        if now_s > record.spent_since_s:
            self._out.append(Spent(record.instance, record.phase, now_s - record.spent_since_s, now_s))
        record.spent_since_s = now_s

    def _charge(self, record: Record) -> int:
        if record.phase in (Phase.STARTING, Phase.WAKING, Phase.AWAKE, Phase.FROZEN):
            return max(record.awake_bytes, record.held_bytes)
        return record.held_bytes if record.phase in HOLDING or record.phase is Phase.DEEP else 0

    def _want(self, record: Record, now_s: float) -> None:
        if not record.wanted and not record.removing:
            record.wanted = True
            self._queue.append(record.instance)

    def _unwant(self, record: Record) -> None:
        if record.wanted:
            record.wanted = False
            self._queue.remove(record.instance)

    def _grant(self, record: Record, waiter: Waiter, woke_from: Rung, now_s: float) -> None:
        serial = self._next_serial(now_s)
        if waiter.worker is not None:
            record.leases[waiter.worker] = serial
        record.last_used_s = now_s
        self._out.append(Grant(waiter.token, record.instance, serial, woke_from, now_s - waiter.since_s))

    def _next_serial(self, now_s: float) -> int:
        # From the time, so that they go on growing over a restart of the agent.
        self._serial = max(self._serial + 1, int(now_s * 1000))
        return self._serial

    def _awake(self, record: Record, reason: str, now_s: float) -> None:
        self._spend(record, now_s)
        record.move(Happening.READY, reason, now_s)
        record.resident_since_s = record.last_used_s = now_s
        record.held_bytes = max(record.held_bytes, record.awake_bytes)
        self._decide(
            record, "awake", f"{reason}; {len(record.waiters)} waited", now_s, woke_from=record.woke_from.value
        )
        self._unwant(record)
        for waiter in record.waiters:
            self._grant(record, waiter, record.woke_from, now_s)
        record.waiters.clear()
        self._out.append(Changed(record.instance))
        if record.removing:
            self._begin_sink(record, Rung.OFF, "no longer declared", now_s, only_if_idle_s=None, drain=True)
        self._plan_sleep(record)
        self._schedule(record)

    def _fail(self, record: Record, reason: str, now_s: float, *, own_fault: bool = True) -> None:
        self._spend(record, now_s)
        stable = record.phase is Phase.AWAKE and now_s - record.resident_since_s > backoff.STABLE_S
        if own_fault:
            record.failures = 1 if stable else record.failures + 1
        lost = tuple(sorted(set(record.leases) | record.asked))
        record.leases.clear()
        record.asked.clear()
        record.in_flight.clear()
        record.move(Happening.DIED, reason, now_s)
        record.failure, record.pid, record.held_bytes = reason, None, 0
        record.sink_to, record.leaving_for_room = None, False
        self._unwant(record)
        if lost:
            self._out.append(Lost(lost, record.instance, reason))
        gives_up = record.failures >= backoff.CRASHES_MAX
        wait_s = backoff.delay_s(record.failures)
        record.retry_at_s = now_s if record.failures <= 1 or not own_fault else now_s + wait_s
        self._decide(
            record,
            "give up" if gives_up else "back off",
            f"failed {record.failures} time(s): {reason}" if own_fault else reason,
            now_s,
            failures=record.failures,
        )
        if record.failures >= 2 and own_fault:
            for waiter in record.waiters:
                self._out.append(Refuse(waiter.token, EngineStartFailed(reason, retry_after_s=wait_s)))
            record.waiters.clear()
        self._out.append(Changed(record.instance))
        if record.removing:
            record.move(Happening.STOP, reason, now_s)
            del self.records[record.instance]
            self._out.append(Forgotten(record.instance))
        elif not gives_up:
            self._at(record, record.retry_at_s)

    def _at(self, record: Record, when_s: float) -> None:
        """Look at this instance then. Only the earliest time is kept: looking too early costs nothing."""
        if record.due_s is None or when_s < record.due_s:
            record.due_s = when_s
            heapq.heappush(self._due, (when_s, record.instance))

    def _begin_sink(
        self,
        record: Record,
        rung: Rung,
        reason: str,
        now_s: float,
        *,
        only_if_idle_s: float | None,
        drain: bool = False,
        for_room: bool = False,
    ) -> None:
        """Towards `rung`: leases are asked back first; the step itself begins when the last is."""
        if record.phase.rung is None and record.phase is not Phase.FAILED:
            if record.removing:
                record.sink_to = record.sink_to or Rung.OFF
            return  # it is moving; whatever it comes to rest on is looked at again
        if record.phase in (Phase.OFF, Phase.FAILED) or (record.phase is Phase.DEEP and record.removing):
            if record.removing:
                had_state = record.phase is Phase.DEEP
                record.phase = Phase.OFF
                if had_state:
                    record.phase = Phase.STOPPING
                    self._out.append(StopEngine(record.instance))
                else:
                    self._spend(record, now_s)
                    del self.records[record.instance]
                    self._out.append(Forgotten(record.instance))
            return
        record.sink_to, record.sink_reason, record.leaving_for_room = rung, reason, for_room
        for worker in sorted(set(record.leases) - record.asked):
            record.asked.add(worker)
            self._out.append(AskBack(worker, record.instance, record.leases[worker], only_if_idle_s, drain))
        self._sink_if_returned(record, now_s)

    def _sink_if_returned(self, record: Record, now_s: float) -> None:
        if record.sink_to is None or record.asked or record.leases or record.phase.rung is None:
            return
        if record.waiters and not record.leaving_for_room and not record.removing and record.phase is Phase.AWAKE:
            # Somebody came while the leases were on their way back: it stays.
            self._stay(record, now_s)
            return
        self._spend(record, now_s)
        resting = record.phase.rung
        if record.removing or record.sink_to is Rung.OFF:
            record.move(Happening.STOP, record.sink_reason, now_s)
            self._out.append(StopEngine(record.instance))
        else:
            record.sinking_from = resting
            record.move(Happening.SINK, record.sink_reason, now_s)
            self._out.append(SinkEngine(record.instance, resting, record.sink_to))
        self._out.append(Changed(record.instance))

    def _stay(self, record: Record, now_s: float) -> None:
        record.sink_to, record.leaving_for_room = None, False
        if record.phase is Phase.AWAKE:
            self._unwant(record)
            for waiter in record.waiters:
                self._grant(record, waiter, Rung.AWAKE, now_s)
            record.waiters.clear()

    def _look(self, record: Record, now_s: float) -> None:
        """Something was due for this instance."""
        if record.relieve:
            record.relieve = False
            self._relieve(record, now_s)
        if record.phase is Phase.FAILED:
            if now_s >= record.retry_at_s and record.failures < backoff.CRASHES_MAX:
                record.move(Happening.BACKOFF_OVER, f"may be tried again after: {record.failure}", now_s)
                self._out.append(Changed(record.instance))
                if record.waiters or record.assignment.keep_awake:
                    self._want(record, now_s)
            elif record.failures < backoff.CRASHES_MAX:
                self._at(record, record.retry_at_s)  # looked at early, for something that was due before it failed
            return
        resting = record.phase.rung
        if resting is None or record.assignment.keep_awake or record.sink_to is not None or record.wanted:
            return
        if resting is Rung.AWAKE and record.flying == 0 and record.failures:
            record.failures = 0 if now_s - record.resident_since_s > backoff.STABLE_S else record.failures
        step = step_due(record.steps, resting, now_s - record.last_used_s)
        if step is not None:
            self._begin_sink(record, step.rung, step.reason, now_s, only_if_idle_s=step.at_idle_s)
        else:
            self._schedule(record)

    def _schedule(self, record: Record) -> None:
        resting = record.phase.rung
        if resting is None or record.assignment.keep_awake or record.sink_to is not None:
            return
        step = next_step(record.steps, resting)
        if step is not None:
            self._at(record, record.last_used_s + step.at_idle_s + 0.001)

    def _pump(self, now_s: float) -> list[Effect]:
        """Grant the wakes that fit, in the order they came; make room for the first that does not."""
        blocked = False
        for instance in list(self._queue):
            record = self.records[instance]
            if record.phase is Phase.AWAKE:
                if record.sink_to is None:
                    self._stay(record, now_s)
                continue
            if record.phase not in (Phase.OFF, Phase.DEEP, Phase.FROZEN, Phase.LIGHT):
                continue  # it is moving; it stays in the queue until it rests
            if record.sink_to is not None:
                record.sink_to = None
            need = max(0, max(record.awake_bytes, 1) - self._charge(record))
            if need and blocked:
                continue  # first come, first served: nobody overtakes who waits for memory
            decision = self._room(need, instance, now_s) if need else room.Fits()
            if isinstance(decision, room.Fits):
                self._rise(record, now_s)
                continue
            blocked = True
            tokens = tuple(waiter.token for waiter in record.waiters)
            if isinstance(decision, room.CannotFit):
                blocked = False
                self._unwant(record)
                record.reason = f"no room: {decision.reason}"
                self._decide(record, "refuse", decision.reason, now_s, need_bytes=need)
                error = f"{instance} {decision.reason}. Raise `--memory`, or scale other services down."
                self._out.extend(Refuse(token, NoRoom(error, retry_after_s=10.0)) for token in tokens)
                record.waiters.clear()
                self._out.append(Changed(instance))
            elif isinstance(decision, room.GiveWay):
                self._out.append(Tell(tokens, f"making room: {decision.reason}"))
                for victim in decision.victims:
                    self._give_way(self.records[victim], record, victim in decision.drain, decision.reason, now_s)
                # A victim without leases went at once, or its record may already hold less: look again on `rested`.
            else:
                self._at(record, now_s + decision.look_again_s)
                self._out.append(Tell(tokens, f"waiting for room: {decision.reason}"))
        return self._flush()

    def _room(self, need: int, instance: str, now_s: float) -> room.RoomDecision:
        residents, leaving = [], 0
        for record in self.records.values():
            held = self._charge(record)
            if held == 0 or record.instance == instance:
                continue
            if record.leaving_for_room or record.phase is Phase.STOPPING or record.phase is Phase.SINKING:
                leaving += held - self._cost(record, record.sink_to or Rung.OFF).held_bytes
            deep = self._cost(record, Rung.DEEP)
            residents.append(
                room.Resident(
                    instance=record.instance,
                    name=record.assignment.spec.name,
                    held_bytes=held,
                    freed_bytes=max(0, held - deep.held_bytes),
                    in_flight=record.flying,
                    idle_s=0.0 if record.flying else max(0.0, now_s - record.last_used_s),
                    resident_s=now_s - record.resident_since_s,
                    wake_s=deep.wake_s,
                    interval_s=record.interval_s,
                    pinned=record.assignment.keep_awake,
                    moving=record.phase.rung is None or record.sink_to is not None,
                )
            )
        own = self.records.get(instance)
        free_budget = self.settings.budget_bytes - (self._charge(own) if own is not None else 0)
        return room.make_room(free_budget, need, tuple(residents), leaving)

    def _relieve(self, grown: Record, now_s: float) -> None:
        """A first start was a guess; where it held more than guessed and the device is over its budget, one gives way."""
        if self.held_bytes() <= self.settings.budget_bytes:
            return
        decision = self._room(0, "", now_s)
        if isinstance(decision, room.GiveWay):
            for victim in decision.victims:
                self._give_way(self.records[victim], grown, victim in decision.drain, decision.reason, now_s)
        elif isinstance(decision, room.WaitForRoom):
            grown.relieve = True
            self._at(grown, now_s + decision.look_again_s)

    def _give_way(self, victim: Record, winner: Record, drain: bool, reason: str, now_s: float) -> None:
        need = format_bytes(winner.awake_bytes)
        self._decide(victim, "give way", f"{winner.assignment.spec.name} needs {need}: {reason}", now_s)
        self._decide(winner, "make room", reason, now_s)
        self._begin_sink(
            victim,
            Rung.DEEP,
            f"gave way to {winner.assignment.spec.name}",
            now_s,
            only_if_idle_s=None if drain else 0.0,
            drain=drain,
            for_room=True,
        )

    def _rise(self, record: Record, now_s: float) -> None:
        """Begin to wake: the memory counts as taken from here on."""
        self._spend(record, now_s)
        self._unwant(record)
        resting = record.phase.rung
        assert resting is not None
        record.woke_from = resting
        tokens = tuple(waiter.token for waiter in record.waiters)
        why = f"{len(tokens)} waiting" if tokens else "one is kept awake" if record.assignment.keep_awake else "asked"
        if resting.has_process:
            record.move(Happening.WAKE, why, now_s)
            self._out.append(WakeEngine(record.instance))
        else:
            record.move(Happening.START, why, now_s)
            self._out.append(StartEngine(record.instance))
        self._out.append(Tell(tokens, f"from {resting.value}"))
        self._out.append(Changed(record.instance))

    def _plan_sleep(self, record: Record) -> None:
        costs = {rung: self._cost(record, rung) for rung in Rung}
        record.steps = ladder(record.assignment.spec.sleep, costs, self.settings.available)

    def _cost(self, record: Record, rung: Rung) -> RungCost:
        return self.costs.cost(record.assignment.content, record.awake_bytes, rung)
