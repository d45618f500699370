"""A request as it came over the wire, and what can be wrong with its arrival. Plain data; it reads no sockets."""

from __future__ import annotations

import itertools
import os
from typing import Any, Protocol

from bastide.domain.errors import BastideError, InvalidRequest
from bastide.domain.keys import KeyGrant
from bastide.gateway import wire
from bastide.gateway.feed import Feed

_LIFE = os.urandom(8).hex().encode()  # drawn once: a counter behind it is as unique, and far cheaper
_numbers = itertools.count(1)


class RequestTimeout(InvalidRequest):
    code, status = "request_timeout", 408


class HeadTooLarge(InvalidRequest):
    code, status = "request_header_fields_too_large", 431


class Request:
    """One request as it came. `headers` have names in lower case; the body is whole."""

    __slots__ = (
        "arrived_at",
        "body",
        "caller",
        "closes",
        "door",
        "feed",
        "headers",
        "identity",
        "is_old",
        "is_passed_on",
        "method",
        "path",
        "refusal",
        "target",
        "upgrades",
    )

    def __init__(self) -> None:
        self.identity = b"req_%b%x" % (_LIFE, next(_numbers))
        self.method = ""
        self.target = b""
        self.path = ""
        self.headers: wire.Headers = []
        self.body = b""
        self.closes = False
        self.is_old = False  # HTTP/1.0: no chunked answers
        self.arrived_at = 0.0
        self.refusal: BastideError | None = None
        self.caller: KeyGrant | None = None  # whose key it carries, once screened
        self.door: Any = None  # the app it is for (gateway/apps.py), once screened
        self.is_passed_on = False  # unread: set while it is screened
        self.feed: Feed | None = None  # its body as it comes, where it is passed on unread; `body` stays empty then
        self.upgrades = False  # it asks for another protocol on this line

    def header(self, name: bytes) -> bytes | None:
        for found, value in self.headers:
            if found == name:
                return value
        return None


class Waiting(Protocol):
    """Who is told when the client takes no more for now, and when it does again."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


def path_of(target: bytes) -> str:
    """The path of a request target in origin or absolute form, its query left out."""
    if target.startswith(b"http://") or target.startswith(b"https://"):
        _, _, rest = target.partition(b"://")
        target = b"/" + rest.partition(b"/")[2]
    return target.partition(b"?")[0].decode("latin-1")
