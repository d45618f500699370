"""What a node holds and what is planned of it: records, who is looked at when, who counts for what, who rests where.

Owns the state of the core, and asks the rules; agent/moves.py makes the moves. No input or output.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from bastide.agent.costs import CostBook
from bastide.agent.effects import Effect, Note, Spent
from bastide.agent.habits import Habits
from bastide.agent.record import Record
from bastide.agent.rules import Rules
from bastide.domain.decisions import Decision
from bastide.domain.lifecycle import Phase, Rung
from bastide.domain.spec import SleepMode
from bastide.policy import room
from bastide.policy.sleep import IDLE_S_MIN, RungCost, next_step_s

HOLDING = {Phase.STARTING, Phase.AWAKE, Phase.SINKING, Phase.FROZEN, Phase.LIGHT, Phase.WAKING, Phase.STOPPING}


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the core knows of its node: its name, its device's budget in bytes, and the rungs that hold here."""

    node: str
    budget_bytes: int
    available: frozenset[Rung]


class NodeState:
    """The state of one node; effects gather until they are taken."""

    def __init__(self, settings: NodeSettings, rules: Rules | None = None) -> None:
        self.settings = settings
        self.rules = rules or Rules()
        self.habits = Habits()
        self.records: dict[str, Record] = {}
        self._queue: list[str] = []
        self._swapped_s, self._swapped_at_s = 0.0, 0.0  # what went into swaps lately, and as of when
        self._served = 0.0  # the turn that was served last
        self._turns: dict[str, float] = {}  # by project: the last one given
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

    def _at(self, record: Record, when_s: float) -> None:
        """Look at this instance then. Only the earliest time is kept: looking too early costs nothing."""
        if record.due_s is None or when_s < record.due_s:
            record.due_s = when_s
            heapq.heappush(self._due, (when_s, record.instance))

    def _schedule(self, record: Record, idle_s: float = 0.0) -> None:
        """Look at it again when its next step is due. What is learned of it is not asked before it is idle."""
        resting = record.phase.rung
        if resting is None or record.assignment.keep_awake or record.sink_to is not None:
            return
        if self._learns(record) and record.planned_s != record.last_used_s:
            at_s: float | None = IDLE_S_MIN if idle_s < IDLE_S_MIN else idle_s + IDLE_S_MIN
        else:
            at_s = next_step_s(record.steps, resting, idle_s, record.ahead_s)
        if at_s is not None:
            self._at(record, record.last_used_s + at_s + 0.001)

    def _room(self, need: int, instance: str, now_s: float) -> room.RoomDecision:
        residents, leaving = [], 0
        for record in self.records.values():
            held = self._charge(record)
            if held == 0 or record.instance == instance:
                continue
            if record.leaving_for_room or record.phase is Phase.STOPPING or record.phase is Phase.SINKING:
                leaving += held - self._cost(record, record.sink_to or Rung.OFF).held_bytes
            deep = self._cost(record, Rung.DEEP)
            idle_s = 0.0 if record.flying else max(0.0, now_s - record.last_used_s)
            residents.append(
                room.Resident(
                    instance=record.instance,
                    name=record.assignment.spec.name,
                    held_bytes=held,
                    freed_bytes=max(0, held - deep.held_bytes),
                    in_flight=record.flying,
                    idle_s=idle_s,
                    # Who was woken ahead has no claim to its place before somebody comes.
                    resident_s=float("inf") if record.ahead_reason else now_s - record.resident_since_s,
                    wake_s=deep.wake_s,
                    demand_per_s=self.habits.of(record.assignment).demand_per_s(idle_s),
                    pinned=record.assignment.keep_awake,
                    moving=record.phase.rung is None or record.sink_to is not None,
                )
            )
        own = self.records.get(instance)
        free_budget = self.settings.budget_bytes - (self._charge(own) if own is not None else 0)
        swapping_s = room.swapping(self._swapped_s, now_s - self._swapped_at_s)
        return self.rules.make_room(free_budget, need, tuple(residents), leaving, swapping_s)

    def _plan_sleep(self, record: Record) -> None:
        """Its costs or settings may be others now."""
        record.planned_s = None
        if self._learns(record):
            record.steps = ()  # made once it is idle
        else:
            self._plan(record)

    def _learns(self, record: Record) -> bool:
        return record.assignment.spec.sleep.mode is SleepMode.AUTO and self.habits.curve_known(record.assignment)

    def _plan(self, record: Record) -> None:
        if record.planned_s == record.last_used_s:
            return
        record.planned_s = record.last_used_s
        costs = {rung: self._cost(record, rung) for rung in Rung}
        curve = self.habits.curve(record.assignment) if self._learns(record) else None
        record.steps = self.rules.steps(record.assignment.spec.sleep, costs, self.settings.available, curve)

    def _came(self, record: Record, worker: str, now_s: float) -> None:
        """Somebody asks for it who holds no lease: the first request of a gateway that comes through the agent."""
        if record.last_used_s and not record.flying and not record.waiters:
            self.habits.saw(record.assignment, now_s - record.last_used_s)
        record.fresh.add(worker)
        record.ahead_s, record.ahead_reason = None, ""

    def _asked(
        self, record: Record, worker: str, in_flight: int, last_used_s: float, now_s: float, requests: int | None
    ) -> None:
        """A gateway tells, once a second, how many requests it has sent; those since the last time are learned from."""
        if requests is None:
            return
        before = record.told.get(worker)
        record.told[worker] = requests
        new = (requests - before if before is not None else 0) - (worker in record.fresh)
        record.fresh.discard(worker)
        if new > 0:
            gap_s = 0.0 if record.flying else (now_s if in_flight else last_used_s) - record.last_used_s
            self.habits.saw(record.assignment, max(0.0, gap_s), new - 1)

    def _cost(self, record: Record, rung: Rung) -> RungCost:
        cost = self.costs.cost(record.assignment.content, record.awake_bytes, rung)
        if rung is Rung.OFF:  # seldom tried, and never quicker than what keeps something
            deep = self.costs.cost(record.assignment.content, record.awake_bytes, Rung.DEEP)
            return RungCost(cost.held_bytes, max(cost.wake_s, deep.wake_s))
        return cost
