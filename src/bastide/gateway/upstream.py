"""Connections to engines and outside servers: raw HTTP/1.1 over Unix sockets, TCP or TLS, kept alive and pooled.

Owns the wire to the upstream side. It never retries and never reads a body: pieces go to the sink as they come.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

# llama.cpp's server closes after 100 requests or 5 idle seconds; leaving first avoids most of the lost races.
_REQUESTS_MAX = 95
_IDLE_S_MAX = 4.0
_IDLE_CONNECTIONS_MAX = 64
CONNECT_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream listens: a Unix socket (`path`), or `host` and `port`, with TLS where `tls`.

    `once`: a connection there is for one request and never used again, whatever the answer says: it may lead somewhere else next time.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False
    once: bool = False

    @staticmethod
    def parse(address: str) -> Endpoint:
        """`/a/socket`, `host:port`, or an http(s) URL. ValueError otherwise."""
        if address.startswith("/"):
            return Endpoint(path=address)
        if "://" in address:
            url = urlsplit(address)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ValueError(f"{address!r} is not an http or https URL")
            tls = url.scheme == "https"
            return Endpoint(host=url.hostname, port=url.port or (443 if tls else 80), tls=tls)
        host, _, port = address.rpartition(":")
        return Endpoint(host=host, port=int(port))


def post_head(path: str, host: str, secret: str | None) -> bytes:
    """The head of a request, up to the number of its Content-Length."""
    authorization = f"Authorization: Bearer {secret}\r\n" if secret else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Content-Type: application/json\r\nContent-Length: "
    ).encode()


class Sink(Protocol):
    """Who asked. After `lost` or `ended` nothing more comes."""

    def got_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...
    def got_body(self, data: bytes) -> None: ...
    def ended(self) -> None: ...
    def lost(self, reason: str, garbage: bool) -> None: ...
    def full(self) -> None:
        """The upstream takes no more of the request for now; nothing for those that sent it whole."""

    def ready(self) -> None: ...


class Watched(Protocol):
    """Someone with a deadline, on the monotonic clock."""

    @property
    def deadline(self) -> float: ...

    def late(self) -> None: ...


class Upstream(asyncio.Protocol):
    """One connection. `send` starts one exchange; when it ends the connection goes back to the pool by itself."""

    def __init__(self, pool: Pool, endpoint: Endpoint) -> None:
        self._pool, self.endpoint = pool, endpoint
        self._sink: Sink | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._ends_with_line = False
        self._interim = False
        self._is_raw = False  # another protocol is spoken: bytes pass as they are
        self._complete = self._stays = False
        self._paused = False
        self.requests = 0
        self.idle_since = 0.0
        self.heard = False  # any byte of the present answer

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self.close()  # nobody asked: out of step
            return
        self.heard = True
        if self._is_raw:
            self._sink.got_body(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self._is_raw, self._complete = True, False
            if rest and self._sink is not None:
                self._sink.got_body(rest)
            return
        except httptools.HttpParserError as error:
            if self._pieces:
                self._hand_over()
            self._lose(f"what it answers is not HTTP: {error}", garbage=True)
            return
        if self._pieces:
            self._hand_over()
        if self._complete:
            self._finish()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._pool.gone(self)
        sink = self._sink
        if sink is None:
            return
        self._sink = None
        if (self._is_raw or self._ends_with_line) and not self._interim and error is None:
            sink.ended()
        else:
            sink.lost(f"the connection ended{f': {error}' if error else ''}", False)

    # httptools

    def on_message_begin(self) -> None:
        self._headers = []
        self._complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200 and status != 101
        if self._interim:
            return
        self._ends_with_line = True
        for name, _ in self._headers:
            if name == b"content-length" or name == b"transfer-encoding":
                self._ends_with_line = False
                break
        if self._sink is not None:
            self._sink.got_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        # Handed over once for all that one read brought: a write to the client costs more than anything else here.
        self._pieces.append(data)

    def _hand_over(self) -> None:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._sink is not None:
            self._sink.got_body(data)

    def on_message_complete(self) -> None:
        self._complete = not self._interim
        # Asked here, for once the message is over the parser has forgotten it.
        self._stays = self._parser.should_keep_alive()

    # for the exchange

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes, sink: Sink) -> None:
        """Ask. The connection must be open and idle."""
        self._sink = sink
        self._complete = self.heard = self._ends_with_line = False
        self.requests += 1
        transport = self._transport
        if transport is None:
            self._sink = None
            sink.lost("the connection ended", False)
        elif len(body) < 65536:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def begin(self, head: bytes, sink: Sink) -> None:
        """As `send`, for a body that follows by `write`."""
        self.send(head, b"", sink)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.full()

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.ready()

    def pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """End it at once; an engine stops generating when its client is gone. The sink hears nothing more."""
        self._sink = None
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        if self._ends_with_line or not self._stays or self.requests >= _REQUESTS_MAX:
            if self._transport is not None:
                self._transport.close()
        else:
            self.resume()
            self._pool.put(self)
        if sink is not None:
            sink.ended()

    def _lose(self, reason: str, garbage: bool) -> None:
        sink = self._sink
        self.close()
        if sink is not None:
            sink.lost(reason, garbage)


class Pool:
    """Idle connections by endpoint, newest first out. Bounded; stale ones are left to the other end's closing."""

    def __init__(self) -> None:
        self._idle: dict[Endpoint, deque[Upstream]] = {}
        self._open: set[Upstream] = set()
        self._watched: set[Watched] = set()

    def watch(self, watched: Watched) -> None:
        """Tell it when its deadline has passed; one sweep for all is cheaper than a timer for each."""
        self._watched.add(watched)

    def unwatch(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def take(self, endpoint: Endpoint) -> Upstream | None:
        """An idle connection that is likely still good; None where there is none."""
        idle = self._idle.get(endpoint)
        while idle:
            upstream = idle.pop()
            if upstream.is_open and time.monotonic() - upstream.idle_since < _IDLE_S_MAX:
                return upstream
            upstream.close()
        return None

    async def open(self, endpoint: Endpoint) -> Upstream:
        """A fresh connection. OSError (TimeoutError among them) where it can't be had."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S_MAX):
            if endpoint.path.startswith("/proc/"):
                # In a box's own view of files: what is laid there from inside may be a link to somebody else's socket.
                descriptor = os.open(endpoint.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    leads = f"/proc/self/fd/{descriptor}"
                    _, upstream = await loop.create_unix_connection(lambda: Upstream(self, endpoint), leads)
                finally:
                    os.close(descriptor)
            elif endpoint.path:
                _, upstream = await loop.create_unix_connection(lambda: Upstream(self, endpoint), endpoint.path)
            else:
                context = _tls_context() if endpoint.tls else None
                _, upstream = await loop.create_connection(
                    lambda: Upstream(self, endpoint), endpoint.host, endpoint.port, ssl=context
                )
        self._open.add(upstream)
        return upstream

    def put(self, upstream: Upstream) -> None:
        if upstream.endpoint.once:
            upstream.close()
            return
        upstream.idle_since = time.monotonic()
        idle = self._idle.setdefault(upstream.endpoint, deque())
        idle.append(upstream)
        if len(idle) > _IDLE_CONNECTIONS_MAX:
            idle.popleft().close()

    def gone(self, upstream: Upstream) -> None:
        self._open.discard(upstream)
        idle = self._idle.get(upstream.endpoint)
        if idle is not None and upstream in idle:
            idle.remove(upstream)
            if not idle:
                del self._idle[upstream.endpoint]

    def drop(self, endpoint: Endpoint) -> None:
        """Close every idle connection there."""
        for upstream in list(self._idle.pop(endpoint, ())):
            upstream.close()

    def sweep(self) -> None:
        """Close what has been idle too long, and tell those whose time is up."""
        now = time.monotonic()
        for watched in [watched for watched in self._watched if now >= watched.deadline]:
            watched.late()
        for idle in list(self._idle.values()):
            while idle and now - idle[0].idle_since >= _IDLE_S_MAX:
                idle.popleft().close()

    def close(self) -> None:
        for upstream in list(self._open):
            upstream.close()
        self._idle.clear()


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()
