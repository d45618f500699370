"""The host's end of the line to the agent inside a box: one connection a question. Trusts nothing it hears.

Who asks says by a class of its own which errors its callers are told.
"""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from bastide.domain.errors import BastideError
from bastide.inside import wire


class AgentLine(ABC):
    """An open question. `answer` gives the first frame; `frames` those that follow."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.when_heard: Callable[[], None] | None = None  # called once it has said something
        self.when_closed: Callable[[], None] | None = None

    @staticmethod
    @abstractmethod
    def gone(what: str) -> BastideError:
        """The box went away while it was `what`."""

    @staticmethod
    @abstractmethod
    def nonsense() -> BastideError:
        """What it says is not what an agent of ours would say."""

    @classmethod
    @abstractmethod
    def wrong(cls, told: dict[str, Any]) -> BastideError:
        """Something went wrong inside: `error` (its kind), `message`, `errno`."""

    @classmethod
    async def open(cls, path: str, descriptor: int, question: dict[str, Any]) -> Self:
        """Raises OSError where nobody listens. `descriptor` is closed."""
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=2 * wire.FRAME_BYTES_MAX)
        finally:
            os.close(descriptor)
        writer.write(json.dumps(question).encode() + b"\n")
        return cls(reader, writer)

    async def frame(self) -> tuple[int, bytes]:
        """The next one. Raises what `gone` and `nonsense` make."""
        try:
            kind = wire.STILL_HERE
            while kind == wire.STILL_HERE:
                kind, length = wire.HEAD.unpack(await self._reader.readexactly(wire.HEAD.size))
            if length > wire.FRAME_BYTES_MAX:
                raise self.nonsense()
            payload = await self._reader.readexactly(length)
            if self.when_heard is not None:
                self.when_heard()
                self.when_heard = None
            return kind, payload
        except (asyncio.IncompleteReadError, OSError):
            raise self.gone("asked") from None

    async def answer(self) -> dict[str, Any]:
        """The next frame, which must be an answer. Raises what went wrong inside."""
        kind, payload = await self.frame()
        if kind == wire.ERROR:
            raise self.inside_error(payload)
        if kind != wire.ANSWER:
            raise self.nonsense()
        return self.decoded(payload)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Until the connection's last: an exit, the end of content, or an error."""
        while True:
            kind, payload = await self.frame()
            yield kind, payload
            if kind in (wire.EXIT, wire.END, wire.ERROR):
                return

    async def send(self, kind: int, payload: bytes = b"") -> None:
        for start in range(0, len(payload) or 1, wire.FRAME_BYTES_MAX):
            part = payload[start : start + wire.FRAME_BYTES_MAX]
            self._writer.write(wire.HEAD.pack(kind, len(part)) + part)
            try:
                await self._writer.drain()
            except OSError:
                raise self.gone("told something") from None

    def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """For a connection that is passed on."""
        return self._reader, self._writer

    def close(self) -> None:
        """At once: what has not been sent is not waited for, so that the box hears that we have gone."""
        self._writer.transport.abort()
        if self.when_closed is not None:
            self.when_closed()

    @classmethod
    def decoded(cls, payload: bytes) -> dict[str, Any]:
        try:
            found = json.loads(payload)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise cls.nonsense()
        return found

    @classmethod
    def inside_error(cls, payload: bytes) -> BastideError:
        """What the agent said went wrong, in our words."""
        return cls.wrong(cls.decoded(payload))
