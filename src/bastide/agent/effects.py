"""What the agent's core wants done. Pure data: the service carries it out, the simulator charges its cost."""

from __future__ import annotations

from dataclasses import dataclass

from bastide.domain.decisions import Decision
from bastide.domain.errors import BastideError
from bastide.domain.lifecycle import Phase, Rung


@dataclass(frozen=True, slots=True)
class StartEngine:
    instance: str


@dataclass(frozen=True, slots=True)
class SinkEngine:
    """Step down from `resting` to `rung`."""

    instance: str
    resting: Rung
    rung: Rung


@dataclass(frozen=True, slots=True)
class WakeEngine:
    """From frozen or light."""

    instance: str


@dataclass(frozen=True, slots=True)
class StopEngine:
    """End it and forget what it kept."""

    instance: str


@dataclass(frozen=True, slots=True)
class AskBack:
    """Ask a gateway worker for its lease `serial`. `drain`: it sends nothing new and answers when the last in flight is done."""

    worker: str
    instance: str
    serial: int
    only_if_idle_s: float | None
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The instance is awake: this waiter may connect. Serials grow, so that an asking back and a grant that cross on the
    line can be told apart.
    """

    token: int
    instance: str
    serial: int
    woke_from: Rung
    waited_s: float


@dataclass(frozen=True, slots=True)
class Refuse:
    token: int
    error: BastideError


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell these waiters what is happening."""

    tokens: tuple[int, ...]
    text: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Tell these gateway workers that the engine is gone."""

    workers: tuple[str, ...]
    instance: str
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """A decision to keep, for `why`."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Changed:
    """The report on this instance is different now."""

    instance: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds an instance has spent in a phase, for the ledger."""

    instance: str
    phase: Phase
    seconds: float
    at_s: float


@dataclass(frozen=True, slots=True)
class Forgotten:
    """An instance that was to go is gone."""

    instance: str


Effect = (
    StartEngine
    | SinkEngine
    | WakeEngine
    | StopEngine
    | AskBack
    | Grant
    | Refuse
    | Tell
    | Lost
    | Note
    | Changed
    | Spent
    | Forgotten
)
