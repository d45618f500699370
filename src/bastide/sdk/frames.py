"""A streamed answer's frames, read from HTTP: see bastide.inside.wire for their shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import urllib3

from bastide.domain.errors import InvalidRequest, Unavailable
from bastide.inside import wire

FRAMES = "application/vnd.bastide.frames"


def frames(response: urllib3.BaseHTTPResponse) -> Iterator[tuple[int, bytes]]:
    """(kind, payload) until the last. Raises Unavailable where the answer breaks off."""
    rest = b""
    last = (wire.EXIT, wire.END, wire.ERROR)
    try:
        while True:
            while len(rest) >= wire.HEAD.size:
                kind, length = wire.HEAD.unpack_from(rest)
                end = wire.HEAD.size + length
                if len(rest) < end:
                    break
                yield kind, rest[wire.HEAD.size : end]
                rest = rest[end:]
                if kind in last:
                    return
            data = response.read1()
            if not data:
                return
            rest += data
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(f"the sandbox's answer broke off: {error}") from None
    finally:
        response.close()


Take = Callable[[str], None]


class Gatherer:
    """Output as text, told piece by piece to whoever wants it as it comes, and kept. `on_bytes`: (frame kind, bytes) as they are."""

    def __init__(
        self,
        on_stdout: Take | None,
        on_stderr: Take | None,
        on_result: Callable[[Any], None] | None = None,
        on_bytes: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self._tell = {wire.OUTPUT: on_stdout, wire.ERRORS: on_stderr}
        self._on_result, self._on_bytes = on_result, on_bytes
        self.kept = {wire.OUTPUT: bytearray(), wire.ERRORS: bytearray()}
        self.results: list[Any] = []

    def run(self, source: Iterator[tuple[int, bytes]]) -> dict[str, Any]:
        """Everything up to the end, which is returned. Raises what went wrong inside."""
        import codecs

        decoders = {kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in self.kept}
        for kind, payload in source:
            if kind in self.kept and self._on_bytes is not None:
                self._on_bytes(kind, payload)
            elif kind in self.kept:
                self.kept[kind] += payload
                tell = self._tell[kind]
                if tell is not None and (text := decoders[kind].decode(payload)):
                    tell(text)
            elif kind == wire.ANSWER:
                self.results.append(json.loads(payload))
                if self._on_result is not None:
                    self._on_result(self.results[-1])
            elif kind == wire.ERROR:
                told = json.loads(payload)
                raise InvalidRequest(f"in the sandbox: {told.get('error')}: {told.get('message')}")
            elif kind in (wire.EXIT, wire.END):
                end: dict[str, Any] = json.loads(payload) if payload else {}
                return end
        raise Unavailable("the sandbox went away before it had answered")

    def text(self, kind: int) -> str:
        return self.kept[kind].decode(errors="replace")
