"""What the agent remembers of one instance. Owns its live state; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from bastide.domain.instances import Assignment, InstanceReport
from bastide.domain.lifecycle import Happening, Phase, Rung, after
from bastide.policy.sleep import Step


@dataclass(slots=True)
class Waiter:
    """Somebody who waits for an instance to be awake. `worker` None: no lease is wanted (a person, or control)."""

    token: int
    worker: str | None
    since_s: float


@dataclass(slots=True)
class Record:
    """Live state of one instance. Times are seconds since the epoch, memory in bytes."""

    assignment: Assignment
    phase: Phase = Phase.OFF
    reason: str = "declared"
    since_s: float = 0.0
    leases: dict[str, int] = field(default_factory=dict)  # worker -> serial of its lease
    waiters: list[Waiter] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)  # workers whose answer to AskBack is awaited
    sink_to: Rung | None = None  # where it goes once every lease is back
    sink_reason: str = ""
    sinking_from: Rung = Rung.AWAKE
    leaving_for_room: bool = False
    removing: bool = False
    wanted: bool = False  # in the queue to be woken
    woke_from: Rung = Rung.OFF
    last_used_s: float = 0.0
    resident_since_s: float = 0.0
    turn: float = 0.0  # among those who wait for a place
    planned_s: float | None = None  # the last use for which `steps` were made
    ahead_s: float | None = None  # the idle time of the step by which it was last woken ahead of a request
    ahead_reason: str = ""  # it is woken or awake for nobody yet, and why
    told: dict[str, int] = field(default_factory=dict)  # by worker: requests so far, as last told
    fresh: set[str] = field(default_factory=set)  # workers whose first request since their lease is known already
    in_flight: dict[str, int] = field(default_factory=dict)  # by worker, as last told
    failures: int = 0
    retry_at_s: float = 0.0
    failure: str = ""
    due_s: float | None = None  # when the core will look at it next
    proven: bool = False
    held_bytes: int = 0  # measured on the present rung; 0 where nothing is held
    awake_bytes: int = 0  # measured once awake; before that the estimate
    measured: bool = False
    relieve: bool = False  # it holds more than was guessed; room must be made once somebody may give way
    steps: tuple[Step, ...] = ()
    spent_since_s: float = 0.0
    pid: int | None = None
    note: str = ""
    kept: bool = False  # its processes are, for its next start

    @property
    def instance(self) -> str:
        return self.assignment.instance

    @property
    def flying(self) -> int:
        return sum(self.in_flight.values())

    def move(self, happening: Happening, reason: str, now_s: float) -> None:
        """Follow the transition table."""
        self.phase = after(self.phase, happening)
        self.reason = reason
        self.since_s = now_s

    def report(self, node: str) -> InstanceReport:
        spec = self.assignment.spec
        return InstanceReport(
            instance=self.instance,
            project=spec.project,
            service=spec.name,
            generation=self.assignment.generation,
            node=node,
            phase=self.phase,
            reason=self.reason,
            since_s=self.since_s,
            pid=self.pid,
            memory_bytes=self.held_bytes,
            in_flight=self.flying,
            woke_from=self.woke_from.value,
            last_used_s=self.last_used_s or None,
            failures=self.failures,
            proven=self.proven,
            note=self.note,
            kept=self.kept and self.phase is Phase.DEEP,
        )
