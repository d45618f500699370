"""The host's end of the line to the agent inside a box: one connection a question. Trusts nothing it hears."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from bastide.domain.errors import BastideError, Conflict, InvalidRequest, NotFound, Unavailable
from bastide.inside import wire

HELLO_S_MAX = 10.0


class Line:
    """An open question. `answer` gives the first frame; `frames` those that follow."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, path: str, descriptor: int, question: dict[str, Any]) -> Line:
        """Raises OSError where nobody listens. `descriptor` is closed."""
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=2 * wire.FRAME_BYTES_MAX)
        finally:
            os.close(descriptor)
        writer.write(json.dumps(question).encode() + b"\n")
        return cls(reader, writer)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame. Raises Unavailable where the box has gone."""
        try:
            head = await self._reader.readexactly(wire.HEAD.size)
            kind, length = wire.HEAD.unpack(head)
            if length > wire.FRAME_BYTES_MAX:
                raise Unavailable("the sandbox's agent talks nonsense; it may have been tampered with from inside")
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            raise Unavailable("the sandbox went away while it was asked") from None

    async def answer(self) -> dict[str, Any]:
        """The first frame, which must be an answer. Raises what went wrong inside, as one of our errors."""
        kind, payload = await self.frame()
        if kind == wire.ERROR:
            raise inside_error(payload)
        if kind != wire.ANSWER:
            raise Unavailable("the sandbox's agent talks nonsense; it may have been tampered with from inside")
        return decoded(payload)

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
                raise Unavailable("the sandbox went away while it was told something") from None

    def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """For a connection that is passed on."""
        return self._reader, self._writer

    def close(self) -> None:
        self._writer.close()


def decoded(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unavailable("the sandbox's agent talks nonsense; it may have been tampered with from inside")
    return found


def inside_error(payload: bytes) -> BastideError:
    """What the agent said went wrong, in our words."""
    told = decoded(payload)
    kind, message = str(told.get("error", "")), str(told.get("message", ""))[:500]
    number = told.get("errno")
    if kind in ("FileNotFoundError", "LookupError") or number == errno.ENOENT:
        return NotFound(f"in the sandbox: {message}")
    if kind in ("FileExistsError", "NotADirectoryError", "IsADirectoryError"):
        return Conflict(f"in the sandbox: {message}")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return InvalidRequest(f"in the sandbox: {message}; its disk is full, make one with a larger `disk`")
    if kind == "ConnectionRefusedError":
        return Unavailable(f"in the sandbox: {message}", retry_after_s=0.2)
    return InvalidRequest(f"in the sandbox: {kind}: {message}")
