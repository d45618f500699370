"""Time, as the parts that act ask for it. Wall time for records, monotonic time for waiting."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def now_s(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never run backwards."""
        ...
