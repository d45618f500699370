"""When a service is kept warm after a request, let go, and warmed again: learned from its own arrivals. Pure.

After a request, every later minute has a chance that the next request comes just then, given that none came before. A
minute is spent warm when that chance times what a cold start is worth is more than the minute costs. That one rule keeps
a busy service warm, lets one with a period go at once and has it back in time, and gives up on one that is done for.

The knob is the exchange rate: how much idle warm time one cold start is worth. The chances are learned from the gaps
between the service's own requests: from those that followed two gaps like the last two, then one like the last, then from
all, then, while little was seen, from a law without a scale (the longer nothing came, the longer nothing will: Pareto's).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from bastide.domain.units import format_duration

BIN_S = 60.0
# One cold start is worth this much idle warm time. On a day of public traces that is less wasted than by a fixed keep-alive
# of ten minutes, and half as many cold starts.
WORTH_S = 60 * 60.0
# How far ahead it is looked: what comes less than daily is not waited for.
HORIZON_BINS = 1440
# The law without a scale: the chance falls with the time gone by as TAIL / (minutes + TAIL).
TAIL = 0.3
# How many gaps must have been seen to weigh as much as that law; and how many after gaps like the last one (or two), to
# weigh as much as all.
LAW_GAPS = 30.0
ALL_GAPS = 10.0
# Of pairs of gaps only so many are remembered; the oldest goes.
PAIRS_MAX = 512
# A gap says something of its neighbours too: what comes every hour comes a minute early or late.
NEIGHBOUR = 0.2
# Gaps count as alike within this ratio.
ALIKE = 1.25


@dataclass(slots=True)
class _Gaps:
    """Gaps seen, in bins, and how many."""

    counts: dict[int, float] = field(default_factory=dict)
    total: float = 0.0

    def add(self, gap: int) -> None:
        self.total += 1
        if gap <= 2:  # so short that a neighbour is another thing
            self.counts[gap] = self.counts.get(gap, 0.0) + 1
            return
        for bin_, weight in ((gap - 1, NEIGHBOUR), (gap, 1 - 2 * NEIGHBOUR), (gap + 1, NEIGHBOUR)):
            self.counts[bin_] = self.counts.get(bin_, 0.0) + weight


class Rhythm:
    """What is remembered of one service's arrivals. Bounded: some thirty kinds of gap and PAIRS_MAX pairs of them, at most a day of bins each."""

    def __init__(self, bin_s: float = BIN_S) -> None:
        self.bin_s = bin_s
        self._all = _Gaps()
        self._after: dict[tuple[int, ...], _Gaps] = {}
        self._last: tuple[int, ...] = ()  # the kinds of the last two gaps

    @property
    def gaps_seen(self) -> int:
        return int(self._all.total)

    def saw(self, gap_s: float) -> None:
        """A request came `gap_s` after the one before it; requests within one bin are one."""
        gap = min(HORIZON_BINS, math.ceil(gap_s / self.bin_s))
        if gap < 1:
            return
        self._all.add(gap)
        for known in self._contexts():
            self._after.setdefault(known, _Gaps()).add(gap)
        if len(self._after) > PAIRS_MAX:
            del self._after[next(pair for pair in self._after if len(pair) == 2)]
        kind = gap if gap <= 4 else int(4 + math.log(gap / 4) / math.log(ALIKE))
        self._last = (*self._last[-1:], kind)

    def _contexts(self) -> tuple[tuple[int, ...], ...]:
        """The last gap's kind, and those of the last two, where there were so many."""
        if len(self._last) == 2:
            return self._last[1:], self._last
        return (self._last,) if self._last else ()

    def chances(self) -> Iterator[float]:
        """For the first bin after the last request, the second and so on: the chance that the next comes just then,
        given that none came before."""
        seen, total = self._all.counts, self._all.total
        alike = [self._after[known] for known in self._contexts() if known in self._after]
        left, law_left = 1.0, 1.0
        for bin_ in range(1, HORIZON_BINS + 1):
            law = law_left * TAIL / (bin_ + TAIL)
            law_left -= law
            chance = (seen.get(bin_, 0.0) + LAW_GAPS * law) / (total + LAW_GAPS)
            for gaps in alike:
                chance = (gaps.counts.get(bin_, 0.0) + ALL_GAPS * chance) / (gaps.total + ALL_GAPS)
            yield chance / left if left > chance else 1.0
            left = max(left - chance, 1e-12)


@dataclass(frozen=True, slots=True)
class Warm:
    """Be warm from `from_s` to `to_s` after the last request, should none come before."""

    from_s: float
    to_s: float
    chance: float  # the best within it that a request comes in one bin
    gaps_seen: int

    @property
    def reason(self) -> str:
        learned = f"learned from {self.gaps_seen} gaps" if self.gaps_seen else "nothing is known of it yet"
        until = f"until idle for {format_duration(self.to_s)}"
        when = f"from {format_duration(self.from_s)} {until}" if self.from_s else until
        return f"warm {when}: up to {self.chance:.1%} that a request comes in any minute of it ({learned})"


def warm_times(rhythm: Rhythm, worth_s: float = WORTH_S, until_s: float = math.inf) -> Iterator[Warm]:
    """When to be warm after the last request, in order, cut off at `until_s`.

    `worth_s`: seconds of idle warm time that one cold start is worth; 0 keeps nothing warm. Raises ValueError below 0.
    """
    if not worth_s >= 0:
        raise ValueError(f"a cold start can't be worth {worth_s} s")
    begun: int | None = None
    best, end = 0.0, 0
    for bin_, chance in enumerate(rhythm.chances()):
        if bin_ * rhythm.bin_s >= until_s:
            break
        end = bin_ + 1
        if chance * worth_s >= rhythm.bin_s:
            begun, best = (bin_, chance) if begun is None else (begun, max(best, chance))
        elif begun is not None:
            yield _warm(begun, bin_, best, rhythm)
            begun = None
    if begun is not None:
        yield _warm(begun, end, best, rhythm)


def _warm(begun: int, end: int, best: float, rhythm: Rhythm) -> Warm:
    return Warm(begun * rhythm.bin_s, end * rhythm.bin_s, best, rhythm.gaps_seen)
