"""The agent's decisions about the instances of one node, without any input or output.

Owns the records, the queue of wakes and the device's budget. Every method takes `now_s` and returns effects; the
service (agent/service.py) carries them out and reports back, the simulator does the same in virtual time. It must
never touch a process, a socket or a clock.

The lease rule: a gateway may connect to an instance only while it holds a lease; a step down begins only when every
lease is back. So a step down can never race a connect.
"""

from __future__ import annotations

import heapq

from bastide.agent.effects import (
    Changed,
    Effect,
    Forgotten,
    Lost,
    Refuse,
    SinkEngine,
)
from bastide.agent.moves import Moves
from bastide.agent.record import Record, Waiter
from bastide.domain.errors import BastideError, Conflict, EngineStartFailed, NotFound
from bastide.domain.instances import Assignment
from bastide.domain.lifecycle import Happening, Phase, Rung
from bastide.domain.units import format_duration
from bastide.policy import backoff

RESTED = {
    Rung.FROZEN: Happening.RESTED_FROZEN,
    Rung.LIGHT: Happening.RESTED_LIGHT,
    Rung.DEEP: Happening.RESTED_DEEP,
    Rung.OFF: Happening.RESTED_OFF,
}


SHRINK = 0.95


class NodeCore(Moves):
    """All instances of one node. Not thread-safe: one caller at a time."""

    # --- what the outside tells the core ---------------------------------------------------------------------------

    def assign(self, assignment: Assignment, estimate_bytes: int, now_s: float) -> list[Effect]:
        """Take on an instance, or its changed settings. `estimate_bytes`: what it will hold awake, until measured."""
        record = self.records.get(assignment.instance)
        if record is None:
            known_bytes = self.costs.awake_bytes(assignment.content) or estimate_bytes
            awake_bytes = max(known_bytes, assignment.reserved_bytes)
            record = Record(assignment, since_s=now_s, spent_since_s=now_s, awake_bytes=awake_bytes)
            self.records[assignment.instance] = record
            self._out.append(Changed(assignment.instance))
        else:
            record.assignment = assignment
            record.removing = False
        self._plan_sleep(record)
        if assignment.keep_awake and record.phase is not Phase.AWAKE:
            self._want(record, now_s)
        return self._pump(now_s)

    def adopt(self, instance: str, phase: Phase, pid: int, now_s: float) -> list[Effect]:
        """A process of an earlier agent, found alive on `phase`."""
        record = self.records[instance]
        record.phase, record.since_s, record.pid = phase, now_s, pid
        record.reason = "adopted: it lived on while the agent was away"
        record.proven = True
        record.last_used_s = record.resident_since_s = now_s
        record.held_bytes = record.awake_bytes
        self._decide(record, "adopt", f"process {pid} is the one this instance was started as", now_s)
        self._schedule(record)
        return self._flush()

    def recall(self, instance: str, now_s: float) -> list[Effect]:
        """One whose processes an earlier agent kept, found good."""
        record = self.records[instance]
        record.phase, record.since_s, record.kept = Phase.DEEP, now_s, True
        record.reason = "its processes were kept over a restart"
        record.proven = True
        self._decide(record, "recall", "what was kept of its processes is whole, and of this generation", now_s)
        return self._flush()

    def unassign(self, instance: str, now_s: float) -> list[Effect]:
        """Let an instance go: finish what is in flight, end it, forget it."""
        record = self.records.get(instance)
        if record is None:
            self._out.append(Forgotten(instance))
            return self._flush()
        record.removing = True
        for waiter in record.waiters:
            self._out.append(Refuse(waiter.token, NotFound(f"{instance} is being removed")))
        record.waiters.clear()
        self._unwant(record)
        self._begin_sink(record, Rung.OFF, "no longer declared", now_s, only_if_idle_s=None, drain=True)
        return self._pump(now_s)

    def acquire(self, token: int, worker: str | None, instance: str, now_s: float) -> list[Effect]:
        """Somebody wants to connect. Answered by exactly one Grant or Refuse with this token, unless withdrawn."""
        record = self.records.get(instance)
        if record is None or record.removing:
            self._out.append(Refuse(token, NotFound(f"this node has no instance {instance}")))
            return self._flush()
        if worker is not None:
            self._came(record, worker, now_s)
        if record.phase is Phase.AWAKE and record.sink_to is None:
            self._grant(record, Waiter(token, worker, now_s), Rung.AWAKE, now_s)
            return self._flush()
        if record.phase is Phase.FAILED and record.failures >= backoff.CRASHES_MAX:
            self._out.append(Refuse(token, EngineStartFailed(record.failure)))
            return self._flush()
        record.waiters.append(Waiter(token, worker, now_s))
        self._want(record, now_s)
        return self._pump(now_s)

    def withdraw(self, token: int, now_s: float) -> list[Effect]:
        """A waiter has gone. Its wake goes on: it is nearly paid for, and the next may come."""
        for record in self.records.values():
            record.waiters = [waiter for waiter in record.waiters if waiter.token != token]
        return self._pump(now_s)

    def returned(
        self, worker: str, instance: str, released: bool, idle_s: float, in_flight: int, now_s: float
    ) -> list[Effect]:
        """A gateway's answer to AskBack."""
        record = self.records.get(instance)
        if record is None:
            return self._flush()
        record.last_used_s = max(record.last_used_s, now_s - idle_s)
        record.in_flight[worker] = in_flight
        record.asked.discard(worker)
        if released:
            record.leases.pop(worker, None)
            record.in_flight.pop(worker, None)
        elif record.sink_to is not None and not record.removing:
            self._stay(record, now_s)
        self._sink_if_returned(record, now_s)
        self._schedule(record)
        return self._pump(now_s)

    def gateway_came(self, worker: str, leases: tuple[str, ...], now_s: float) -> list[Effect]:
        """A gateway is (back) on the line and says which leases it believes to hold."""
        for instance in leases:
            record = self.records.get(instance)
            if record is not None and record.phase is Phase.AWAKE and record.sink_to is None:
                record.leases[worker] = self._next_serial(now_s)
                record.last_used_s = now_s
            else:
                self._out.append(Lost((worker,), instance, "it went to sleep while the line was cut"))
        return self._flush()

    def gateway_left(self, worker: str, now_s: float) -> list[Effect]:
        """A gateway is gone, and with it its leases."""
        for record in self.records.values():
            if worker in record.leases or worker in record.asked:
                record.leases.pop(worker, None)
                record.asked.discard(worker)
                record.in_flight.pop(worker, None)
                record.last_used_s = max(record.last_used_s, now_s)
                self._sink_if_returned(record, now_s)
                self._schedule(record)
            record.waiters = [waiter for waiter in record.waiters if waiter.worker != worker]
        return self._pump(now_s)

    def activity(
        self, worker: str, instance: str, in_flight: int, last_used_s: float, now_s: float, requests: int | None = None
    ) -> list[Effect]:
        """What a gateway says of an instance it holds. `requests`: how many it has sent there, ever."""
        record = self.records.get(instance)
        if record is not None and worker in record.leases:
            self._asked(record, worker, in_flight, last_used_s, now_s, requests)
            record.in_flight[worker] = in_flight
            record.last_used_s = max(record.last_used_s, last_used_s)
            self._out.append(Changed(instance))
        return self._pump(now_s) if self._queue else self._flush()

    def started(self, instance: str, pid: int, took_s: float, now_s: float, how: str = "started") -> list[Effect]:
        """A StartEngine succeeded. `how`, where there was more than one way: what was kept of it, or why it began anew."""
        record = self.records.get(instance)
        if record is None or record.phase is not Phase.STARTING:
            return self._flush()
        record.pid = pid
        record.proven = True
        reason = f"{how} in {format_duration(took_s)}"
        if not record.woke_from.has_process:
            self.costs.learn(record.assignment.content, record.woke_from, wake_s=took_s)
        self._awake(record, reason, now_s)
        return self._pump(now_s)

    def start_failed(self, instance: str, error: BastideError, now_s: float) -> list[Effect]:
        """A StartEngine failed."""
        record = self.records.get(instance)
        if record is not None and record.phase is Phase.STARTING:
            self._fail(record, error.message, now_s)
        return self._pump(now_s)

    def woken(self, instance: str, took_s: float, now_s: float) -> list[Effect]:
        """A WakeEngine succeeded."""
        record = self.records.get(instance)
        if record is None or record.phase is not Phase.WAKING:
            return self._flush()
        if record.woke_from is not Rung.LIGHT:  # its pages come back as they are touched: see EngineRoom._rehearse
            self.costs.learn(record.assignment.content, record.woke_from, wake_s=took_s)
        self._awake(record, f"woken from {record.woke_from.value} in {format_duration(took_s)}", now_s)
        return self._pump(now_s)

    def rested(
        self,
        instance: str,
        rung: Rung,
        held_bytes: int,
        took_s: float,
        now_s: float,
        wake_s: float | None = None,
        lost: str = "",
    ) -> list[Effect]:
        """A SinkEngine or StopEngine is done; `rung` is where it really rests, `held_bytes` what it still holds.

        `wake_s`: what waking from there was seen to cost, where that was tried. `lost`: what should have been kept, and why not.
        """
        record = self.records.get(instance)
        if record is None or record.phase not in (Phase.SINKING, Phase.STOPPING):
            return self._flush()
        self._spend(record, now_s)
        was_sinking = record.phase is Phase.SINKING
        was_let_go = record.removing or was_sinking
        freed = max(0, record.held_bytes - held_bytes)
        reason = record.sink_reason if was_sinking else record.reason
        record.move(RESTED[rung], reason, now_s)
        record.sink_to, record.leaving_for_room, record.ahead_reason = None, False, ""
        record.held_bytes = held_bytes
        if not rung.has_process:
            record.pid = None
        if was_sinking:
            record.failures = 0  # it lived until it was put to sleep
        if was_sinking and rung is not Rung.OFF:
            self.costs.learn(record.assignment.content, rung, wake_s=wake_s, sink_s=took_s, held_bytes=held_bytes)
        if not was_let_go or (was_sinking and rung is not Rung.OFF):
            told = f"{record.sink_reason}; {lost}" if lost else record.sink_reason
            self._decide(record, f"sleep {rung.value}", told, now_s, gave_back_bytes=freed)
        self._out.append(Changed(instance))
        if record.removing:
            del self.records[instance]
            self._out.append(Forgotten(instance))
        else:
            self._schedule(record)
            if record.waiters or record.assignment.keep_awake:
                self._want(record, now_s)
        return self._pump(now_s)

    def sink_failed(self, instance: str, reason: str, now_s: float) -> list[Effect]:
        """A SinkEngine could not be done; the process still runs. The next colder rung is tried."""
        record = self.records.get(instance)
        if record is None or record.phase is not Phase.SINKING:
            return self._flush()
        failed = record.sink_to or Rung.DEEP
        if failed in (Rung.FROZEN, Rung.LIGHT):
            self._decide(record, "fall to deep", f"{failed.value} did not hold: {reason}", now_s)
            record.sink_to = Rung.DEEP
            self._out.append(SinkEngine(instance, record.sinking_from, Rung.DEEP))
            return self._flush()
        record.sink_to, record.leaving_for_room = None, False
        record.move(Happening.READY, f"stays awake: {reason}", now_s)
        record.last_used_s = now_s
        self._schedule(record)
        return self._pump(now_s)

    def died(self, instance: str, reason: str, now_s: float, *, own_fault: bool = True) -> list[Effect]:
        """A process ended by itself. Not `own_fault`: what ran it ended, which says nothing about its next start."""
        record = self.records.get(instance)
        if record is None or record.phase in (Phase.OFF, Phase.DEEP, Phase.FAILED):
            return self._flush()
        if record.phase in (Phase.FROZEN, Phase.LIGHT):
            self._spend(record, now_s)
            record.move(Happening.DIED, f"ended while asleep: {reason}", now_s)
            record.pid, record.held_bytes = None, 0
            self._decide(record, "rest off", record.reason, now_s)
            self._out.append(Changed(instance))
            if record.removing:
                del self.records[instance]
                self._out.append(Forgotten(instance))
        elif record.phase is Phase.STOPPING or (record.phase is Phase.SINKING and record.removing):
            return self.rested(instance, Rung.OFF, 0, 0.0, now_s)
        elif record.phase is not Phase.STARTING:  # a start that dies is told by start_failed
            self._fail(record, reason, now_s, own_fault=own_fault)
        return self._pump(now_s)

    def measured(self, instance: str, held_bytes: int, now_s: float) -> list[Effect]:
        """What an awake instance really holds."""
        record = self.records.get(instance)
        if record is not None and record.phase is Phase.AWAKE:
            record.held_bytes = held_bytes
            # What is shared weighs less while others share it: a smaller measurement is believed only little by little.
            before = int(SHRINK * record.awake_bytes) if record.measured else 0
            record.awake_bytes = max(held_bytes, before, record.assignment.reserved_bytes)
            record.measured = True
            self.costs.learn(record.assignment.content, Rung.AWAKE, held_bytes=record.awake_bytes)
            self._plan_sleep(record)
            self._schedule(record)
            self._out.append(Changed(instance))
            self._relieve(record, now_s)
        return self._pump(now_s)

    def sleep(self, instance: str, rung: Rung, now_s: float) -> list[Effect]:
        """A person asks for a step down; the gateways say whether they are busy, for their notes are up to a second old.

        Raises Conflict where it may not sleep, NotFound where it is unknown.
        """
        record = self.records.get(instance)
        if record is None:
            raise NotFound(f"this node has no instance {instance}")
        if rung.has_process and rung not in self.settings.available:
            raise Conflict(
                f"the {rung.value} rung does not hold on this machine; `bastide doctor` says why. Rungs that hold: "
                + ", ".join(sorted((r.value for r in self.settings.available), key=lambda name: Rung(name).depth))
            )
        if record.assignment.keep_awake:
            raise Conflict(
                f"{instance} is among the least replicas of {record.assignment.spec.name}, which stay awake; "
                "`bastide scale` it to 0..N first"
            )
        if record.phase.rung is not None and record.phase.rung.depth >= rung.depth:
            return self._flush()
        self._begin_sink(record, rung, "asked for by hand", now_s, only_if_idle_s=0.0)
        return self._pump(now_s)

    def forgive(self, instance: str, now_s: float) -> list[Effect]:
        """A person, or a changed declaration, says that what made it fail may be mended: try again at once."""
        record = self.records.get(instance)
        if record is not None and record.phase is Phase.FAILED:
            record.failures, record.retry_at_s = 0, now_s
            self._look(record, now_s)
        return self._pump(now_s)

    def account(self, now_s: float) -> list[Effect]:
        """Put the time spent awake so far into the ledger, so that a crash loses little of it."""
        for record in self.records.values():
            if record.phase is Phase.AWAKE:
                self._spend(record, now_s)
        return self._flush()

    def tick(self, now_s: float) -> list[Effect]:
        """Time has passed: step down whoever is due, retry whoever may be retried."""
        while self._due and self._due[0][0] <= now_s:
            at_s, instance = heapq.heappop(self._due)
            record = self.records.get(instance)
            if record is not None and record.due_s == at_s:
                record.due_s = None
                self._look(record, now_s)
        return self._pump(now_s)
