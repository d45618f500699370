"""Questions to the agent inside a box, from the host: one connection a question. Trusts nothing it hears."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from bastide.adapters.isolation.tree import connect_path
from bastide.domain.errors import EngineGarbage, EngineLost, InvalidRequest
from bastide.inside import wire

ANSWER_S_MAX = 10.0


class BoxLine:
    """An open question. Raises OSError at `open` where nobody listens."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, path: str, question: dict[str, Any]) -> BoxLine:
        leads, descriptor = connect_path(path)
        try:
            reader, writer = await asyncio.open_unix_connection(leads, limit=2 * wire.FRAME_BYTES_MAX)
        finally:
            os.close(descriptor)
        writer.write(json.dumps(question).encode() + b"\n")
        return cls(reader, writer)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame. Raises EngineLost where the box has gone, EngineGarbage where it talks nonsense."""
        try:
            kind, length = wire.HEAD.unpack(await self._reader.readexactly(wire.HEAD.size))
            if length > wire.FRAME_BYTES_MAX:
                raise EngineGarbage("the agent in the box talks nonsense")
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            raise EngineLost("the box went away while it was asked") from None

    async def answer(self) -> dict[str, Any]:
        """The next frame, which must be an answer. Raises InvalidRequest with what went wrong inside."""
        kind, payload = await self.frame()
        try:
            told = json.loads(payload)
        except ValueError:
            raise EngineGarbage("the agent in the box talks nonsense") from None
        if kind == wire.ERROR:
            raise InvalidRequest(f"inside: {told.get('error')}: {str(told.get('message'))[:500]}")
        if not isinstance(told, dict):
            raise EngineGarbage("the agent in the box talks nonsense")
        return told

    async def send(self, kind: int, payload: bytes = b"") -> None:
        for start in range(0, len(payload) or 1, wire.FRAME_BYTES_MAX):
            part = payload[start : start + wire.FRAME_BYTES_MAX]
            self._writer.write(wire.HEAD.pack(kind, len(part)) + part)
            try:
                await self._writer.drain()
            except OSError:
                raise EngineLost("the box went away while it was told something") from None

    def close(self) -> None:
        self._writer.close()


async def ask(path: str, question: dict[str, Any], limit_s: float = ANSWER_S_MAX) -> dict[str, Any]:
    """One question, one answer. Raises OSError (TimeoutError among them) where nobody answers."""
    async with asyncio.timeout(limit_s):
        line = await BoxLine.open(path, question)
        try:
            return await line.answer()
        finally:
            line.close()


async def write_file(path: str, target: str, data: bytes, mode: int) -> None:
    """Lay a file into the box. Raises as `ask`."""
    async with asyncio.timeout(ANSWER_S_MAX):
        line = await BoxLine.open(path, {"op": "write", "path": target, "mode": mode})
        try:
            await line.send(wire.DATA, data)
            await line.send(wire.END)
            await line.answer()
        finally:
            line.close()
