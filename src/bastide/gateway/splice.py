"""Passes a request to the control plane's own HTTP server and its answer back, byte for byte.

Control authorises by itself; this only keeps hop-by-hop headers to their hop. It never retries: control's calls may write.
"""

from __future__ import annotations

import asyncio

from bastide.domain.errors import Unavailable
from bastide.gateway import wire
from bastide.gateway.client import ClientConnection
from bastide.gateway.request import Request
from bastide.gateway.upstream import Endpoint, Pool, Upstream

_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"content-length", b"expect", b"date", b"server",
    }
)  # fmt: skip
CONTROL_AWAY = "the control plane does not answer now (models are served on); try again soon"
SANDBOXES_AWAY = "what serves sandboxes does not answer now (they live on); try again soon"


class Splice:
    def __init__(
        self,
        pool: Pool,
        control: Endpoint,
        connection: ClientConnection,
        request: Request,
        extra: tuple[tuple[bytes, bytes], ...] = (),
        away: str = CONTROL_AWAY,
    ) -> None:
        self._away = away
        self._extra = extra  # headers that say who asks; nobody else may say them
        self._pool, self._control, self._connection, self._request = pool, control, connection, request
        self._upstream: Upstream | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunked = False
        self.has_head = False

    async def run(self) -> None:
        """Raises Unavailable where control is away and nothing was sent to the client yet."""
        upstream = self._pool.take(self._control)
        fresh = upstream is None
        try:
            while True:
                if upstream is None:
                    try:
                        upstream = await self._pool.open(self._control)
                    except OSError:
                        raise Unavailable(self._away, retry_after_s=2.0) from None
                self._upstream = upstream
                self._connection.listen(self)
                upstream.send(self._head(), self._request.body, self)
                try:
                    await self._done
                    return
                except Unavailable:
                    # Only a read is safe to ask twice on a line that may just have been closed as idle.
                    if fresh or upstream.heard or self._request.method != "GET":
                        raise
                    fresh, upstream = True, None
                    self._done = asyncio.get_running_loop().create_future()
        finally:
            self._connection.listen(None)
            if not self._done.done() or self._done.cancelled():
                self.stop()

    def stop(self) -> None:
        if self._upstream is not None:
            self._upstream.close()

    def _head(self) -> bytes:
        request = self._request
        lines = [request.method.encode(), b" ", request.target, b" HTTP/1.1\r\n"]
        for name, value in request.headers:
            if name not in _HOP_BY_HOP and not name.startswith(b"x-bastide-key-"):
                lines += (name, b": ", value, b"\r\n")
        for name, value in self._extra:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(request.body))
        return b"".join(lines)

    def pause(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def got_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        request = self._request
        lines = [wire.STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n".encode()]
        length = None
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name not in _HOP_BY_HOP:
                lines += (name, b": ", value, b"\r\n")
        lines.append(b"x-request-id: %b\r\n" % request.identity)
        if length is not None:
            lines.append(b"content-length: %b\r\n" % length)
        elif status not in (204, 304):
            self._chunked = not request.is_old
            request.closes = request.closes or request.is_old
            if self._chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"connection: close\r\n\r\n" if request.closes else b"\r\n")
        self.has_head = True
        self._connection.write(b"".join(lines))

    def got_body(self, data: bytes) -> None:
        self._connection.write(wire.as_chunk(data) if self._chunked else data)
        if self._connection.is_congested:
            self.pause()

    def ended(self) -> None:
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        if not self._done.done():
            self._done.set_result(None)

    def full(self) -> None:
        """What it sends was handed over whole."""

    def ready(self) -> None: ...

    def lost(self, reason: str, garbage: bool) -> None:
        if not self._done.done():
            self._done.set_exception(Unavailable(self._away, retry_after_s=2.0))
