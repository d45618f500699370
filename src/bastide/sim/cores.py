"""The processor of a simulated node: work that runs at once shares its cores, and takes longer for it.

Owns who computes now. Shares are fair: nobody gets more than it can use, and what it leaves is for the others.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Task:
    left_s: float  # of work, alone on the machine
    wants: float  # cores it can use
    group: str
    done: asyncio.Future[None]
    speed: float = field(default=1.0)


class Cores:
    """`count` cores. Tasks of one group (an engine's requests) share one engine's threads: a batch.

    `gain`: how much faster a group gets on with two tasks than with one, in all; 1 is no gain. With n it is n to the power
    of log2(gain).
    """

    def __init__(self, count: float, gain: float = 1.0) -> None:
        self._count, self._gain = count, gain
        self._tasks: list[_Task] = []
        self._since_s = 0.0
        self._next: asyncio.TimerHandle | None = None

    async def spend(self, seconds: float, wants: float = 1.0, group: str = "") -> None:
        """Return once so much work is done. `group` empty: alone."""
        if seconds <= 0:
            return
        self._advance()
        loop = asyncio.get_running_loop()
        task = _Task(
            seconds, wants, group or f"alone {id(loop)} {len(self._tasks)} {loop.time()}", loop.create_future()
        )
        self._tasks.append(task)
        self._share()
        try:
            await task.done
        finally:
            if task in self._tasks:
                self._advance()
                self._tasks.remove(task)
                self._share()

    def _advance(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for task in self._tasks:
            task.left_s -= (now_s - self._since_s) * task.speed
        self._since_s = now_s

    def _share(self) -> None:
        """Cores to groups, max-min fair; then to the tasks of each."""
        groups: dict[str, list[_Task]] = {}
        for task in self._tasks:
            groups.setdefault(task.group, []).append(task)
        left, waiting = self._count, len(groups)
        for tasks in sorted(groups.values(), key=lambda tasks: max(task.wants for task in tasks)):
            wants = max(task.wants for task in tasks)
            given = min(wants, left / waiting)
            left, waiting = left - given, waiting - 1
            together = len(tasks) ** math.log2(self._gain)
            for task in tasks:
                task.speed = given / wants * together / len(tasks)
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._tasks:
            soonest_s = min(max(0.0, task.left_s) / task.speed for task in self._tasks)
            self._next = asyncio.get_running_loop().call_later(soonest_s + 1e-9, self._end)

    def _end(self) -> None:
        self._next = None
        self._advance()
        for task in [task for task in self._tasks if task.left_s <= 1e-7]:
            self._tasks.remove(task)
            if not task.done.done():
                task.done.set_result(None)
        self._share()
