"""HTTP/1.1 as the gateway writes it, and what RFC 9112 forbids that the parser would let through.

Owns response heads and the strictness of request heads; pure functions of bytes.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from bastide.domain.errors import BastideError, InvalidRequest

_encode = msgspec.json.Encoder().encode
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON = b"content-type: application/json\r\n"
STREAM_HEAD = b"content-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
_FORBIDDEN_IN_VALUES = bytes(sorted(frozenset(range(32)) - {9} | {127}))

Headers = list[tuple[bytes, bytes]]


def whole(status: int, headers: bytes, body: bytes, closes: bool, bodyless: bool = False) -> bytes:
    """A whole answer. `headers` are finished lines; `bodyless` for HEAD: the length is told, nothing follows."""
    end = b"connection: close\r\n\r\n" if closes else b"\r\n"
    line = STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n".encode()
    return b"%b%bcontent-length: %d\r\n%b%b" % (line, headers, len(body), end, b"" if bodyless else body)


def error_parts(error: BastideError) -> tuple[bytes, bytes]:
    """Header lines and body of an error, in OpenAI's shape."""
    headers = JSON
    if error.retry_after_s is not None:
        headers += b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
    if error.status == 401:
        headers += b"www-authenticate: Bearer\r\n"
    return headers, _encode(error.wire())


def error_event(error: BastideError) -> bytes:
    """An error in a stream that has begun; OpenAI's clients raise it."""
    return b"data: " + _encode(error.wire()) + b"\n\n"


def comment(text: str) -> bytes:
    """An SSE comment: clients skip it, people see it."""
    return f": {text}\n\n".encode()


def as_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def check_head(version: str, headers: Headers) -> tuple[int, bool, bytes | None]:
    """Refuse what makes two readers disagree about where a request ends or whom it is for. Names are in lower case.

    Returns the length the body is said to have, whether it comes chunked, and what the client expects.
    """
    hosts = lengths = encodings = length = 0
    expect = None
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
            if not value.isdigit():
                raise InvalidRequest("the Content-Length header is not a number")
            length = int(value[:19])
        elif name == b"transfer-encoding":
            encodings += 1
            if value.lower() != b"chunked":
                raise InvalidRequest("the only Transfer-Encoding understood is chunked")
        elif name == b"expect":
            expect = value
    values = b"".join([value for _, value in headers])
    if len(values.translate(None, _FORBIDDEN_IN_VALUES)) != len(values):
        raise InvalidRequest("a header holds a control character")
    if lengths > 1 or encodings > 1 or (lengths and encodings):
        raise InvalidRequest("the request says more than once how long its body is")
    if encodings and version == "1.0":
        raise InvalidRequest("HTTP/1.0 has no Transfer-Encoding")
    if hosts > 1 or (hosts == 0 and version != "1.0"):
        raise InvalidRequest("the request needs exactly one Host header")
    return length, encodings > 0, expect
