"""The random numbers that the published runs of E1 drew (Go's, by seed), so that ours meet the same arrivals and nodes.

Owns the generator: an additive lagged one (each number is the sum of those 607 and 273 before it), begun from a table that is
itself the state of such a generator after 7.8 million million steps. The table is not kept here: those steps are made at once,
as powers of x modulo x^607 = x^334 + 1. Everything is modulo 2^64, so overflow is meant.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONG, SHORT = 607, 273
WORD = 2**64
STEPS = 7_800_000_000_000
MODULUS, FACTOR = 2**31 - 1, 48_271
WARM_UP = 20

Words = NDArray[np.uint64]


def _begun(seed: int, first_shift: int, second_shift: int) -> list[int]:
    """The state that a small congruential generator fills from a seed, three of its numbers for each."""
    small = seed % MODULUS or 89_482_311
    filled = []
    for index in range(-WARM_UP, LONG):
        small = FACTOR * small % MODULUS
        if index < 0:
            continue
        word = small << first_shift
        small = FACTOR * small % MODULUS
        word ^= small << second_shift
        small = FACTOR * small % MODULUS
        filled.append((word ^ small) % WORD)
    return filled


def _reduced(product: Words) -> Words:
    """Modulo x^607 = x^334 + 1, highest power first."""
    for power in range(len(product) - 1, LONG - 1, -1):
        product[power - LONG] += product[power]
        product[power - SHORT] += product[power]
    return product[:LONG].copy()


def _times(left: Words, right: Words) -> Words:
    product = np.zeros(2 * LONG - 1, dtype=np.uint64)
    for power in np.flatnonzero(left):
        product[power : power + LONG] += left[power] * right
    return _reduced(product)


def _stepped(power: Words) -> Words:
    """Times x."""
    return _reduced(np.concatenate((np.zeros(1, dtype=np.uint64), power)))


@cache
def table() -> tuple[int, ...]:
    """What every state is mixed with."""
    with np.errstate(over="ignore"):
        power = np.zeros(LONG, dtype=np.uint64)
        power[0] = 1
        for bit in f"{STEPS:b}":
            power = _times(power, power)
            if bit == "1":
                power = _stepped(power)
        # The state is walked from behind: number k of the sequence lies k before the place of the first.
        begun = _begun(1, 20, 10)
        sequence = np.array([begun[_place(number)] for number in range(LONG)], dtype=np.uint64)
        found = [0] * LONG
        for number in range(LONG):
            found[_place(number + STEPS)] = int((power * sequence).sum(dtype=np.uint64))
            power = _stepped(power)
    return tuple(found)


def _place(number: int) -> int:
    return (LONG - SHORT - 1 - number) % LONG


class Lagged:
    """Numbers by seed, the same as Go's `math/rand` draws (before its version 1.20 or when it is seeded)."""

    def __init__(self, seed: int) -> None:
        self._state = [one ^ other for one, other in zip(_begun(seed, 40, 20), table(), strict=True)]
        self._near, self._far = 0, LONG - SHORT

    def word(self) -> int:
        """The next 64 bits."""
        self._near, self._far = (self._near - 1) % LONG, (self._far - 1) % LONG
        found = self._state[self._far] = (self._state[self._far] + self._state[self._near]) % WORD
        return found

    def _bits(self, count: int) -> int:
        return self.word() % 2**63 >> 63 - count

    def below(self, bound: int) -> int:
        """A whole number from 0 to below `bound` (at most 2^31 - 1), all as likely."""
        if bound & bound - 1 == 0:
            return self._bits(31) & bound - 1
        last = 2**31 - 1 - 2**31 % bound
        drawn = self._bits(31)
        while drawn > last:
            drawn = self._bits(31)
        return drawn % bound

    def _scaled(self, bound: int) -> int:
        """As `below`, by the other way that shuffling uses: the upper half of a product."""
        product = self._bits(32) * bound
        while product % 2**32 < 2**32 % bound:
            product = self._bits(32) * bound
        return product >> 32

    def shuffle(self, members: list[Any]) -> None:
        """In place, from the last to the first."""
        for index in range(len(members) - 1, 0, -1):
            other = self._scaled(index + 1)
            members[index], members[other] = members[other], members[index]

    def permutation(self, count: int) -> list[int]:
        """The numbers below `count`, in any order."""
        found = [0] * count
        for index in range(count):
            other = self.below(index + 1)
            found[index] = found[other]
            found[other] = index
        return found
