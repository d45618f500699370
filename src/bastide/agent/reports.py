"""What the agent tells control: changes, decisions and measured facts, gathered for a moment and told together.

Owns the lines to control. While control is away, decisions wait, up to a bound; changes are told whole when it is back.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from bastide.agent.core import NodeCore
from bastide.domain.decisions import Decision
from bastide.domain.instances import RungFact
from bastide.ports.link import Link

DECISIONS_KEPT = 2000  # while control is away
REPORT_S = 0.05


class Reports:
    """`controls`: who is told, in the order in which they came."""

    def __init__(self, core: NodeCore, node: str) -> None:
        self._core, self._node = core, node
        self.controls: dict[Link, None] = {}
        self._decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)
        self._dirty: dict[str, None] = {}  # in order, so that a replay is one
        self._facts_told: dict[tuple[str, str], RungFact] = {}
        self._changed = asyncio.Event()

    def came(self, link: Link) -> None:
        self.controls[link] = None
        self._dirty.update(dict.fromkeys(self._core.records))
        self._facts_told.clear()
        self._changed.set()

    def left(self, link: Link) -> None:
        self.controls.pop(link, None)

    def decided(self, decision: Decision) -> None:
        self._decisions.append(decision)

    def changed(self, instance: str) -> None:
        self._dirty[instance] = None

    def soon(self) -> None:
        """There is something to tell."""
        self._changed.set()

    def forgotten(self, instance: str) -> None:
        """Told at once."""
        for link in self.controls:
            link.tell("forgotten", {"instance": instance})

    async def run(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)  # the first change is told at once, those that follow together
            await self._changed.wait()
            self._changed.clear()
            if self.controls:
                self._tell()

    def _tell(self) -> None:
        records = self._core.records
        reports = [
            msgspec.to_builtins(records[instance].report(self._node)) for instance in self._dirty if instance in records
        ]
        self._dirty.clear()
        decisions = [msgspec.to_builtins(decision) for decision in self._decisions]
        self._decisions.clear()
        facts = [
            fact for fact in self._core.costs.facts() if self._facts_told.get((fact.weights_sha256, fact.rung)) != fact
        ]
        for fact in facts:
            self._facts_told[fact.weights_sha256, fact.rung] = fact
        for link in self.controls:
            if reports:
                link.tell("reports", {"reports": reports})
            if decisions:
                link.tell("decisions", {"decisions": decisions})
            if facts:
                link.tell("facts", {"facts": [msgspec.to_builtins(fact) for fact in facts]})
