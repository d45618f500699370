"""What a question of the evaluation is.

Owns its shape. Must never hold a question.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation up to its last question, and the words of which one must be in the answer (any case).

    `before` holds earlier user messages; their answers come from the model itself.
    """

    category: str
    text: str
    accepted: tuple[str, ...]
    before: tuple[str, ...] = ()
    system: str | None = None


def rows(category: str, text: str) -> tuple[Question, ...]:
    """Read lines of ``question | accepted / accepted``."""
    split = (line.split("|") for line in text.strip().splitlines())
    return tuple(
        Question(category, left.strip(), tuple(word.strip() for word in right.split("/"))) for left, right in split
    )
