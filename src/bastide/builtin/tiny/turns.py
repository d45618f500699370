"""What a turn is: one question and one answer, and the grammar that all makers of turns share.

Owns the shape of a turn. Must never know a fact or a phrasing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from bastide.builtin.tiny import facts

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says and what the assistant answers; `brief` is the answer when asked for one word, if there is one."""

    intent: str
    user: str
    assistant: str
    brief: str | None = None
    wrapped: bool = True


def article(noun: str) -> str:
    """The noun with the article that English wants: ``an apple``, ``bread``, ``the moon``."""
    if noun in facts.WITHOUT_ARTICLE:
        return noun
    if noun in facts.WITH_THE:
        return f"the {noun}"
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def pick(random: Random, items: Sequence[Item]) -> Item:
    """One item, all as likely."""
    return items[int(random.random() * len(items))]


def many(noun: str) -> str:
    """The noun in the plural."""
    return facts.PLURALS.get(noun, f"{noun}s")


def item(random: Random, table: dict[str, str]) -> tuple[str, str]:
    """One key and its value."""
    return pick(random, list(table.items()))
