"""Counting tokens as answers pass by, and taking out of the stream what only the gateway asked for.

Owns the meaning of the engines' counts. A meter is fed raw pieces of an answer and gives back what the client shall see.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from bastide.domain.ledger import Tokens
from bastide.gateway.calls import Call

_TIMINGS = b',"timings":{'
_PROGRESS = b'"prompt_progress":'
_TAIL_BYTES_MAX = 16 * 2**20


class Garbage(Exception):
    """The answer breaks its own format, or never ends an event."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """OpenAI's usage in any of its shapes."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None

    def tokens(self) -> Tokens:
        details = self.prompt_tokens_details or self.input_tokens_details
        given = self.prompt_tokens or self.input_tokens or 0
        cached = (details.cached_tokens or 0) if details is not None else 0
        return Tokens(given, min(cached, given), self.completion_tokens or self.output_tokens or 0)


class Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class PromptProgress(msgspec.Struct):
    total: int = 0
    cache: int = 0
    processed: int = 0


class _Whole(msgspec.Struct):
    usage: Usage | None = None


class _WrappedUsage(msgspec.Struct):
    usage: Usage | None = None
    response: _Whole | None = None
    choices: list[msgspec.Raw] | None = None


_whole = msgspec.json.Decoder(_Whole).decode
_timings = msgspec.json.Decoder(Timings).decode
_outside_event = msgspec.json.Decoder(_WrappedUsage).decode


class Meter(Protocol):
    """Fed an answer's body in pieces; `started` once anything of the answer itself has come."""

    started: bool

    def feed(self, data: bytes) -> bytes:
        """What of it goes to the client now: whole events. Raises Garbage."""
        ...

    def rest(self) -> bytes:
        """What was left over at the end."""
        ...

    def tokens(self) -> Tokens: ...


def whole_answer_tokens(body: bytes) -> Tokens:
    """The tokens of an answer that was not streamed. Raises Garbage where it is no JSON object."""
    try:
        usage = _whole(body).usage
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Garbage(f"its answer can't be read: {error}") from None
    return usage.tokens() if usage is not None else Tokens()


class EventCutter:
    """Cuts a byte stream after its last whole event."""

    def __init__(self) -> None:
        self._tail = b""

    def cut(self, data: bytes) -> bytes:
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if data.endswith(b"\n\n"):
            return data
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4 if b"\r" in data else 0)
        if end < 2:
            end = 0
        self._tail = data[end:]
        if len(self._tail) > _TAIL_BYTES_MAX:
            raise Garbage("an event of its stream does not end")
        return data[:end]

    def rest(self) -> bytes:
        rest, self._tail = self._tail, b""
        return rest


class EngineMeter:
    """One answer of llama.cpp, streamed with counts in every event. The counts of the last event seen are the truth."""

    def __init__(self, call: Call) -> None:
        self._cutter = EventCutter()
        self._keep_counts = call.wants_counts
        self._last = b""
        self._before = Tokens()
        self._events = 0
        self.started = False

    def feed(self, data: bytes) -> bytes:
        block = self._cutter.cut(data)
        at = block.find(_TIMINGS)
        if at >= 0:
            return self._taken_out(block, at)
        if block and not self.started:
            self.started = block.startswith((b"data:", b"event:"))
        self._events += block.count(b"\n\n")
        return block

    def _taken_out(self, block: bytes, at: int) -> bytes:
        if not self.started and _PROGRESS in block:
            block = self._without_progress(block)
            at = block.find(_TIMINGS)
        # Quotes inside strings are escaped, so these bytes can only be the member itself; it holds numbers alone.
        while at >= 0:
            end = block.find(b"}", at)
            self._last = block[at + len(_TIMINGS) - 1 : end + 1]
            if self._keep_counts:
                at = block.find(_TIMINGS, end)
            else:
                block = block[:at] + block[end + 1 :]
                at = block.find(_TIMINGS, at)
        if block:
            self.started = True
        return block

    def _without_progress(self, block: bytes) -> bytes:
        kept = []
        for event in block.split(b"\n\n")[:-1]:
            at = event.find(_PROGRESS)
            if at < 0:
                kept.append(event + b"\n\n")
                continue
            done = msgspec.json.decode(event[at + len(_PROGRESS) : event.find(b"}", at) + 1], type=PromptProgress)
            self._before = Tokens(done.total, min(done.cache, done.total), 0)
            if self._keep_counts:
                kept.append(event + b"\n\n")
        return b"".join(kept)

    def rest(self) -> bytes:
        return self._cutter.rest()

    def tokens(self) -> Tokens:
        if not self._last:
            # No count of the engine came at all: every event was about one token.
            return self._before if self._before.input_tokens else Tokens(0, 0, self._events)
        try:
            last = _timings(self._last)
        except msgspec.MsgspecError:
            return self._before
        return Tokens(last.cache_n + last.prompt_n, last.cache_n, last.predicted_n)


class OutsideMeter:
    """One streamed answer of an outside server, asked for its usage. Without any, events are counted as tokens."""

    def __init__(self, call: Call) -> None:
        self._cutter = EventCutter()
        self._wants_usage = call.wants_usage or call.path == "/v1/responses"
        self._usage: Usage | None = None
        self._events = 0
        self.started = False

    def feed(self, data: bytes) -> bytes:
        block = self._cutter.cut(data)
        if b'"usage"' not in block:
            self._events += block.count(b"data:")
            self.started = self.started or b"data:" in block
            return block
        kept = []
        for event in block.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
            if b'"usage"' not in event or self._keeps(event):
                kept.append(event + b"\n\n")
                self._events += 1
                self.started = True
        return b"".join(kept)

    def _keeps(self, event: bytes) -> bool:
        _, found, data = event.partition(b"data:")
        if not found:
            return True
        try:
            seen = _outside_event(data)
        except (msgspec.MsgspecError, RecursionError):
            return True
        usage = seen.usage or (seen.response.usage if seen.response is not None else None)
        if usage is None:
            return True
        self._usage = usage
        return self._wants_usage or seen.choices != []

    def rest(self) -> bytes:
        return self._cutter.rest()

    def tokens(self) -> Tokens:
        return self._usage.tokens() if self._usage is not None else Tokens(0, 0, self._events)
