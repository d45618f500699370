"""How long to wait before something that failed is tried again. Pure."""

from __future__ import annotations

BASE_S = 1.0
CEILING_S = 60.0
# After this many failures in a row an instance is left failed until a person or a new generation changes something.
CRASHES_MAX = 6
STABLE_S = 60.0  # an instance that lived this long is forgiven its earlier failures


def delay_s(failures: int) -> float:
    """Seconds to wait after the `failures`-th failure in a row: 1, 2, 4 … 60."""
    return float(min(CEILING_S, BASE_S * 2 ** max(0, min(failures - 1, 10))))
