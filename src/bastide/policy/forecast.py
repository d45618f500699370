"""How much a service will have in flight a while from now. Pure: three guesses, and the one that was right lately counts.

Guesses: nothing changes; the trend goes on; it will be as it was at this time on the days before. Each is written down when
made and compared when its time has come. Where no guess was better than "nothing changes", that is the forecast: history
must say that prediction helps before a device is spent on it.
"""

from __future__ import annotations

from collections import deque

DAY_S = 86_400.0
SLOT_S = 900.0
# Weights of the new: in level and trend, in what a time of day is like, in how wrong a guess is.
LEVEL, TREND, SLOT, WRONG = 0.3, 0.1, 0.5, 0.05
# A guess must be this much better than "nothing changes", over so many comparisons, to be believed.
BETTER = 0.9
SEEN_MIN = 20
# A trend is not believed beyond this factor of what there is.
TREND_MAX = 3.0
PENDING_MAX = 64


class Forecast:
    """What is remembered of one service's load. Bounded: a day of slots and a few guesses that wait for their time."""

    __slots__ = ("_last_s", "_level", "_pending", "_seen", "_slots", "_trend_per_s", "_wrong")

    def __init__(self) -> None:
        self._level = self._trend_per_s = 0.0
        self._last_s: float | None = None
        self._slots: dict[int, float] = {}
        self._wrong = [0.0, 0.0, 0.0]
        self._seen = 0
        self._pending: deque[tuple[float, tuple[float, float, float]]] = deque(maxlen=PENDING_MAX)

    def saw(self, at_s: float, in_flight: float, lead_s: float) -> None:
        """So much was in flight at this moment; guesses are made for `lead_s` later. Moments that go back are left out."""
        if self._last_s is not None:
            since_s = at_s - self._last_s
            if since_s <= 0:
                return
            before = self._level
            self._level += LEVEL * (in_flight - self._level)
            self._trend_per_s += TREND * ((self._level - before) / since_s - self._trend_per_s)
        else:
            self._level = in_flight
        self._last_s = at_s
        while self._pending and self._pending[0][0] <= at_s:
            _, guesses = self._pending.popleft()
            self._seen += 1
            for index, guess in enumerate(guesses):
                self._wrong[index] += WRONG * (abs(guess - in_flight) - self._wrong[index])
        self._pending.append((at_s + lead_s, self._guesses(at_s, in_flight, lead_s)))
        slot = _slot(at_s)
        self._slots[slot] = self._slots.get(slot, in_flight) + SLOT * (in_flight - self._slots.get(slot, in_flight))

    def expected(self, at_s: float, in_flight: float, lead_s: float) -> float:
        """In flight `lead_s` from now, by the guess that was least wrong lately."""
        if self._seen < SEEN_MIN:
            return in_flight
        best = min(range(3), key=lambda index: self._wrong[index])
        if self._wrong[best] >= BETTER * self._wrong[0]:
            return in_flight
        return self._guesses(at_s, in_flight, lead_s)[best]

    def _guesses(self, at_s: float, in_flight: float, lead_s: float) -> tuple[float, float, float]:
        trend = min(max(0.0, in_flight + self._trend_per_s * lead_s), TREND_MAX * max(in_flight, 1.0))
        return in_flight, trend, self._slots.get(_slot(at_s + lead_s), in_flight)


def _slot(at_s: float) -> int:
    return int(at_s % DAY_S // SLOT_S)
