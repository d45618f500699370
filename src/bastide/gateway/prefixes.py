"""Which instance has read the beginning of a prompt already: remembered by what this worker has sent where.

Keeps hashes of blocks, never words. What it remembers is a guess (the engine's own cache may have let go), and a wrong one
costs no more than any other choice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCK_BYTES = 512
BLOCKS_MAX = 1024  # of one prompt: what is longer is told apart by its beginning
KNOWN_MAX = 8192  # of one instance, about 4 MiB of prompts
_BEGINNINGS = (b'"messages"', b'"prompt"', b'"input"')


def blocks(body: bytes) -> tuple[int, ...]:
    """A hash for every whole block of the prompt in a request's body; each stands for all that is before it, too."""
    start = max(0, min((at for word in _BEGINNINGS if (at := body.find(word)) >= 0), default=0))
    found, chained = [], 0
    for at in range(start, min(len(body), start + BLOCKS_MAX * BLOCK_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        chained = hash((chained, body[at : at + BLOCK_BYTES]))
        found.append(chained)
    return tuple(found)


class Prefixes:
    """Of the instances of one service."""

    def __init__(self) -> None:
        self._known: dict[str, OrderedDict[int, None]] = {}

    def share(self, instance: str, prompt: Sequence[int]) -> float:
        """How much of a prompt's blocks an instance has read, from its beginning on: 0 to 1."""
        known = self._known.get(instance)
        if known is None or not prompt:
            return 0.0
        return next((index for index, block in enumerate(prompt) if block not in known), len(prompt)) / len(prompt)

    def sent(self, instance: str, prompt: Sequence[int]) -> None:
        """The newest are kept."""
        known = self._known.setdefault(instance, OrderedDict())
        for block in prompt:
            known[block] = None
            known.move_to_end(block)
        while len(known) > KNOWN_MAX:
            known.popitem(last=False)

    def forget(self, instance: str) -> None:
        """It has begun anew."""
        self._known.pop(instance, None)

    def keep(self, instances: Sequence[str]) -> None:
        self._known = {name: known for name, known in self._known.items() if name in instances}
