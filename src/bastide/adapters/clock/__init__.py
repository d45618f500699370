"""The machine's own clock."""

from __future__ import annotations

import time

from bastide.ports.clock import Clock


class SystemClock(Clock):
    """Wall time as the machine has it; monotonic time as the kernel counts it."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()
