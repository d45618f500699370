"""How instances move on one node: the queue of wakes, the steps down, failures, room on the device. No input or output.

Owns the order of waking. agent/core.py turns what happens outside into these moves; nothing else may change a record.
"""

from __future__ import annotations

from bastide.agent.effects import (
    AskBack,
    Changed,
    Effect,
    Forgotten,
    Grant,
    Lost,
    Refuse,
    SinkEngine,
    StartEngine,
    StopEngine,
    Tell,
    WakeEngine,
)
from bastide.agent.nodestate import NodeState
from bastide.agent.record import Record, Waiter
from bastide.domain.errors import EngineStartFailed, NoRoom
from bastide.domain.lifecycle import Happening, Phase, Rung
from bastide.domain.units import format_bytes
from bastide.policy import backoff, room
from bastide.policy.sleep import IDLE_S_MIN, Step, step_due

# Where there is no room to wake somebody ahead of a request, it is looked again so often.
AHEAD_AGAIN_S = 5.0


class Moves(NodeState):
    """Every move of a node's instances."""

    def _want(self, record: Record, now_s: float) -> None:
        if not record.wanted and not record.removing:
            record.wanted = True
            project = record.assignment.spec.project
            record.turn = self._turns[project] = self.rules.turn(self._served, self._turns.get(project))
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
        record.resident_since_s = now_s
        if record.waiters:
            record.ahead_reason = ""
        if not record.ahead_reason:
            record.last_used_s = now_s
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
        record.sink_to, record.leaving_for_room, record.ahead_reason = None, False, ""
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
        idle_s = now_s - record.last_used_s
        if self._learns(record):
            if record.flying or idle_s < IDLE_S_MIN:
                self._schedule(record, idle_s)
                return
            self._plan(record)
        step = step_due(record.steps, resting, idle_s, record.ahead_s)
        if step is None:
            self._schedule(record, idle_s)
        elif step.rung is Rung.AWAKE:
            self._wake_ahead(record, step, now_s)
        else:
            self._begin_sink(record, step.rung, step.reason, now_s, only_if_idle_s=step.at_idle_s)

    def _wake_ahead(self, record: Record, step: Step, now_s: float) -> None:
        """A request is expected: wake it where there is room. It pushes nobody out, and whoever needs its place has it."""
        need = max(0, max(record.awake_bytes, 1) - self._charge(record))
        if self._queue or (need and not isinstance(self._room(need, record.instance, now_s), room.Fits)):
            self._at(record, now_s + AHEAD_AGAIN_S)
            return
        record.ahead_s, record.ahead_reason = step.at_idle_s, step.reason
        self._decide(record, "wake ahead", step.reason, now_s)
        self._rise(record, now_s)

    def _pump(self, now_s: float) -> list[Effect]:
        """Grant the wakes that fit, by turns; make room for the first that does not."""
        blocked = False
        for instance in sorted(self._queue, key=lambda name: self.records[name].turn):
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
                continue  # nobody overtakes whose turn it is, however little he needs
            decision = self._room(need, instance, now_s) if need else room.Fits()
            if isinstance(decision, room.Fits):
                self._served = max(self._served, record.turn)
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
                lately_s = room.swapping(self._swapped_s, now_s - self._swapped_at_s)
                self._swapped_s = lately_s + self._cost(record, record.phase.rung or Rung.OFF).wake_s
                self._swapped_at_s = now_s
                for victim in decision.victims:
                    self._give_way(self.records[victim], record, victim in decision.drain, decision.reason, now_s)
                # A victim without leases went at once, or its record may already hold less: look again on `rested`.
            else:
                self._at(record, now_s + decision.look_again_s)
                self._out.append(Tell(tokens, f"waiting for room: {decision.reason}"))
        return self._flush()

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
        record.ahead_reason = record.ahead_reason if not tokens else ""
        why = f"{len(tokens)} waiting" if tokens else "one is kept awake" if record.assignment.keep_awake else "asked"
        why = record.ahead_reason or why
        if resting.has_process:
            record.move(Happening.WAKE, why, now_s)
            self._out.append(WakeEngine(record.instance))
        else:
            record.move(Happening.START, why, now_s)
            self._out.append(StartEngine(record.instance))
        self._out.append(Tell(tokens, f"from {resting.value}"))
        self._out.append(Changed(record.instance))
