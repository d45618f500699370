"""The rules by which the core decides who rests when, who gives way, and whose turn it is.

What ships is here, and it only names the policies. They are in one place so that a benchmark and the simulator can put
others beside them (sim/baselines.py): nothing else chooses.
"""

from __future__ import annotations

from collections.abc import Mapping

from bastide.domain.lifecycle import Rung
from bastide.domain.spec import SleepMode, SleepSettings
from bastide.policy import room, sleep
from bastide.policy.keepalive import Curve
from bastide.policy.sleep import RungCost, Step


class Rules:
    """The shipped ones."""

    def steps(
        self,
        settings: SleepSettings,
        costs: Mapping[Rung, RungCost],
        available: frozenset[Rung],
        curve: Curve | None,
    ) -> tuple[Step, ...]:
        """Where an idle instance rests, over time. `curve`: what is known of its arrivals."""
        if settings.mode is SleepMode.AUTO and curve is not None and curve.gaps_seen >= sleep.LEARNED_GAPS_MIN:
            return sleep.learned(curve, costs, available)
        return sleep.ladder(settings, costs, available)

    def make_room(
        self,
        budget_bytes: int,
        need_bytes: int,
        residents: tuple[room.Resident, ...],
        leaving_bytes: int,
        swapping_s: float,
    ) -> room.RoomDecision:
        return room.make_room(budget_bytes, need_bytes, residents, leaving_bytes, swapping_s)

    def turn(self, served: float, last: float | None) -> float:
        return room.turn(served, last)
