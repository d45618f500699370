"""UTC days as text, for grouping."""

from __future__ import annotations

import time


def day_of(at_s: float) -> str:
    """YYYY-MM-DD of a time in seconds since the epoch, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at_s))
