"""What the first bytes of a connection say of where it wants to go: TLS server names, HTTP hosts. Pure."""

from __future__ import annotations

HELLO_BYTES_MAX = 16384


class Incomplete(Exception):
    """More bytes are needed."""


def is_tls(data: bytes) -> bool:
    """Whether this begins as a TLS handshake does. Raises Incomplete."""
    if not data:
        raise Incomplete
    return data[0] == 0x16


def server_name(data: bytes) -> str | None:
    """The server name of a TLS ClientHello; None where it has none, or is none. Raises Incomplete.

    Source: RFC 8446 section 4.1.2, RFC 6066 section 3. The hello may be spread over several records.
    """
    hello, at = b"", 0
    while True:
        if len(data) < at + 5:
            raise Incomplete
        kind, length = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind != 0x16 or length == 0:
            return None
        if len(data) < at + 5 + length:
            if len(data) > HELLO_BYTES_MAX:
                return None
            raise Incomplete
        hello += data[at + 5 : at + 5 + length]
        at += 5 + length
        if len(hello) >= 4:
            needed = 4 + int.from_bytes(hello[1:4], "big")
            if hello[0] != 1 or needed > HELLO_BYTES_MAX:
                return None
            if len(hello) >= needed:
                return _name(hello[4:needed])


def _name(body: bytes) -> str | None:
    try:
        at = 2 + 32
        at += 1 + body[at]
        at += 2 + int.from_bytes(body[at : at + 2], "big")
        at += 1 + body[at]
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        at += 2
        while at + 4 <= end:
            kind, length = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
            at += 4
            if kind == 0:
                size = int.from_bytes(body[at + 3 : at + 5], "big")
                return body[at + 5 : at + 5 + size].decode("ascii").lower().rstrip(".") or None
            at += length
    except (IndexError, UnicodeDecodeError):
        return None
    return None


def is_http(data: bytes) -> bool:
    """Whether this begins as a plain HTTP request does."""
    word, space, _ = data[:16].partition(b" ")
    return bool(space) and word.isalpha() and word.isupper()


def http_host(head: bytes) -> str | None:
    """The host of a request's head, its port left out; None where there is none, or more than one."""
    hosts = [line.split(b":", 1)[1].strip() for line in head.split(b"\r\n")[1:] if line.lower().startswith(b"host:")]
    if len(hosts) != 1:
        return None
    text = hosts[0].decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")
