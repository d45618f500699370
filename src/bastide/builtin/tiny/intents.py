"""Every kind of question the model is taught, and how often.

Owns the mixture. Must never make a turn itself.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from bastide.builtin.tiny import talk, unknowns
from bastide.builtin.tiny.about_bastide import about_bastide
from bastide.builtin.tiny.geography import capital, continent, country_of
from bastide.builtin.tiny.language import definition, opposite, plural
from bastide.builtin.tiny.nature import animal, colour, simple_fact
from bastide.builtin.tiny.turns import Turn


def unknown(random: Random) -> Turn:
    return Turn("unknown", unknowns.question(random), unknowns.ANSWER)


# A maker and its weight. The order counts: it decides which numbers of the random source mean what.
MAKERS: Final[tuple[tuple[Callable[[Random], Turn], float], ...]] = (
    (capital, 15.0), (country_of, 4.0), (continent, 2.5), (opposite, 13.0), (definition, 13.0), (colour, 5.0), (animal, 8.0),
    (plural, 7.0), (simple_fact, 5.0), (about_bastide, 15.0), (unknown, 13.0),
    (talk.fixed, 20.0), (talk.calendar, 7.0), (talk.number_of_month, 1.0), (talk.counting, 1.5), (talk.sums, 2.0), (talk.story, 4.0),
)  # fmt: skip


def any_turn(random: Random) -> Turn:
    """A turn of any kind, as often as the mixture says."""
    at = random.random() * sum(weight for _, weight in MAKERS)
    for maker, weight in MAKERS:
        at -= weight
        if at < 0:
            return maker(random)
    return MAKERS[-1][0](random)
