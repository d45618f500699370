"""The link over a Unix socket: one JSON array a line, [kind, number, verb or outcome, body].

Owns framing and matching answers to calls. Kinds: "call", "tell", "note" (progress of a call), "done", "fail".
A line over `LINE_BYTES_MAX` ends the link: nothing of ours is that long.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bastide.domain.errors import BastideError, InternalError, error_types
from bastide.ports.link import Body, Handler, Link, LinkLost, Notify

LINE_BYTES_MAX = 64 * 2**20
_ERRORS = error_types()
_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder(list[Any]).decode


class UnixLink(Link):
    """One end of a link. Made by `connect` and `serve`, never by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self._reader, self._writer, self._handler = reader, writer, handler
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Body], Notify | None]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._peer: Body = {}
        self.lost = asyncio.Event()

    @property
    def peer(self) -> Body:
        return self._peer

    async def call(self, verb: str, body: Body, progress: Notify | None = None) -> Body:
        if self.lost.is_set():
            raise LinkLost(f"cannot ask {verb!r}: the other end is gone")
        number = next(self._numbers)
        answer: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (answer, progress)
        try:
            self._send("call", number, verb, body)
            return await answer
        finally:
            self._waiting.pop(number, None)

    def tell(self, verb: str, body: Body) -> None:
        if not self.lost.is_set():
            self._send("tell", 0, verb, body)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(Exception):
            await self._writer.wait_closed()

    def _send(self, kind: str, number: int, verb: str, body: Body) -> None:
        self._writer.write(_encode([kind, number, verb, body]) + b"\n")

    async def run(self) -> None:
        """Read until the line ends; then fail every waiting call. Never raises."""
        try:
            while line := await self._reader.readline():
                self._receive(_decode(line))
        except (OSError, ValueError, msgspec.DecodeError, asyncio.LimitOverrunError):
            pass
        finally:
            self.lost.set()
            for answer, _ in list(self._waiting.values()):
                if not answer.done():
                    answer.set_exception(LinkLost("the other end went away before it answered"))
            for task in list(self._serving):
                task.cancel()
            with contextlib.suppress(Exception):
                self._writer.close()

    def _receive(self, message: list[Any]) -> None:
        kind, number, verb, body = message
        if kind in ("call", "tell"):
            if verb == "hello":
                self._peer = body
                return
            task = asyncio.get_running_loop().create_task(self._serve(kind == "call", number, verb, body))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            return
        waiting = self._waiting.get(number)
        if waiting is None:
            return
        answer, progress = waiting
        if kind == "note":
            if progress is not None:
                progress(body)
        elif not answer.done():
            if kind == "done":
                answer.set_result(body)
            else:
                error = _ERRORS.get(verb, InternalError)(body.get("message", ""))
                error.retry_after_s = body.get("retry_after_s")
                answer.set_exception(error)

    async def _serve(self, wants_answer: bool, number: int, verb: str, body: Body) -> None:
        def note(progress: Body) -> None:
            if not self.lost.is_set():
                self._send("note", number, "", progress)

        try:
            result = await self._handler(self, verb, body, note)
        except BastideError as error:
            if wants_answer and not self.lost.is_set():
                self._send("fail", number, error.code, {"message": error.message, "retry_after_s": error.retry_after_s})
        except LinkLost as error:
            if wants_answer and not self.lost.is_set():
                self._send("fail", number, "unavailable", {"message": str(error)})
        except Exception as error:
            if wants_answer and not self.lost.is_set():
                self._send("fail", number, InternalError.code, {"message": f"{type(error).__name__}: {error}"})
            raise
        else:
            if wants_answer and not self.lost.is_set():
                self._send("done", number, "", result)


async def connect(path: str, me: Body, handler: Handler) -> UnixLink:
    """Reach the process that serves `path`. `me` says who is calling. The caller runs `link.run()` in its task group.

    Raises LinkLost where nobody serves there.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX)
    except OSError as error:
        raise LinkLost(f"nobody answers at {path}: {error.strerror or error}") from None
    link = UnixLink(reader, writer, handler)
    link._peer = {"role": "server", "path": path}
    link.tell("hello", me)
    return link


async def serve(
    path: str,
    handler: Handler,
    came: Callable[[UnixLink], None] | None = None,
    left: Callable[[UnixLink], Awaitable[None] | None] | None = None,
) -> asyncio.Server:
    """Serve links at `path` (made with mode 0600; a stale socket there is replaced). `came` and `left` see each link."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = UnixLink(reader, writer, handler)
        first = await reader.readline()
        if not first:
            writer.close()
            return
        try:
            link._receive(_decode(first))
        except (ValueError, msgspec.DecodeError):
            writer.close()
            return
        if came is not None:
            came(link)
        try:
            await link.run()
        except asyncio.CancelledError:
            return  # the loop is closing; a server's connection task has nobody to tell
        if left is not None:
            ended = left(link)
            if ended is not None:
                await ended

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(accept, path, limit=LINE_BYTES_MAX)
    finally:
        os.umask(mask)
