"""What the agent remembers of how each service is used: its pauses, and whether a request is soon followed by another.

Owns one rhythm per place of a service (its project, name and index), so that a new generation knows what the one before
learned. It takes no decision: policy/sleep.py and policy/room.py do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bastide.domain.instances import Assignment
from bastide.policy.keepalive import GRADED, Curve, Rhythm
from bastide.policy.sleep import IDLE_S_MIN, LEARNED_GAPS_MIN

# Nobody sleeps sooner than this, so what comes sooner is no pause: it is the same conversation.
PAUSE_S = IDLE_S_MIN
# Newer requests count for a tenth: in whether another follows soon, and in how often pauses end.
NEWEST_SHARE = 0.1
# What is believed of a service before it was seen: one request in two minutes, worth one pause seen.
BELIEVED_PAUSES = 1.0
BELIEVED_S = 120.0
# So many pauses seen weigh their own shape (a period, a habit) as much as their mere number.
SHAPE_PAUSES = 30.0


@dataclass(slots=True)
class Habit:
    """Of one place. `soon`: the share of requests that were followed by another within PAUSE_S. `pauses` in `paused_s`:
    how many ended in how much time, the newer the weightier."""

    rhythm: Rhythm = field(default_factory=lambda: Rhythm(GRADED))
    soon: float = 0.5
    pauses: float = 0.0
    paused_s: float = 0.0

    def saw(self, gap_s: float, more: int = 0) -> None:
        """A request came `gap_s` after the last use ended, and `more` right after it."""
        if gap_s > PAUSE_S:
            self.rhythm.saw(gap_s)
            self.soon *= 1 - NEWEST_SHARE
            self.pauses = self.pauses * (1 - NEWEST_SHARE) + 1
            self.paused_s = self.paused_s * (1 - NEWEST_SHARE) + gap_s
        else:
            more += 1
        self.soon = 1 - (1 - self.soon) * (1 - NEWEST_SHARE) ** more

    def demand_per_s(self, idle_s: float) -> float:
        """Requests per second that are expected from now on: as often as pauses ended so far (the mean of a Poisson
        rate with a gamma prior); the better its arrivals are known, the more by their shape."""
        rate = (self.pauses + BELIEVED_PAUSES) / (self.paused_s + idle_s + BELIEVED_S)
        seen = self.rhythm.gaps_seen
        if seen >= LEARNED_GAPS_MIN:
            shape = seen / (seen + SHAPE_PAUSES)
            rate += shape * (self.rhythm.curve().demand_per_s(max(idle_s, PAUSE_S)) - rate)
        return rate + self.soon / PAUSE_S * max(0.0, 1 - idle_s / PAUSE_S)


def place_of(assignment: Assignment) -> str:
    return f"{assignment.spec.project}.{assignment.spec.name}.{assignment.index}"


class Habits:
    """By place. A place is remembered until its service is gone."""

    def __init__(self) -> None:
        self._places: dict[str, Habit] = {}
        self.changed = False  # since it was last kept

    def of(self, assignment: Assignment) -> Habit:
        place = place_of(assignment)
        found = self._places.get(place)
        if found is None:
            found = self._places[place] = Habit()
        return found

    def saw(self, assignment: Assignment, gap_s: float, more: int = 0) -> None:
        self.of(assignment).saw(gap_s, more)
        self.changed = True

    def curve_known(self, assignment: Assignment) -> bool:
        """Whether enough is known of it to decide by; costs nothing."""
        found = self._places.get(place_of(assignment))
        return found is not None and found.rhythm.gaps_seen >= LEARNED_GAPS_MIN

    def curve(self, assignment: Assignment) -> Curve | None:
        """What is expected of it; None where nothing was learned yet, so that asking costs nothing."""
        found = self._places.get(place_of(assignment))
        return found.rhythm.curve() if found is not None and found.rhythm.gaps_seen else None

    def keep_only(self, assignments: Iterable[Assignment]) -> None:
        """Forget the places of services that are gone."""
        here = {place_of(assignment) for assignment in assignments}
        for place in [place for place in self._places if place not in here]:
            del self._places[place]
            self.changed = True

    def kept(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            place: {
                "gaps": list(habit.rhythm.gaps()),
                "soon": round(habit.soon, 4),
                "pauses": round(habit.pauses, 4),
                "paused_s": round(habit.paused_s, 1),
            }
            for place, habit in self._places.items()
        }

    def know(self, kept: Mapping[str, Any]) -> None:
        """What was kept by an agent before. Raises KeyError, TypeError or ValueError where it makes no sense."""
        for place, habit in kept.items():
            gaps = [int(gap) for gap in habit["gaps"]]
            soon, pauses, paused_s = (float(habit[key]) for key in ("soon", "pauses", "paused_s"))
            if not (0 <= soon <= 1 and pauses >= 0 and paused_s >= 0):
                raise ValueError(f"what was kept of {place} makes no sense")
            self._places[place] = Habit(Rhythm(GRADED, gaps), soon, pauses, paused_s)
