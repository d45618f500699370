"""Which instance answers a request whose beginning some of them have in memory. Pure: prefix affinity, bounded by load.

The cost of an instance is what the request would feel there, waiting and computing, and what others would feel: an instance
that computes a second longer makes everyone behind wait a second longer. So the instance that has the most of the prefix is
taken as long as its queue is not longer by more than what its memory saves; and a copy is made elsewhere (computed anew,
or fetched from a neighbour where that is quicker) only once that is worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bastide.domain.units import format_duration

# A second of work on a busy instance is felt by this many who come behind it. Two keeps a fifth of the copies from being made
# that pure haste would make, and costs nobody anything.
BEHIND = 2.0


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a request would meet on one instance, in seconds. Infinite `fetch_s`: nothing can be fetched.

    `queue_s`: until it would be begun. `work_s`: then, to the first token, with the prefix that is there. `fetch_s`: to
    bring a longer prefix from elsewhere first, and `fetched_work_s`: to the first token then. `load`: 0 idle to 1 busy.
    """

    queue_s: float
    work_s: float
    fetch_s: float = float("inf")
    fetched_work_s: float = float("inf")
    load: float = 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """`index` into the prospects; whether to fetch first; when the first token is expected; why."""

    index: int
    fetch: bool
    first_token_s: float
    reason: str


def choose(prospects: Sequence[Prospect], behind: float = BEHIND) -> Choice:
    """The instance of least cost; of equals the first. Raises ValueError where there is none."""
    if not prospects:
        raise ValueError("there is no instance to choose from")
    best: tuple[float, int, bool, float] | None = None
    for index, prospect in enumerate(prospects):
        for fetch, work_s in ((False, prospect.work_s), (True, prospect.fetch_s + prospect.fetched_work_s)):
            first_token_s = prospect.queue_s + work_s
            cost = first_token_s + behind * prospect.load * work_s
            if best is None or cost < best[0]:
                best = (cost, index, fetch, first_token_s)
    assert best is not None
    _, index, fetch, first_token_s = best
    chosen = prospects[index]
    how = "with the prefix fetched" if fetch else "with the prefix it has"
    reason = f"waits {format_duration(chosen.queue_s)} there, first token in {format_duration(first_token_s)} {how}"
    return Choice(index, fetch, first_token_s, reason)
