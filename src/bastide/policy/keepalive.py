"""When a service is kept warm after a request, let go, and warmed again: learned from its own arrivals. Pure.

After a request, every later moment has a chance that the next request comes just then, given that none came before. A
stretch of time is spent warm when that chance times what a cold start is worth is more than the stretch costs. That one
rule keeps a busy service warm, lets one with a period go at once and has it back in time, and gives up on one that is done
for. With several rungs it is the same rule between each two of them (policy/sleep.py).

The knob is the exchange rate: how much idle warm time one cold start is worth. The chances are learned from the gaps
between the service's own requests: from those that followed two gaps like the last two, then one like the last, then from
all, then, while little was seen, from a law without a scale (the longer nothing came, the longer nothing will: Pareto's).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from bastide.domain.units import format_duration

BIN_S = 60.0
# One cold start is worth this much idle warm time. On a day of public traces that is less wasted than by a fixed keep-alive
# of ten minutes, and half as many cold starts.
WORTH_S = 60 * 60.0
# Chances are not known so well that every dip in them is worth a step down and a start: a pause lasts so long, or this part of
# what a cold start is worth, if that is less.
PAUSE_S_MIN, PAUSE_PART = 5 * 60.0, 1 / 12
# How far ahead it is looked: what comes less than daily is not waited for.
HORIZON_BINS = 1440
# The law without a scale: the chance falls with the time gone by as TAIL / (bins + TAIL).
TAIL = 0.3
# How many gaps must have been seen to weigh as much as that law; and how many after gaps like the last one (or two), to
# weigh as much as all.
LAW_GAPS = 30.0
ALL_GAPS = 10.0
# So many gaps are remembered; the oldest goes, for habits change.
GAPS_MAX = 1440
# Of so many kinds of gap, what followed them is kept at hand.
KNOWN_MAX = 8
# A gap says something of its neighbours too: what comes every hour comes a minute early or late.
NEIGHBOUR = 0.2
# Gaps count as alike within this ratio.
ALIKE = 1.25
# How far ahead demand is averaged: about as long as a swap should be worth its while.
DEMAND_S = 600.0


@dataclass(frozen=True)
class Bins:
    """Time since the last request, cut into stretches; `ends_s`: where each ends, rising."""

    ends_s: tuple[float, ...]

    @cached_property
    def widths_s(self) -> tuple[float, ...]:
        return tuple(end - start for start, end in zip((0.0, *self.ends_s), self.ends_s, strict=False))

    @cached_property
    def law(self) -> tuple[float, ...]:
        """The chance of each stretch under the law without a scale; what is left of it comes later than all."""
        found, left = [], 1.0
        for end_s, width_s in zip(self.ends_s, self.widths_s, strict=True):
            found.append(left * TAIL * width_s / (end_s + TAIL * width_s))
            left -= found[-1]
        return tuple(found)

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """For each stretch the kind of gap that ends in it: alike gaps have the same."""
        ratios = [end_s / self.ends_s[0] for end_s in self.ends_s]
        return tuple(round(r) if r <= 4 else int(4 + math.log(r / 4) / math.log(ALIKE) + 1e-9) for r in ratios)

    def of(self, gap_s: float) -> int:
        """The number of the stretch, from 0, in which a gap ends; a longer one ends in the last."""
        return min(bisect_left(self.ends_s, gap_s), len(self.ends_s) - 1)

    def start_s(self, number: int) -> float:
        return self.ends_s[number - 1] if number else 0.0


MINUTES = Bins(tuple(BIN_S * number for number in range(1, HORIZON_BINS + 1)))


def _graded() -> Bins:
    """Five seconds each at first; later a fiftieth of the time gone by, and never more than five minutes, up to a day."""
    ends_s = [0.0]
    while ends_s[-1] < 86_400.0:
        ends_s.append(ends_s[-1] + min(300.0, max(5.0, ends_s[-1] / 50)))
    return Bins(tuple(ends_s[1:]))


GRADED = _graded()


@dataclass(slots=True)
class _Followed:
    """Which gaps followed some kinds, and how many; `looked`: the place up to which was looked."""

    counts: dict[int, float] = field(default_factory=dict)
    number: int = 0
    looked: int = 0


class Rhythm:
    """What is remembered of one service's arrivals: its last GAPS_MAX gaps, by the number of their stretch."""

    def __init__(self, bins: Bins = MINUTES, gaps: Iterable[int] = ()) -> None:
        self.bins = bins
        self._gaps = array("H")
        self._kinds = bytearray()  # of the same gaps
        self._counts: dict[int, float] = {}
        self._known: dict[bytes, _Followed] = {}  # by kinds, for the last few that were asked
        self._curve: Curve | None = None
        last = len(bins.ends_s) - 1
        for gap in gaps:
            self._add(min(last, max(0, gap)))

    @property
    def gaps_seen(self) -> int:
        return len(self._gaps)

    def gaps(self) -> tuple[int, ...]:
        """Everything it remembers, for the constructor of another."""
        return tuple(self._gaps)

    def saw(self, gap_s: float) -> None:
        """A request came `gap_s` after the one before it; at once is no gap."""
        if gap_s > 0:
            self._add(self.bins.of(gap_s))

    def _add(self, gap: int) -> None:
        self._curve = None
        self._gaps.append(gap)
        self._kinds.append(self.bins.kinds[gap])
        _count(self._counts, gap, 1.0)
        if len(self._gaps) > GAPS_MAX:
            _count(self._counts, self._gaps.pop(0), -1.0)
            del self._kinds[0]
            self._known.clear()

    def _alike(self) -> list[_Followed]:
        """Of the gaps that followed one like the last, and of those that followed two like the last two: where any did."""
        known = [self._followed(bytes(self._kinds[-length:])) for length in (1, 2) if len(self._kinds) > length]
        return [followed for followed in known if followed.number]

    def _followed(self, like: bytes) -> _Followed:
        """The gaps that followed such kinds; looked through once, and from there on at the next time."""
        found = self._known.pop(like, None) or _Followed()
        self._known[like] = found  # the newest last
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]
        at = self._kinds.find(like, found.looked, -1)
        while at >= 0:
            _count(found.counts, self._gaps[at + len(like)], 1.0)
            found.number += 1
            at = self._kinds.find(like, at + 1, -1)
        found.looked = len(self._kinds) - len(like)
        return found

    def chances(self) -> Iterator[float]:
        """For the first stretch after the last request, the second and so on: the chance that the next comes just then,
        given that none came before."""
        seen, total = self._counts, len(self._gaps) + LAW_GAPS
        alike = [(followed.counts, followed.number + ALL_GAPS) for followed in self._alike()]
        left = 1.0
        for number, law in enumerate(self.bins.law):
            chance = (seen.get(number, 0.0) + LAW_GAPS * law) / total
            for counts, weight in alike:
                chance = (counts.get(number, 0.0) + ALL_GAPS * chance) / weight
            yield min(1.0, max(0.0, chance / left)) if left > chance else 1.0
            left = max(left - chance, 1e-12)

    def curve(self) -> Curve:
        """All chances at once, kept until the next request: half a millisecond, so ask once idle, not at each request."""
        if self._curve is None:
            self._curve = Curve(self) if self._gaps else _unknown(self.bins)
        return self._curve


