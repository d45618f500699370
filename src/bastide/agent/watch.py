"""What the agent checks of an awake instance once it is idle: its canary, its true footprint, its own token count.

A difference in the canary's answer means that memory came back wrong: then the instance is restarted, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bastide.domain.errors import BastideError
from bastide.domain.instances import EngineCounters
from bastide.domain.ledger import Tokens
from bastide.ports.runtime import Runtime


@dataclass(slots=True)
class Watched:
    """What is known of one instance across its processes. `past`: counts of processes that have ended."""

    canary: str | None = None
    past: Tokens = field(default_factory=Tokens)
    last: EngineCounters = field(default_factory=EngineCounters)
    differences: int = 0

    def total(self) -> Tokens:
        return Tokens(
            self.past.input_tokens + self.last.input_tokens,
            self.past.cached_input_tokens + self.last.cached_input_tokens,
            self.past.output_tokens + self.last.output_tokens,
        )

    def process_ended(self) -> None:
        self.past, self.last = self.total(), EngineCounters()


class Watcher:
    """Runs canaries and reads counters. `book` writes a canary's tokens on the system account."""

    def __init__(self, runtime: Runtime, book: Callable[[str, EngineCounters], None]) -> None:
        self._runtime, self._book = runtime, book
        self._watched: dict[str, Watched] = {}

    def of(self, instance: str) -> Watched:
        return self._watched.setdefault(instance, Watched())

    def forget(self, instance: str) -> None:
        self._watched.pop(instance, None)

    async def canary(self, instance: str) -> str | None:
        """Ask the canary. Returns what is wrong with the answer, or None where it is as it was."""
        watched = self.of(instance)
        try:
            answer, cost = await self._runtime.canary(instance)
        except BastideError as error:
            return f"its canary failed: {error.message}"
        self._book(instance, cost)
        if watched.canary is None:
            watched.canary = answer
        elif answer != watched.canary:
            watched.differences += 1
            return f"its canary answered {answer!r}, but {watched.canary!r} before"
        return None

    async def count(self, instance: str) -> Tokens | None:
        """The engine's own count, all processes of the instance together; None where it can't be read."""
        try:
            counters = await self._runtime.counters(instance)
        except BastideError:
            return None
        if counters is None:
            return None
        watched = self.of(instance)
        watched.last = counters
        return watched.total()
