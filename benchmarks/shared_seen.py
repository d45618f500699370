"""What a run of the shared device showed, real or simulated, and the figures made of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WAIT_S_MAX = 60.0  # what a request may wait; one that is refused or fails counts with it
OUTPUT_TOKENS = 8


@dataclass(slots=True)
class Seen:
    """Times in seconds. `wakes`: by the rung woken from; `ahead`: those of them for nobody yet."""

    firsts_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wakes: dict[str, int] = field(default_factory=dict)
    gave_way: int = 0
    ahead: int = 0
    prompt_tokens: int = 0
    others_share: float = 0.0  # of the machine's processor, taken by other processes meanwhile

    def times_s(self) -> list[float]:
        return sorted([*self.firsts_s, *[WAIT_S_MAX] * len(self.failed)])

    def figures(self, seconds: float) -> dict[str, Any]:
        times = self.times_s()
        return {
            "requests": len(times),
            "failed": len(self.failed),
            "first_token_p50_s": round(percentile(times, 50), 4),
            "first_token_p90_s": round(percentile(times, 90), 4),
            "first_token_p99_s": round(percentile(times, 99), 4),
            "first_token_mean_s": round(statistics.fmean(times), 4),
            "wakes": dict(sorted(self.wakes.items())),
            "wake_rates": {rung: round(count / len(times), 4) for rung, count in sorted(self.wakes.items())},
            "wakes_ahead": self.ahead,
            "swaps_per_minute": round(self.gave_way / (seconds / 60), 2),
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]
