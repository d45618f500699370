"""When requests come: laws drawn from a seed, and traces. Owns the shapes of arrival; knows no policy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bastide.sim.fleet.setup import Arrival

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts and answers: means, and how much they scatter (standard deviation by mean; log-normal)."""

    prompt: float = 600.0
    answer: float = 200.0
    prompt_cv: float = 1.0
    answer_cv: float = 0.8

    def draw(self, chance: random.Random) -> tuple[int, int]:
        return _length(self.prompt, self.prompt_cv, chance), _length(self.answer, self.answer_cv, chance)


def _length(mean: float, cv: float, chance: random.Random) -> int:
    if cv <= 0:
        return max(1, round(mean))
    spread = math.sqrt(math.log(1 + cv * cv))
    return max(1, int(chance.lognormvariate(math.log(mean) - spread * spread / 2, spread)))


@dataclass(frozen=True, slots=True)
class Law:
    """Requests by a law: `per_s` on average. `cv` of the gaps (1: without memory; above: in bursts). With `trough` below 1
    the rate follows the hour of the day, from `trough` to the peak. `together_s`: those of so long come as one stream."""

    per_s: float
    cv: float = 1.0
    peak_hour: float = 14.0
    trough: float = 1.0
    together_s: float = 0.0
    from_s: float = 0.0

    def draw(self, seed: str, lengths: Lengths, until_s: float) -> Iterator[Arrival]:
        chance = random.Random(seed)
        if self.together_s:
            yield from self._together(chance, lengths, until_s)
            return
        mean_share = (1 + self.trough) / 2
        peak_per_s = self.per_s / mean_share
        shape = 1.0 / (self.cv * self.cv)
        at_s = self.from_s
        while True:
            # Bursts in the time of the process; the hour stretches that time by thinning.
            at_s += (
                chance.gammavariate(shape, 1.0 / (shape * peak_per_s))
                if self.cv != 1.0
                else chance.expovariate(peak_per_s)
            )
            if at_s >= until_s:
                return
            if self.trough < 1.0 and chance.random() >= self.share(at_s):
                continue
            yield at_s, 1.0, 0.0, *lengths.draw(chance)

    def _together(self, chance: random.Random, lengths: Lengths, until_s: float) -> Iterator[Arrival]:
        at_s = self.from_s
        peak_per_s = self.per_s / ((1 + self.trough) / 2)
        while at_s < until_s:
            mean = peak_per_s * self.share(at_s + self.together_s / 2) * self.together_s
            number = (
                max(0, round(chance.gauss(mean, math.sqrt(mean) * self.cv))) if mean > 20 else _poisson(mean, chance)
            )
            if number:
                prompt, answer = round(lengths.prompt), round(lengths.answer)
                yield at_s, float(number), self.together_s, max(1, prompt), max(1, answer)
            at_s += self.together_s

    def share(self, at_s: float) -> float:
        """Of the peak's rate, at this moment."""
        wave = 0.5 + 0.5 * math.cos((at_s % DAY_S / 3600 - self.peak_hour) / 24 * 2 * math.pi)
        return self.trough + (1 - self.trough) * wave


def _poisson(mean: float, chance: random.Random) -> int:
    limit, number, left = math.exp(-mean), 0, chance.random()
    while left > limit:
        number += 1
        left *= chance.random()
    return number


def by_law(law: Law, lengths: Lengths, seed: str, until_s: float) -> Callable[[], Iterator[Arrival]]:
    """A source that draws anew, and the same, whenever it is asked."""
    return lambda: law.draw(seed, lengths, until_s)


def replayed(arrivals: list[Arrival]) -> Callable[[], Iterator[Arrival]]:
    """A source that replays what was read."""
    return lambda: iter(arrivals)
