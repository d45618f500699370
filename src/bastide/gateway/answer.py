"""The answer as the client sees it: head, pieces, comments, errors, each in the form the client's state allows.

Owns what was already sent. Before the status line a failure is a clean status; after it, an event in the stream.
"""

from __future__ import annotations

import json
import time

from bastide.domain.errors import BastideError
from bastide.gateway import wire
from bastide.gateway.client import ClientConnection
from bastide.gateway.request import Request, Waiting


class Answer:
    __slots__ = ("_connection", "_request", "first_token_s", "has_content", "has_head", "instance", "is_over",
                 "queue_s", "streams", "wake_s", "woke_from")  # fmt: skip

    def __init__(self, connection: ClientConnection, request: Request, streams: bool) -> None:
        self._connection, self._request, self.streams = connection, request, streams
        self.has_head = False
        self.has_content = False  # anything of the answer itself, not only comments
        self.is_over = False
        self.instance = ""
        self.woke_from = "awake"
        self.wake_s = 0.0
        self.queue_s = 0.0
        self.first_token_s: float | None = None

    @property
    def is_congested(self) -> bool:
        return self._connection.is_congested

    def listen(self, waiting: Waiting | None) -> None:
        """Who is told when the client takes no more for now."""
        self._connection.listen(waiting)

    def say(self, text: str) -> None:
        """A comment in the stream; the status line goes out with the first."""
        comment = wire.comment(text)
        if self.has_head:
            self._piece(comment)
        else:
            self._open(b"", comment)

    def content(self, data: bytes) -> None:
        """A piece of the stream. The first one brings the facts about the request with it, as headers or as a comment."""
        if self.has_content:
            self._piece(data)
            return
        self.has_content = True
        self.first_token_s = time.monotonic() - self._request.arrived_at
        if self.has_head:
            lines = self._fact_lines().decode().splitlines()
            self._piece(wire.comment(json.dumps(dict(line.split(": ", 1) for line in lines))) + data)
        else:
            self._open(self._fact_lines(), data)

    def whole(self, status: int, body: bytes, headers: bytes = wire.JSON) -> None:
        """An answer that is not streamed. `headers`: finished lines."""
        self.has_head = self.has_content = self.is_over = True
        self.first_token_s = time.monotonic() - self._request.arrived_at
        lines = headers + self._fact_lines()
        self._connection.write(wire.whole(status, lines, body, self._request.closes))

    def error(self, error: BastideError) -> None:
        """The end, badly: a status where none was sent yet, else an event in the stream."""
        if self.is_over:
            return
        if self.has_head:
            self._piece(wire.error_event(error))
            self.end()
            return
        self.is_over = self.has_head = True
        headers, body = wire.error_parts(error)
        headers += b"x-request-id: %b\r\n" % self._request.identity
        if self.instance:
            headers += b"x-bastide-instance: %b\r\n" % self.instance.encode()
        is_head = self._request.method == "HEAD"
        self._connection.write(wire.whole(error.status, headers, body, self._request.closes, is_head))

    def end(self) -> None:
        """The end of a stream."""
        if self.is_over:
            return
        self.is_over = True
        if not self._request.is_old:
            self._connection.write(b"0\r\n\r\n")
        else:
            self._request.closes = True  # HTTP/1.0: the end of the line is the end of the answer

    def _open(self, facts: bytes, data: bytes) -> None:
        self.has_head = True
        lines = wire.STREAM_HEAD + (facts or b"x-request-id: %b\r\n" % self._request.identity)
        if self._request.is_old:
            self._request.closes = True
            self._connection.write(wire.STATUS_LINES[200] + lines + b"connection: close\r\n\r\n" + data)
            return
        if self._request.closes:
            lines += b"connection: close\r\n"
        self._connection.write(
            b"%b%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (wire.STATUS_LINES[200], lines, len(data), data)
        )

    def _piece(self, data: bytes) -> None:
        self._connection.write(data if self._request.is_old else b"%x\r\n%b\r\n" % (len(data), data))

    def _fact_lines(self) -> bytes:
        return (
            b"x-request-id: %b\r\nx-bastide-instance: %b\r\nx-bastide-wake: %b\r\n"
            b"server-timing: queue;dur=%.1f, wake;dur=%.1f, first_token;dur=%.1f\r\n"
        ) % (
            self._request.identity,
            self.instance.encode(),
            self.woke_from.encode(),
            self.queue_s * 1000,
            self.wake_s * 1000,
            (self.first_token_s or 0.0) * 1000,
        )
