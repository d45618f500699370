"""Who may begin now: what starts at the same moment in many sandboxes takes turns, a few at a time.

Twenty programs that start together on two cores all end late, and in gVisor, whose kernels wait for each other by looking
again and again, later than one after another. A turn is over when the question is answered, or after a moment: what runs
long hinders nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TURN_S_MAX = 0.04


class Turns:
    """`most`: how many begin at once, about one a core. First come, first served."""

    def __init__(self, most: int, turn_s: float = TURN_S_MAX) -> None:
        self._places, self._turn_s = asyncio.Semaphore(most), turn_s

    async def take(self) -> Callable[[], None]:
        """Wait for one. Returns what gives it back; calling that again is fine, and it is called by itself in time."""
        await self._places.acquire()
        timer: asyncio.TimerHandle | None = None

        def give_back() -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
                timer = None
                self._places.release()

        timer = asyncio.get_running_loop().call_later(self._turn_s, give_back)
        return give_back
