"""A line to another process of Bastide that comes back by itself. Owns reconnecting; knows no verbs.

It never gives up: the other end may be away for days, and the gateway serves on with what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from bastide.ports.link import Body, Handler, Link, LinkLost, Notify

_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.05, 2.0


class OpenLink(Link, Protocol):
    async def run(self) -> None:
        """Serve the line until it ends. Never raises."""
        ...


ConnectLink = Callable[[str, Body, Handler], Awaitable[OpenLink]]


class SteadyLink:
    """One line kept up. `run` in a task; `call` and `tell` from anywhere; `me` is asked anew at every connect."""

    def __init__(self, path: str, me: Callable[[], Body], handler: Handler, connect: ConnectLink) -> None:
        self.path = path
        self._me, self._handler, self._connect = me, handler, connect
        self._link: OpenLink | None = None
        self._wanted = asyncio.Event()
        self._up = asyncio.Event()
        self.missed = asyncio.Event()  # it was tried, and nobody answered
        self.came: Callable[[], None] | None = None

    @property
    def is_up(self) -> bool:
        return self._link is not None

    async def run(self) -> None:
        backoff_s = _BACKOFF_S_MIN
        while True:
            try:
                link = await self._connect(self.path, self._me(), self._handler)
            except LinkLost:
                self.missed.set()
                self._wanted.clear()
                try:
                    # Someone who needs the line now cuts the wait short, but never below the least.
                    await asyncio.wait_for(self._wanted.wait(), backoff_s)
                    await asyncio.sleep(_BACKOFF_S_MIN)
                except TimeoutError:
                    pass
                backoff_s = min(_BACKOFF_S_MAX, backoff_s * 2)
                continue
            backoff_s = _BACKOFF_S_MIN
            self._link = link
            self._up.set()
            if self.came is not None:
                self.came()
            try:
                await link.run()
            finally:
                self._link = None
                self._up.clear()
                await link.close()

    async def call(self, verb: str, body: Body, wait_s: float, progress: Notify | None = None) -> Body:
        """Ask; wait at most `wait_s` for the line to be up. LinkLost where it is not, or where it drops meanwhile."""
        if self._link is None:
            self._wanted.set()
            try:
                await asyncio.wait_for(self._up.wait(), wait_s)
            except TimeoutError:
                raise LinkLost(f"nobody answers at {self.path}") from None
        link = self._link
        if link is None:
            raise LinkLost(f"nobody answers at {self.path}")
        return await link.call(verb, body, progress)

    def tell(self, verb: str, body: Body) -> None:
        if self._link is not None:
            self._link.tell(verb, body)
