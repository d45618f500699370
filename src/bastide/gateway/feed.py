"""A request's body as it comes, for those that are passed on unread. Owns how much of it may wait here.

What the taker can't take yet is kept up to a bound; then the client is not read any more until there is room again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

FULL_BYTES = 256 * 1024


class Taker(Protocol):
    def take(self, data: bytes) -> None: ...
    def take_end(self) -> None: ...


class Feed:
    """`hold` is told True when the client must wait, False when it may go on."""

    __slots__ = ("_hold", "_holding", "_kept", "_kept_bytes", "_stopped", "_taker", "arrived_bytes", "is_over")

    def __init__(self, hold: Callable[[bool], None]) -> None:
        self._hold = hold
        self._taker: Taker | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._holding = self._stopped = False
        self.arrived_bytes = 0
        self.is_over = False  # the last byte has arrived

    def arrived(self, data: bytes) -> None:
        self.arrived_bytes += len(data)
        if self._taker is not None and not self._stopped:
            self._taker.take(data)
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        self._regulate()

    def end(self) -> None:
        self.is_over = True
        if self._taker is not None and not self._kept:
            self._taker.take_end()

    def attach(self, taker: Taker | None) -> None:
        """Everything from now on goes to this one; what is kept first."""
        self._taker = taker
        self._flush()

    def stop(self) -> None:
        """The taker can take no more for now."""
        self._stopped = True
        self._regulate()

    def go_on(self) -> None:
        self._stopped = False
        self._flush()

    def _flush(self) -> None:
        while self._kept and self._taker is not None and not self._stopped:
            data = self._kept.pop(0)
            self._kept_bytes -= len(data)
            self._taker.take(data)
        if self._taker is not None and not self._kept and self.is_over:
            self._taker.take_end()
        self._regulate()

    def _regulate(self) -> None:
        must_wait = not self.is_over and (self._kept_bytes >= FULL_BYTES or (self._stopped and self._taker is not None))
        if must_wait != self._holding:
            self._holding = must_wait
            self._hold(must_wait)
