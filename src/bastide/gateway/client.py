"""The client's side of the wire: one connection, its requests in order, their bounds and its patience.

Owns reading requests strictly and writing answers with backpressure. It knows nothing of models or keys; for each
request it runs one task, and ends that task when the client is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol, cast

import httptools

from bastide.domain.errors import BastideError, InvalidRequest, TooLarge, Unavailable
from bastide.gateway import wire
from bastide.gateway.feed import Feed
from bastide.gateway.request import HeadTooLarge, Request, RequestTimeout, Waiting, path_of
from bastide.gateway.settings import GatewayLimits

_PIPELINED_MAX = 64
_LINGER_S = 2.0
_INFINITE = float("inf")


class Application(Protocol):
    def screen(self, request: Request) -> None:
        """Called when the head is read, before the body: raise a BastideError to refuse it."""
        ...

    def serve(self, connection: ClientConnection, request: Request) -> Coroutine[Any, Any, None]: ...


class Clients:
    """Every open connection of the worker, and what they hold together."""

    def __init__(self, application: Application, limits: GatewayLimits) -> None:
        self.application, self.limits = application, limits
        self.connections: set[ClientConnection] = set()
        self.bodies_bytes = 0
        self.draining = False

    def sweep(self) -> None:
        """End what took too long. Called a few times a second at most: cheap, and exact enough for these bounds."""
        now = time.monotonic()
        for connection in list(self.connections):
            if now >= connection.deadline:
                connection.late()

    def drain(self) -> None:
        """Take no more requests: idle connections close now, busy ones after their answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()


