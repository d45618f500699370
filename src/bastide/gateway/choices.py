"""Several answers in one: llama.cpp counts each choice apart, so the gateway sums them, input once per prompt.

Owns the merged usage of a stream, and gathering a stream into a whole answer where the client asked for no stream.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bastide.domain.ledger import Tokens
from bastide.gateway.calls import Call
from bastide.gateway.counting import EventCutter, Garbage, PromptProgress, Timings

_encode = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]"


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    timings: Timings | None = None
    prompt_progress: PromptProgress | None = None


_event = msgspec.json.Decoder(_Event).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def usage_object(tokens: Tokens) -> dict[str, Any]:
    return {
        "completion_tokens": tokens.output_tokens,
        "prompt_tokens": tokens.input_tokens,
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
        "prompt_tokens_details": {"cached_tokens": tokens.cached_input_tokens},
    }


class ChoicesMeter:
    """A stream of several choices or prompts: counts each by its index, and gives one usage for all of them."""

    def __init__(self, call: Call) -> None:
        self._cutter = EventCutter()
        self._call = call
        self._chat = call.path == "/v1/chat/completions"
        self._inputs: dict[int, tuple[int, int]] = {}  # index -> input, cached
        self._outputs: dict[int, int] = {}
        self._finished: set[int] = set()
        self._last_index = 0
        self._usage_event: dict[str, msgspec.Raw] = {}
        self.started = False

    def feed(self, data: bytes) -> bytes:
        block = self._cutter.cut(data)
        kept = [seen for event in block.split(b"\n\n")[:-1] if (seen := self._seen(event))]
        return b"".join(kept)

    def _seen(self, event: bytes) -> bytes:
        if event.startswith(_DONE):
            return self._last_words() + event + b"\n\n"
        if not event.startswith(b"data: {"):
            return b""
        try:
            seen, fields = _event(event[6:]), _fields(event[6:])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Garbage(f"an event of its stream can't be read: {error}") from None
        if "error" in fields:
            return event + b"\n\n"
        self._count(seen)
        if seen.prompt_progress is not None:
            return b""
        fields.pop("timings", None)
        usage = fields.pop("usage", None)
        self.started = True
        if not seen.choices:
            self._usage_event = fields  # one comes for each choice; the client gets one for all, at the end
            return b""
        if usage is not None and not self._chat and len(self._finished) == self._call.answers:
            fields["usage"] = msgspec.Raw(_encode(usage_object(self.tokens())))
        return b"data: " + _encode(fields) + b"\n\n"

    def _count(self, seen: _Event) -> None:
        # A usage event names no choice: it follows the end of the one it belongs to.
        index = self._last_index = seen.choices[0].index if seen.choices else self._last_index
        if seen.prompt_progress is not None:
            self._inputs[index] = (seen.prompt_progress.total, seen.prompt_progress.cache)
        elif seen.timings is not None:
            timings = seen.timings
            self._inputs[index] = (timings.cache_n + timings.prompt_n, timings.cache_n)
            self._outputs[index] = max(self._outputs.get(index, 0), timings.predicted_n)
        if seen.choices and seen.choices[0].finish_reason is not None:
            self._finished.add(index)

    def _last_words(self) -> bytes:
        if not (self._chat and self._call.wants_usage and self._usage_event):
            return b""
        self._usage_event["choices"] = msgspec.Raw(b"[]")
        self._usage_event["usage"] = msgspec.Raw(_encode(usage_object(self.tokens())))
        return b"data: " + _encode(self._usage_event) + b"\n\n"

    def rest(self) -> bytes:
        return self._cutter.rest()

    def tokens(self) -> Tokens:
        inputs = cached = 0
        for prompt in range(self._call.prompts):
            indices = range(prompt * self._call.choices, (prompt + 1) * self._call.choices)
            # The choices of one prompt share its processing; the first that tells stands for all.
            told = next((self._inputs[index] for index in indices if index in self._inputs), (0, 0))
            inputs, cached = inputs + told[0], cached + min(told)
        return Tokens(inputs, cached, sum(self._outputs.values()))


class Gatherer:
    """Makes the whole answer out of the stream of several choices."""

    def __init__(self, call: Call) -> None:
        self.meter = ChoicesMeter(call)
        self._chat = call.path == "/v1/chat/completions"
        self._choices: dict[int, dict[str, Any]] = {}
        self._frame: dict[str, Any] = {}

    def feed(self, data: bytes) -> None:
        for event in self.meter.feed(data).split(b"\n\n"):
            if event.startswith(b"data: {"):
                self._gather(msgspec.json.decode(event[6:]))

    def _gather(self, event: dict[str, Any]) -> None:
        if "error" in event:
            raise Garbage(str(event["error"])[:300])
        self._frame.update({name: value for name, value in event.items() if name not in ("choices", "usage")})
        for part in event["choices"]:
            choice = self._choices.setdefault(part["index"], {"index": part["index"], "finish_reason": None})
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            if self._chat:
                _add(choice.setdefault("message", {"role": "assistant", "content": None}), part.get("delta") or {})
            else:
                choice["text"] = choice.get("text", "") + (part.get("text") or "")
            if part.get("logprobs"):
                _add(choice.setdefault("logprobs", {}), part["logprobs"])

    def answer(self) -> bytes:
        """The whole answer as JSON; its usage counts every choice."""
        self._frame["object"] = "chat.completion" if self._chat else "text_completion"
        self._frame["choices"] = [self._choices[index] for index in sorted(self._choices)]
        for choice in self._frame["choices"]:
            for tool in choice.get("message", {}).get("tool_calls", ()):
                tool.pop("index", None)
        self._frame["usage"] = usage_object(self.meter.tokens())
        return _encode(self._frame)


def _add(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if value is None:
            continue
        if name == "tool_calls":
            calls = whole.setdefault(name, [])
            for call in value:
                while len(calls) <= call["index"]:
                    calls.append({"type": "function", "function": {}})
                _add_call(calls[call["index"]], call)
        elif name in ("content", "reasoning_content", "refusal"):
            whole[name] = (whole.get(name) or "") + value if isinstance(value, str) else (whole.get(name) or []) + value
        elif isinstance(value, list):
            whole[name] = (whole.get(name) or []) + value
        else:
            whole[name] = value


def _add_call(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if name == "function":
            for field, text in value.items():
                whole["function"][field] = whole["function"].get(field, "") + (text or "")
        elif value is not None:
            whole[name] = value
