"""What the proxy and the wall share: rules that may change, and the open connections that they are asked about again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bastide.policy.egress import BASTIDE_NAME, Rule, judge, named

Resolve = Callable[[str, int], Awaitable[tuple[str, ...]]]
Dial = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass(eq=False, slots=True)
class Open:
    """A connection that leads out, and by what it was allowed."""

    host: str
    address: str
    port: int
    task: asyncio.Task[None] | None


class Judged:
    """`bastide`: (host, port) of Bastide's own gateway, for boxes that may reach it."""

    def __init__(
        self, rules: tuple[Rule, ...], bastide: tuple[str, int] | None, find: Resolve, dial: Dial | None
    ) -> None:
        self.rules, self._bastide, self._find = rules, bastide, find
        self._dial: Dial = dial or asyncio.open_connection
        self._open: set[Open] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused_total = 0

    def _still(self, one: Open) -> bool:
        """Whether the rules of this moment allow it."""
        if one.host == BASTIDE_NAME:
            return named(self.rules, one.host, one.port)
        return judge(self.rules, one.host, one.port, (one.address,)).allowed

    def _end_refused(self) -> int:
        """End open connections that are no longer allowed; returns how many."""
        ended = 0
        for one in list(self._open):
            if not self._still(one) and one.task is not None:
                one.task.cancel()
                ended += 1
        return ended

    async def _end_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
