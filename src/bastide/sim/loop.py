"""An event loop whose clock jumps: it never waits, it moves time to the next thing that is due.

Owns virtual time. Work that would go to a thread runs at once, so that a seed replays to the same end.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from bastide.ports.clock import Clock

START_S = 1_800_000_000.0  # when a simulation begins, in seconds since the epoch


class _Jumping(selectors.SelectSelector):
    """Instead of waiting for files, moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation is stuck: nothing is due and somebody still waits")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual seconds since the simulation began."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        done = self.create_future()
        try:
            done.set_result(function(*arguments))
        except BaseException as error:
            done.set_exception(error)
        return done


class VirtualClock(Clock):
    """Time as a simulated process sees it; `shift_s` lets its wall clock jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.shift_s = 0.0

    def now_s(self) -> float:
        return START_S + self.shift_s + self._loop.time()

    def monotonic_s(self) -> float:
        return self._loop.time()


def run(main: Callable[[VirtualClock], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in virtual time to its end."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(VirtualClock(loop)))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
