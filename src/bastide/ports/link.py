"""The line between Bastide's own processes on one machine: named calls both ways, in order, with progress.

An end may be gone at any moment; then every waiting call fails with LinkLost and the other end decides what that means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Body = dict[str, Any]
Notify = Callable[[Body], None]
Handler = Callable[["Link", str, Body, Notify], Awaitable[Body]]


class LinkLost(Exception):
    """The other end is gone, or was never there."""


class Link(Protocol):
    async def call(self, verb: str, body: Body, progress: Notify | None = None) -> Body:
        """Ask and wait. Raises the BastideError the other end raised, or LinkLost."""
        ...

    def tell(self, verb: str, body: Body) -> None:
        """Say without waiting; lost without a word when the line is."""
        ...

    async def close(self) -> None: ...

    @property
    def peer(self) -> Body:
        """What the other end said of itself when it came (role, worker)."""
        ...
