"""How many instances of an app share its requests, by the targets it gave: requests a second, time to answer, processor.

Watches what passes here, and asks policy about once a second while anything does. A worker sees its part of the requests
and takes the others for as busy as itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from bastide.domain.apps import Target
from bastide.policy import autoscale

LOOK_S = 1.0
RATE_S = 10.0  # over how long requests are counted
LATE_S = 30.0  # how long an answer's beginning counts
ANSWERS_MAX = 500
MANY = 20  # so many answers say something of the slowest twentieth


class Scaling:
    """Of one app. `slots`: requests in flight that one instance takes; `workers`: gateways that share its requests."""

    def __init__(self, target: Target, slots: int, workers: int) -> None:
        self._target, self._slots, self._workers = target, slots, workers
        self._arrivals: deque[list[int]] = deque()  # [tenth of a second, how many]: bounded, however many come
        self._answers: deque[tuple[float, float]] = deque(maxlen=ANSWERS_MAX)
        self._memory = autoscale.Memory()
        self._looked_s = -math.inf
        self.copies, self.reason = 1, "nobody asks"

    def is_for(self, target: Target, slots: int) -> bool:
        return (target, slots) == (self._target, self._slots)

    def arrived(self, now_s: float) -> None:
        tenth = int(now_s * 10)
        if self._arrivals and self._arrivals[-1][0] == tenth:
            self._arrivals[-1][1] += 1
            return
        self._arrivals.append([tenth, 1])
        while self._arrivals[0][0] < tenth - RATE_S * 10:
            self._arrivals.popleft()

    def answered(self, took_s: float, now_s: float) -> None:
        """An answer has begun, so long after its request was passed on."""
        self._answers.append((now_s, took_s))

    def is_due(self, now_s: float) -> bool:
        return now_s - self._looked_s >= LOOK_S

    def look(
        self, now_s: float, in_flight: int, queued: int, awake: int, starting: int, cpu: Sequence[float], most: int
    ) -> int:
        """How many instances should share the requests now. `cpu`: cores that each awake one uses."""
        self._looked_s = now_s
        target = autoscale.Target(
            in_flight=self._slots,
            most=most,
            kv_share=0.0,
            first_token_s=self._target.p95_s or 0.0,
            requests_per_s=self._target.rps or 0.0,
            cpu_cores=self._target.cpu or 0.0,
        )
        load = autoscale.Load(
            in_flight=in_flight * self._workers,
            queued=queued,
            awake=awake,
            starting=starting,
            first_token_s=self._slowest(now_s),
            requests_per_s=self._rate(now_s) * self._workers,
            cpu_cores=sum(cpu),
        )
        chosen, self._memory = autoscale.scale(load, target, self._memory, now_s)
        self.copies, self.reason = max(1, chosen.copies), chosen.reason
        return self.copies

    def _rate(self, now_s: float) -> float:
        """A second, over the last while; of a burst that has just begun, over a second at least."""
        recent = [(tenth / 10, count) for tenth, count in self._arrivals if tenth / 10 >= now_s - RATE_S]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(1.0, min(RATE_S, now_s - recent[0][0]))

    def _slowest(self, now_s: float) -> float:
        """What 95 of 100 answers have begun within; 0 while too few are known."""
        took = sorted(took_s for at_s, took_s in self._answers if at_s >= now_s - LATE_S)
        return took[math.ceil(0.95 * len(took)) - 1] if len(took) >= MANY else 0.0
