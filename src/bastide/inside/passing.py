"""Connections of a box that are passed on: to its app, to a port, out by the host's proxy, to the gateway. Reads nothing of them."""

from __future__ import annotations

import _socket

from .quick import Gate, Socket, hang_up, start_thread, unix

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from collections.abc import Callable

SPLICE_BYTES = 1 << 16
CONNECT_S_MAX = 10.0
PROXY_PORT = 3128
PROXY_SOCKET = "/run/bastide/egress/proxy"
PROXY_NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")


def listening(port: int) -> Socket:
    """A port of the box's own loopback."""
    listener = Socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def proxy_environment(environment: dict[str, str]) -> None:
    """What programs inside take for their proxy: every connection goes to the host's, which decides."""
    for name in PROXY_NAMES:
        environment.setdefault(name, f"http://127.0.0.1:{PROXY_PORT}")
    for name in ("NO_PROXY", "no_proxy"):
        environment.setdefault(name, "localhost,127.0.0.1,::1")


def to_port(port: int) -> Socket:
    """Raises OSError where nothing listens there."""
    try:
        return _connected(_socket.AF_INET, "127.0.0.1", port)
    except ConnectionRefusedError:
        try:
            return _connected(_socket.AF_INET6, "::1", port)
        except OSError:
            raise ConnectionRefusedError(f"nothing listens on port {port}") from None


def _connected(family: int, address: str, port: int) -> Socket:
    upstream = Socket(family, _socket.SOCK_STREAM)
    try:
        upstream.settimeout(CONNECT_S_MAX)
        upstream.connect((address, port))
    except BaseException:
        upstream.close()
        raise
    return upstream


class Passage:
    """`open`: every socket that is open, so that all can be let go of at once."""

    def __init__(self) -> None:
        self.open: set[Socket] = set()

    def to_proxy(self, line: Socket) -> None:
        upstream = unix()
        try:
            upstream.connect(PROXY_SOCKET)
        except OSError:
            upstream.close()
            said = b"nothing may leave this box; its owner can allow it with egress rules\n"
            head = b"HTTP/1.1 403 No egress\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % len(said)
            line.sendall(head + b"X-Bastide-Egress: refused\r\nConnection: close\r\n\r\n" + said)
            return
        self.splice(line, upstream, b"")

    def to_door(self, path: str) -> Callable[[Socket], None]:
        """To one socket outside: the gateway, which asks for a key."""

        def serve(line: Socket) -> None:
            upstream = unix()
            try:
                upstream.connect(path)
            except OSError:
                upstream.close()
                line.sendall(b"HTTP/1.1 503 Bastide is away\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            self.splice(line, upstream, b"")

        return serve

    def splice(self, one: Socket, other: Socket, first: bytes) -> None:
        """Bytes both ways until both ends have said all they had to say."""
        self.open.add(other)
        try:
            other.settimeout(None)
            if other.family != _socket.AF_UNIX:
                other.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            if first:
                other.sendall(first)
            over = Gate()
            start_thread(pour, other, one, over)
            pour(one, other)
            over.wait()
        finally:
            self.open.discard(other)
            other.close()


def pour(source: Socket, target: Socket, over: Gate | None = None) -> None:
    try:
        while data := source.recv(SPLICE_BYTES):
            target.sendall(data)
        target.shutdown(_socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            hang_up(end)
    finally:
        if over is not None:
            over.set()
