"""One request passed on as it comes, and its answer as it comes: any method, bodies of any length, protocols above HTTP.

Owns the upstream connection while it lasts. It reads nothing and buffers little: each side waits for the other. After a
101 the two connections are one tunnel. It never asks twice what may have been done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bastide.domain.errors import BastideError, EngineLost
from bastide.gateway import wire
from bastide.gateway.client import ClientConnection
from bastide.gateway.request import Request
from bastide.gateway.settings import GatewayLimits
from bastide.gateway.upstream import Endpoint, Pool, Upstream

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"expect",
    }
)  # fmt: skip


_NEVER = float("inf")


class NotReached(EngineLost):
    """Nobody took the connection: nothing was asked, so it may be asked elsewhere, or once more."""


class Relay:
    """`head`: the request's head, up to what says how long its body is. `told`: header lines of ours for the answer.

    `is_ours`: what answers is a part of Bastide, which keeps idle connections open: one is used for any request, and an answer takes
    as long as it takes (a log is followed for days). `is_wanted_back`: whether its instance is to be let go. An answer is finished first; a tunnel has no end of its own, and
    is given `limits.tunnel_drain_s`.
    """

    def __init__(
        self, pool: Pool, connection: ClientConnection, request: Request, head: bytes, told: bytes,
        limits: GatewayLimits, is_wanted_back: Callable[[], bool] = lambda: False, is_ours: bool = False,
    ) -> None:  # fmt: skip
        self._is_ours = is_ours
        self._tunnel_drain_s, self._is_wanted_back = limits.tunnel_drain_s, is_wanted_back
        self._pool, self._connection, self._request, self._head, self._told = pool, connection, request, head, told
        self._upstream: Upstream | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunks_in = self._chunks_out = False
        self.has_head = False
        self.head_s: float | None = None  # when the answer began, monotonic
        self.is_tunnel = False
        self._deadline = _NEVER if is_ours else time.monotonic() + limits.answer_s_max

    @property
    def deadline(self) -> float:
        """When it has taken too long. Looked at about once a second."""
        if self.is_tunnel and self._deadline == _NEVER and self._is_wanted_back():
            self._deadline = time.monotonic() + self._tunnel_drain_s
        return self._deadline

    async def run(self, endpoint: Endpoint) -> None:
        """Until the answer is complete. Raises EngineLost; nothing has reached the client then unless `has_head`."""
        request = self._request
        self._pool.watch(self)
        upstream = self._pool.take(endpoint) if self._may_repeat or self._is_ours else None
        try:
            while True:
                fresh = upstream is None
                if upstream is None:
                    upstream = await self._open(endpoint)
                self._upstream = upstream
                self._connection.listen(self)
                upstream.send(self._head + self._framing(), request.body, self)
                if request.feed is not None and not request.upgrades:
                    request.feed.attach(self)
                try:
                    await self._done
                    return
                except EngineLost:
                    # A pooled connection that had just been closed at the other end: nothing was read, so nothing done.
                    if fresh or upstream.heard or not self._may_repeat:
                        raise
                    upstream = None
                    self._done = asyncio.get_running_loop().create_future()
        finally:
            self._pool.unwatch(self)
            self._connection.listen(None)
            if request.feed is not None:
                request.feed.attach(None)
            if (not self._done.done() or self._done.cancelled()) and self._upstream is not None:
                self._upstream.close()

    @property
    def _may_repeat(self) -> bool:
        feed = self._request.feed
        if feed is None:
            return self._request.method in ("GET", "HEAD") and not self._request.body
        return self._request.method in ("GET", "HEAD") and feed.is_over and not feed.arrived_bytes

    async def _open(self, endpoint: Endpoint) -> Upstream:
        try:
            return await self._pool.open(endpoint)
        except OSError as error:
            raise NotReached(f"it can't be reached: {error}", retry_after_s=1.0) from None

    def _framing(self) -> bytes:
        """How the body is sent on, as it came."""
        request = self._request
        if request.upgrades:
            return b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % (request.header(b"upgrade") or b"")
        if request.feed is None:  # it is here whole
            return b"content-length: %d\r\n\r\n" % len(request.body) if request.body else b"\r\n"
        length = request.header(b"content-length")
        if length is not None:
            return b"content-length: %b\r\n\r\n" % length
        self._chunks_in = request.header(b"transfer-encoding") is not None
        return b"transfer-encoding: chunked\r\n\r\n" if self._chunks_in else b"\r\n"

    # Taker: the client's body

    def take(self, data: bytes) -> None:
        if self._upstream is not None:
            self._upstream.write(wire.as_chunk(data) if self._chunks_in else data)

    def take_end(self) -> None:
        if self._chunks_in and self._upstream is not None:
            self._upstream.write(b"0\r\n\r\n")
            self._chunks_in = False

    def full(self) -> None:
        """The upstream takes no more for now."""
        if self._request.feed is not None:
            self._request.feed.stop()

    def ready(self) -> None:
        if self._request.feed is not None:
            self._request.feed.go_on()

    # Waiting: the client takes no more for now

    def pause(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # Sink: the answer

    def got_head(self, status: int, headers: wire.Headers) -> None:
        request = self._request
        self.head_s = time.monotonic()
        if status == 101 and not request.upgrades:
            self._fail(EngineLost("it changed the protocol without being asked to"))
            return
        lines = [wire.STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n".encode()]
        length = None
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name not in HOP_BY_HOP:
                lines += (name, b": ", value, b"\r\n")
        lines.append(self._told)
        if status == 101:
            self._become_tunnel(lines, headers)
            return
        if length is not None:
            lines.append(b"content-length: %b\r\n" % length)
        elif status not in (204, 304) and request.method != "HEAD":
            self._chunks_out = not request.is_old
            request.closes = request.closes or request.is_old
            if self._chunks_out:
                lines.append(b"transfer-encoding: chunked\r\n")
        if request.upgrades or (request.feed is not None and not request.feed.is_over):
            request.closes = True  # what the client still sends belongs to a request that is answered
        lines.append(b"connection: close\r\n\r\n" if request.closes else b"\r\n")
        self.has_head = True
        self._connection.write(b"".join(lines))
        if request.method == "HEAD" and not self._done.done():
            self._done.set_result(None)
            if self._upstream is not None:
                self._upstream.close()  # its parser would wait for the body that the head speaks of

    def _become_tunnel(self, lines: list[bytes], headers: wire.Headers) -> None:
        protocol = next((value for name, value in headers if name == b"upgrade"), b"websocket")
        lines.append(b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % protocol)
        self.has_head = self.is_tunnel = self._request.closes = True
        self._deadline = _NEVER
        self._connection.write(b"".join(lines))
        if self._request.feed is not None:
            self._request.feed.attach(self)

    def got_body(self, data: bytes) -> None:
        self._connection.write(wire.as_chunk(data) if self._chunks_out else data)
        if self._connection.is_congested:
            self.pause()

    def ended(self) -> None:
        if self._chunks_out:
            self._connection.write(b"0\r\n\r\n")
        if not self._done.done():
            self._done.set_result(None)

    def lost(self, reason: str, garbage: bool) -> None:
        if self.is_tunnel and not self._done.done():
            self._done.set_result(None)
            return
        self._fail(EngineLost(f"it broke off: {reason}", retry_after_s=1.0))

    def late(self) -> None:
        """It took longer than any answer may, or than a tunnel may be waited for."""
        if self.is_tunnel and not self._done.done():
            if self._upstream is not None:
                self._upstream.close()
            self._done.set_result(None)
            return
        self._fail(EngineLost("its answer did not end in time"))

    def _fail(self, error: BastideError) -> None:
        if not self._done.done():
            if self._upstream is not None:
                self._upstream.close()
            self._done.set_exception(error)
