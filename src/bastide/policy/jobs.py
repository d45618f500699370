"""When a job runs. Pure: by its schedule, once after each deploy, or again where a run was cut off; never two at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Act(Enum):
    NOTHING = "nothing"
    BEGIN = "begin"
    TAKE_UP = "take up"  # a run that was cut off goes on as its next try
    LEAVE_OUT = "leave out"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands. `due_s`: when its schedule wants it next (None: not known yet, or no schedule); `ran_generation`: the
    last that was run for having been deployed; `cut_off`: its last run was begun and never ended, and nothing runs."""

    scheduled: bool
    due_s: float | None
    running: bool
    cut_off: bool
    ran_generation: int
    generation: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`moves_on`: its next time is to be found, after now: of all the times missed one is made up for."""

    act: Act
    moves_on: bool = False
    cause: str = ""
    reason: str = ""


def look(standing: Standing, now_s: float) -> Verdict:
    """What to do with one job now."""
    due = standing.scheduled and standing.due_s is not None and now_s >= standing.due_s
    if standing.running:
        if due:
            return Verdict(Act.LEAVE_OUT, True, reason="the run before still runs")
        return Verdict(Act.NOTHING)
    if standing.cut_off:
        return Verdict(Act.TAKE_UP, reason="it was cut off")
    if due:
        return Verdict(Act.BEGIN, True, "scheduled", "its time has come")
    if standing.scheduled:
        return Verdict(Act.NOTHING, standing.due_s is None)
    if standing.ran_generation != standing.generation:
        return Verdict(Act.BEGIN, False, "deployed", "it was deployed")
    return Verdict(Act.NOTHING)
