"""Other rules for one node than the shipped ones, to run beside them: in the simulator, and in a real `bastide up`.

Nothing here ever ships as a default. `rules_by` reads which is meant from a word, as the benchmark gives it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from bastide.agent.rules import Rules
from bastide.domain.errors import InvalidRequest
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import SleepSettings
from bastide.domain.units import format_bytes, format_duration
from bastide.policy import room
from bastide.policy.keepalive import Curve
from bastide.policy.sleep import RungCost, Step


class _InOrder(Rules):
    """Who waits is served as they came."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def turn(self, served: float, last: float | None) -> float:
        return float(next(self._count))


class KeepAliveOnly(_InOrder):
    """Everybody stays for a fixed time after the last request, and nobody gives way sooner: a request waits until somebody's
    time is over."""

    def __init__(self, keep_s: float) -> None:
        super().__init__()
        self._keep_s = keep_s

    def steps(
        self,
        settings: SleepSettings,
        costs: Mapping[Rung, RungCost],
        available: frozenset[Rung],
        curve: Curve | None,
    ) -> tuple[Step, ...]:
        return (Step(Rung.DEEP, self._keep_s, f"idle for {format_duration(self._keep_s)}, the fixed keep-alive"),)

    def make_room(
        self,
        budget_bytes: int,
        need_bytes: int,
        residents: tuple[room.Resident, ...],
        leaving_bytes: int,
        swapping_s: float,
    ) -> room.RoomDecision:
        found = room.make_room(budget_bytes, need_bytes, residents, leaving_bytes)
        if not isinstance(found, room.GiveWay):
            return found
        first_s = min((max(0.0, self._keep_s - r.idle_s) for r in residents if not r.moving), default=1.0)
        return room.WaitForRoom(max(0.1, first_s), "nobody's keep-alive is over")


class FirstCome(_InOrder):
    """Swap as asked: whoever comes first has the place of the one used longest ago, at once; where all are busy, that of the
    one that has been there longest, as soon as its requests in flight have ended. Nobody sleeps for being idle."""

    def steps(
        self,
        settings: SleepSettings,
        costs: Mapping[Rung, RungCost],
        available: frozenset[Rung],
        curve: Curve | None,
    ) -> tuple[Step, ...]:
        return ()

    def make_room(
        self,
        budget_bytes: int,
        need_bytes: int,
        residents: tuple[room.Resident, ...],
        leaving_bytes: int,
        swapping_s: float,
    ) -> room.RoomDecision:
        missing = sum(resident.held_bytes for resident in residents) + need_bytes - budget_bytes
        if missing <= 0:
            return room.Fits()
        if leaving_bytes >= missing:
            return room.WaitForRoom(1.0, "somebody is already giving way")
        missing -= leaving_bytes
        may_go = [r for r in residents if not r.pinned and not r.moving and r.freed_bytes > 0]
        victims: list[room.Resident] = []
        for resident in sorted(may_go, key=lambda r: (r.in_flight > 0, -r.idle_s, -r.resident_s, r.instance)):
            if sum(r.freed_bytes for r in victims) < missing:
                victims.append(resident)
        if sum(r.freed_bytes for r in victims) < missing:
            if need_bytes > budget_bytes - sum(r.held_bytes for r in residents if r.pinned):
                return room.CannotFit(f"needs {format_bytes(need_bytes)} of {format_bytes(budget_bytes)}")
            return room.WaitForRoom(0.05, "everybody is moving")
        drain = tuple(r.instance for r in victims if r.in_flight)
        return room.GiveWay(tuple(r.instance for r in victims), drain, "the one used longest ago goes")


def rules_by(word: str) -> Rules:
    """`shipped`, `first_come`, or `keep_alive:SECONDS`. Raises InvalidRequest for another."""
    kind, _, value = word.partition(":")
    if kind in ("", "shipped") and not value:
        return Rules()
    if kind == "first_come" and not value:
        return FirstCome()
    if kind == "keep_alive" and value.replace(".", "", 1).isdigit():
        return KeepAliveOnly(float(value))
    raise InvalidRequest(f"there are no rules {word!r}; there are shipped, first_come and keep_alive:SECONDS")
