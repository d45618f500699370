"""Connections of a box that are passed on: to its app, to a port, out by the host's proxy, to the gateway. Reads nothing of them."""

from __future__ import annotations

import contextlib
import socket
import threading

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from collections.abc import Callable

SPLICE_BYTES = 1 << 16
PROXY_PORT = 3128
PROXY_SOCKET = "/run/bastide/egress/proxy"
PROXY_NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")


def listening(port: int) -> socket.socket:
    """A port of the box's own loopback."""
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def proxy_environment(environment: dict[str, str]) -> None:
    """What programs inside take for their proxy: every connection goes to the host's, which decides."""
    for name in PROXY_NAMES:
        environment.setdefault(name, f"http://127.0.0.1:{PROXY_PORT}")
    for name in ("NO_PROXY", "no_proxy"):
        environment.setdefault(name, "localhost,127.0.0.1,::1")


def to_port(port: int) -> socket.socket:
    try:
        return socket.create_connection(("127.0.0.1", port), 10.0)
    except ConnectionRefusedError:
        six = socket.socket(socket.AF_INET6)
        try:
            six.connect(("::1", port))
        except OSError:
            six.close()
            raise ConnectionRefusedError(f"nothing listens on port {port}") from None
        return six


class Passage:
    """`open`: every socket that is open, so that all can be let go of at once."""

    def __init__(self) -> None:
        self.open: set[socket.socket] = set()

    def to_proxy(self, line: socket.socket) -> None:
        upstream = socket.socket(socket.AF_UNIX)
        try:
            upstream.connect(PROXY_SOCKET)
        except OSError:
            upstream.close()
            said = b"nothing may leave this box; its owner can allow it with egress rules\n"
            head = b"HTTP/1.1 403 No egress\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % len(said)
            line.sendall(head + b"X-Bastide-Egress: refused\r\nConnection: close\r\n\r\n" + said)
            return
        self.splice(line, upstream, b"")

    def to_door(self, path: str) -> Callable[[socket.socket], None]:
        """To one socket outside: the gateway, which asks for a key."""

        def serve(line: socket.socket) -> None:
            upstream = socket.socket(socket.AF_UNIX)
            try:
                upstream.connect(path)
            except OSError:
                upstream.close()
                line.sendall(b"HTTP/1.1 503 Bastide is away\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            self.splice(line, upstream, b"")

        return serve

    def splice(self, one: socket.socket, other: socket.socket, first: bytes) -> None:
        """Bytes both ways until both ends have said all they had to say."""
        self.open.add(other)
        try:
            other.settimeout(None)
            if other.family != socket.AF_UNIX:
                other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if first:
                other.sendall(first)
            back = threading.Thread(target=pour, args=(other, one), daemon=True)
            back.start()
            pour(one, other)
            back.join()
        finally:
            self.open.discard(other)
            other.close()


def pour(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(SPLICE_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