@cache
def _unknown(bins: Bins) -> Curve:
    """One for all of whom nothing is known."""
    return Curve(Rhythm(bins))


def _count(counts: dict[int, float], gap: int, weight: float) -> None:
    """Take a gap in (weight 1), or out again (-1)."""
    # The first two are so short that a neighbour is another thing.
    parts = ((gap, 1.0),) if gap <= 1 else ((gap - 1, NEIGHBOUR), (gap, 1 - 2 * NEIGHBOUR), (gap + 1, NEIGHBOUR))
    for number, share in parts:
        count = counts.get(number, 0.0) + weight * share
        if count > 1e-9:
            counts[number] = count
        else:
            counts.pop(number, None)


class Curve:
    """What a rhythm expects after its last request. Times are seconds since that request."""

    def __init__(self, rhythm: Rhythm) -> None:
        self.gaps_seen, self.bins = rhythm.gaps_seen, rhythm.bins
        self.chances = array("f", rhythm.chances())
        # For the end of each stretch: the chance that nothing came before it, and the time waited up to it on average.
        self._quiet, self._waited_s = array("f"), array("f")
        quiet = waited_s = 0.0
        for chance, width_s in zip(self.chances, self.bins.widths_s, strict=True):
            before = quiet if self._quiet else 1.0
            quiet = max(before * (1 - chance), 1e-12)
            waited_s += width_s * (before + quiet) / 2
            self._quiet.append(quiet)
            self._waited_s.append(waited_s)

    def chance_between(self, from_s: float, to_s: float) -> float:
        """The chance that a request comes from `from_s` to `to_s`, given that none came before."""
        return max(0.0, 1 - self._at(to_s, self._quiet, 1.0) / self._at(from_s, self._quiet, 1.0))

    def demand_per_s(self, idle_s: float, ahead_s: float = DEMAND_S) -> float:
        """Requests per second to expect after `idle_s` without one: the chance that one comes within `ahead_s`, over the
        time that will be waited for it on average. For arrivals without memory that is just their rate."""
        end_s = self.bins.ends_s[-1]
        from_s = min(idle_s, end_s - ahead_s)
        quiet = self._at(from_s, self._quiet, 1.0)
        waited_s = (self._at(from_s + ahead_s, self._waited_s, 0.0) - self._at(from_s, self._waited_s, 0.0)) / quiet
        chance = 1 - self._at(from_s + ahead_s, self._quiet, 1.0) / quiet
        return max(1e-9, chance) / max(1e-3, waited_s)

    def _at(self, idle_s: float, values: array[float], first: float) -> float:
        """Between the ends of stretches: a straight line."""
        ends_s = self.bins.ends_s
        number = bisect_right(ends_s, idle_s)
        if number >= len(ends_s):
            return values[-1]
        before = values[number - 1] if number else first
        start_s = self.bins.start_s(number)
        return before + (values[number] - before) * max(0.0, idle_s - start_s) / self.bins.widths_s[number]


