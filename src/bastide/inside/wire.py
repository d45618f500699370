"""The line between a box's agent and its host: one JSON line that asks, then frames both ways, one question a connection.

A frame is a type byte, a length of four bytes and that many bytes. Standard library only, and few modules of it: this is
imported while a user waits.
"""

from __future__ import annotations

from _struct import Struct

from .quickjson import dumps, loads

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

    from .quick import Socket

HEAD = Struct(">BI")
FRAME_BYTES_MAX = 1 << 20
STILL_HERE_MS = 1000  # gVisor tells no hanging up while there is something to be read
LINE_BYTES_MAX = 1 << 20
# From the box: standard output, standard error, how it ended, an answer, an error, content, the end of content, and
# nothing at all: said now and then while we do not listen, for only so is it found out that the host has gone.
OUTPUT, ERRORS, EXIT, ANSWER, ERROR, DATA, END, STILL_HERE = b"oexjEdzh"
# To the box: standard input, its end, a signal, a window size. Content and its end go both ways.
INPUT, INPUT_END, SIGNAL, WINDOW = b"icsw"


class Broken(Exception):
    """The other end is gone, or said something that is no frame."""


def framed(kind: int, payload: bytes | memoryview = b"") -> bytes:
    return HEAD.pack(kind, len(payload)) + bytes(payload)


def send_framed(line: Socket, frames: bytes | bytearray) -> None:
    """Whole, however long the other end takes. Raises Broken where it has gone."""
    try:
        line.sendall(frames)
    except OSError as error:
        raise Broken(str(error)) from None


def send(line: Socket, kind: int, payload: bytes | memoryview = b"") -> None:
    send_framed(line, framed(kind, payload))


def send_json(line: Socket, kind: int, value: Any) -> None:
    send(line, kind, dumps(value).encode())


class Reader:
    """Frames of one connection, blocking."""

    def __init__(self, line: Socket) -> None:
        self._line, self._rest = line, b""

    def question(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_BYTES_MAX:
                raise Broken("the question is too long")
            self._more()
        first, _, self._rest = self._rest.partition(b"\n")
        try:
            asked = loads(first.decode())
        except ValueError:
            raise Broken("the question is no JSON") from None
        if not isinstance(asked, dict):
            raise Broken("the question is no object")
        return asked

    def frame(self) -> tuple[int, bytes]:
        while (whole := self.whole()) is None:
            self._more()
        return whole

    def whole(self) -> tuple[int, bytes] | None:
        """A frame that has arrived already, without waiting."""
        if len(self._rest) < HEAD.size:
            return None
        kind, length = HEAD.unpack_from(self._rest)
        if length > FRAME_BYTES_MAX:
            raise Broken("a frame is too long")
        if len(self._rest) < HEAD.size + length:
            return None
        payload = self._rest[HEAD.size : HEAD.size + length]
        self._rest = self._rest[HEAD.size + length :]
        return kind, payload

    def rest(self) -> bytes:
        """What was read beyond the question: for a connection that is passed on."""
        rest, self._rest = self._rest, b""
        return rest

    def _more(self) -> None:
        try:
            data = self._line.recv(1 << 16)
        except OSError as error:
            raise Broken(str(error)) from None
        if not data:
            raise Broken("the other end has gone")
        self._rest += data

    def more(self) -> None:
        """Read once what is there (blocks where nothing is). Raises Broken where the other end has gone."""
        self._more()
