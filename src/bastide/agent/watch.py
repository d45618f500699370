"""What the agent checks of an awake instance once it is idle: its canary, its true footprint, its own token count.

A difference in the canary's answer means that memory came back wrong: then the instance is restarted, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bastide.domain.errors import BastideError
from bastide.domain.instances import EngineCounters
from bastide.domain.ledger import Tokens
from bastide.ports.runtime import Runtime


@dataclass(slots=True)
class Watched:
    """What is known of one instance across its processes."""

    canary: str | None = None


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
            return f"its canary answered {answer!r}, but {watched.canary!r} before"
        return None

    async def count(self, instance: str) -> tuple[str, Tokens] | None:
        """The present process, and what it has counted since it started; None where that can't be read."""
        identity = self._runtime.identity(instance)
        try:
            counters = await self._runtime.counters(instance)
        except BastideError:
            return None
        if counters is None or identity is None:
            return None
        tokens = Tokens(counters.input_tokens, counters.cached_input_tokens, counters.output_tokens)
        return f"{identity.boot_id}:{identity.pid}:{identity.start_ticks}", tokens