@dataclass(frozen=True, slots=True)
class Stay:
    """From `from_s` to `to_s` after the last request, should none come before: at `level` of the rates that were asked."""

    level: int
    from_s: float
    to_s: float
    rate_per_s: float  # the highest within it at which a request is expected


def stays(
    chances: Iterable[float], bins: Bins, rates_per_s: Sequence[float], until_s: float = math.inf
) -> Iterator[Stay]:
    """How likely a request is over time, by level: how many of `rates_per_s` (rising) the chance, by time, comes up to."""
    level, from_s, best, end_s = -1, 0.0, 0.0, 0.0
    low, high = 0.0, -1.0
    for chance, start_s, width_s in zip(chances, (0.0, *bins.ends_s), bins.widths_s, strict=False):
        if start_s >= until_s:
            break
        rate = chance / width_s
        if not low <= rate < high:
            if level >= 0:
                yield Stay(level, from_s, start_s, best)
            level, from_s, best = bisect_right(rates_per_s, rate), start_s, 0.0
            low = rates_per_s[level - 1] if level else -math.inf
            high = rates_per_s[level] if level < len(rates_per_s) else math.inf
        best = max(best, rate)
        end_s = start_s + width_s
    if level >= 0:
        yield Stay(level, from_s, end_s, best)


@dataclass(frozen=True, slots=True)
class Warm:
    """Be warm from `from_s` to `to_s` after the last request, should none come before."""

    from_s: float
    to_s: float
    chance: float  # the best within it that a request comes in one minute
    gaps_seen: int

    @property
    def reason(self) -> str:
        learned = f"learned from {self.gaps_seen} gaps" if self.gaps_seen else "nothing is known of it yet"
        until = f"until idle for {format_duration(self.to_s)}"
        when = f"from {format_duration(self.from_s)} {until}" if self.from_s else until
        return f"warm {when}: up to {self.chance:.1%} that a request comes in any minute of it ({learned})"


def warm_times(
    rhythm: Rhythm, worth_s: float = WORTH_S, until_s: float = math.inf, pause_s_min: float = PAUSE_S_MIN
) -> Iterator[Warm]:
    """When to be warm after the last request, in order, cut off at `until_s`: the rule with two rungs, warm and cold.

    `worth_s`: seconds of idle warm time that one cold start is worth; 0 keeps nothing warm. Raises ValueError below 0.
    `pause_s_min`: a shorter pause between two such times is not taken, unless it is a twelfth of `worth_s` or more.
    """
    if not worth_s >= 0:
        raise ValueError(f"a cold start can't be worth {worth_s} s")
    rates = (1 / worth_s if worth_s else math.inf,)
    from_s, to_s, best = 0.0, -1.0, 0.0
    for stay in stays(rhythm.chances(), rhythm.bins, rates, until_s):
        if not stay.level:
            continue
        if to_s >= 0 and stay.from_s - to_s >= min(pause_s_min, PAUSE_PART * worth_s):
            yield Warm(from_s, to_s, min(1.0, best * BIN_S), rhythm.gaps_seen)
            to_s = -1.0
        if to_s < 0:
            from_s, best = stay.from_s, 0.0
        to_s, best = stay.to_s, max(best, stay.rate_per_s)
    if to_s >= 0:
        yield Warm(from_s, to_s, min(1.0, best * BIN_S), rhythm.gaps_seen)