class ClientConnection(asyncio.Protocol):
    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._queue: deque[Request] = deque()
        self._pieces: list[bytes] = []
        self._body_bytes = self._counted_bytes = self._head_bytes = self._unended_bytes = 0
        self._in_message = self._in_body = self._refused = self._paused = self._chunked = False
        self._task: asyncio.Task[None] | None = None
        self._current: Request | None = None
        self._waiting: Waiting | None = None
        self._tunnel: Feed | None = None
        self._head_bytes_max = clients.limits.header_bytes_max
        self.deadline = _INFINITE
        self.is_congested = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        clients = self._clients
        clients.connections.add(self)
        self.deadline = time.monotonic() + clients.limits.idle_s_max
        if len(clients.connections) > clients.limits.connections_max:
            self._refuse(Unavailable("too many connections to this gateway; try again soon", retry_after_s=2.0))

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._tunnel is not None:
            self._tunnel.arrived(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            request = self._request
            request.closes = True
            if request.feed is not None and request.upgrades:
                # What follows belongs to whoever answers; nobody else speaks another protocol, nor reads it.
                self._tunnel = request.feed
                if rest := data[upgrade.args[0] :]:
                    self._tunnel.arrived(rest)
                return
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__ or error.__cause__
            self._refuse(cause if isinstance(cause, BastideError) else InvalidRequest("the request can't be read"))
            return
        except httptools.HttpParserError as error:
            self._refuse(InvalidRequest(f"the request is not right HTTP/1.1: {error}"))
            return
        if self._in_message and not self._in_body:
            # A head that never ends is bounded by all that came for it, whatever the parser has made of it.
            self._unended_bytes += len(data)
            if self._unended_bytes > self._clients.limits.header_bytes_max:
                self._refuse(self._head_error())
        elif not self._in_message and data and self._current is None and not self._refused:
            # Blank lines between requests are allowed, without end they are not.
            self._unended_bytes += len(data)
            if self._unended_bytes > self._clients.limits.header_bytes_max:
                self._refuse(self._head_error())
        if len(self._queue) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        # Half-closed: whether it still listens can't be known, and an engine must not work for nobody.
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._clients.connections.discard(self)
        self._clients.bodies_bytes -= self._counted_bytes
        self._counted_bytes = 0
        self._queue.clear()
        self.deadline = _INFINITE
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.is_congested = True
        self.deadline = time.monotonic() + self._clients.limits.idle_s_max
        if self._waiting is not None:
            self._waiting.pause()

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._current is not None:
            self.deadline = _INFINITE
        if self._waiting is not None:
            self._waiting.resume()

    # httptools

    def on_message_begin(self) -> None:
        if len(self._queue) >= _PIPELINED_MAX:
            raise InvalidRequest("too many requests at once on one connection; wait for answers")
        self._request = Request()
        self._pieces = []
        self._body_bytes = self._head_bytes = self._unended_bytes = 0
        self._in_message, self._in_body, self._chunked = True, False, False
        if self._current is None:
            self.deadline = time.monotonic() + self._clients.limits.header_s_max

    def on_url(self, url: bytes) -> None:
        self._request.target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer: read, bounded, never used
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._head_bytes_max:
            raise self._head_error()
        self._request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        request, parser, limits = self._request, self._parser, self._clients.limits
        self._in_body = True
        request.method = parser.get_method().decode("latin-1")
        version = parser.get_http_version()
        length, self._chunked, expect = wire.check_head(version, request.headers)
        request.is_old = version == "1.0"
        request.closes = not parser.should_keep_alive()
        request.path = path_of(request.target)
        wants = request.header(b"upgrade")
        request.upgrades = wants is not None and parser.should_upgrade() and wants.lower() != b"h2c"
        try:
            self._clients.application.screen(request)
        except BastideError as error:
            if length > 65536 or self._chunked or expect is not None:
                raise  # not worth reading
            request.refusal = error
        if request.is_passed_on:
            request.feed = Feed(self._hold)
        elif length > limits.body_bytes_max:
            raise TooLarge(f"the request body is over {limits.body_bytes_max} bytes")
        if length or self._chunked:
            if self._current is None:
                self.deadline = time.monotonic() + limits.body_s_max
            if expect is not None and not request.is_old:
                if expect.lower() != b"100-continue":
                    raise InvalidRequest("the only Expect understood is 100-continue")
                if self._current is None and not self._queue:
                    self._write(wire.CONTINUE)
        if request.feed is not None and request.refusal is None:
            self._take(request)  # it begins before its body is there

    def on_body(self, data: bytes) -> None:
        clients = self._clients
        if self._request.feed is not None and self._request.refusal is None:
            self._request.feed.arrived(data)
            if self._current is self._request and self.deadline != _INFINITE:
                self.deadline = time.monotonic() + clients.limits.idle_s_max
            return
        self._body_bytes += len(data)
        if self._body_bytes > clients.limits.body_bytes_max:
            raise TooLarge(f"the request body is over {clients.limits.body_bytes_max} bytes")
        self._counted_bytes += len(data)
        clients.bodies_bytes += len(data)
        if clients.bodies_bytes > clients.limits.bodies_bytes_max:
            raise Unavailable("this gateway holds too many large requests now; try again soon", retry_after_s=2.0)
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        request = self._request
        self._in_message = self._in_body = False
        if request.feed is not None and request.refusal is None:
            if self._current is request:
                self.deadline = _INFINITE
            if not request.upgrades:
                request.feed.end()
            return
        request.body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        self._take(request)

    def _take(self, request: Request) -> None:
        if self._current is None:
            self._start(request)
        else:
            self._queue.append(request)

    # for the application

    @property
    def peer(self) -> str:
        """The client's address; empty for one of this machine's own sockets."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(name[0]) if isinstance(name, tuple) else ""

    def _hold(self, wait: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or wait == self._paused:
            return
        self._paused = wait
        if wait:
            transport.pause_reading()
            self.deadline = _INFINITE  # it is not the client who is slow
        else:
            transport.resume_reading()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def listen(self, waiting: Waiting | None) -> None:
        self._waiting = waiting

    def finish(self, request: Request) -> None:
        """The answer is complete: take the next request, or close."""
        clients = self._clients
        self._waiting = self._current = self._task = None
        clients.bodies_bytes -= len(request.body)
        self._counted_bytes -= len(request.body)
        transport = self._transport
        if transport is None:
            return
        if request.feed is not None and not request.feed.is_over and not request.upgrades:
            self._refused = True  # answered before its body had come: nothing on this line can be told apart any more
            if self._paused:
                transport.resume_reading()
            self._linger()
            return
        if request.closes or clients.draining or self._refused:
            transport.close()
            return
        now = time.monotonic()
        limits = clients.limits
        if not self._in_message:
            self.deadline = now + limits.idle_s_max
        else:
            self.deadline = now + (limits.body_s_max if self._in_body else limits.header_s_max)
        if self._queue:
            following = self._queue.popleft()
            self._start(following)
            if following.feed is not None and not following.feed.is_over and not self._queue:
                self._hold(False)
        elif self._paused:
            self._paused = False
            transport.resume_reading()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The request under way."""
        return self._task

    def abort_soon(self) -> None:
        """Close once what was written is sent; no further request is taken."""
        self._refused = True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def late(self) -> None:
        """A deadline passed: mid-request the client is told, else the line is just closed."""
        self.deadline = _INFINITE
        if self._current is not None or self._refused:
            self.abort()  # it stopped reading its answer, or goes on sending what was refused
        elif self._in_message:
            part = "body" if self._in_body else "head"
            self._refuse(RequestTimeout(f"the {part} of the request took too long to arrive"))
        elif self._transport is not None:
            self._transport.close()

    def drain(self) -> None:
        if self._current is None and self._transport is not None:
            self._transport.close()

    def _start(self, request: Request) -> None:
        request.arrived_at = time.monotonic()
        self._current = request
        waits = request.feed is not None and not request.feed.is_over and not request.upgrades
        self.deadline = time.monotonic() + self._clients.limits.idle_s_max if waits else _INFINITE
        # No head start: a task runs only after this piece of data was read to its end.
        self._task = asyncio.get_running_loop().create_task(self._clients.application.serve(self, request))

    def _refuse(self, error: BastideError) -> None:
        """Answer with the error and close, for what follows on this line can't be trusted any more."""
        if self._refused:
            return
        self._refused = True
        if self._current is None:
            headers, body = wire.error_parts(error)
            self._write(wire.whole(error.status, headers, body, closes=True))
            self._linger()
        # Else the answer under way is finished first; `finish` then closes the line.

    def _linger(self) -> None:
        # Closing with unread data on the line would reset it, and the client might never read why it was refused.
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
            self.deadline = time.monotonic() + _LINGER_S
        else:
            transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._clients.limits.header_bytes_max:
            raise self._head_error()

    def _head_error(self) -> BastideError:
        return HeadTooLarge(f"the head of the request is over {self._clients.limits.header_bytes_max} bytes")
