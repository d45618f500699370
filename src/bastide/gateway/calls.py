"""What a request to a model asks for: the few fields the gateway needs, checked once; the rest is let through as it is.

Owns reading and rewriting request bodies. It never keeps or logs what they say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from bastide.domain.errors import InvalidRequest

CHOICES_MAX = 128
TOKENS_MAX = 2**31 - 1
# Asked of llama.cpp, which then counts exactly in every event; taken out again before the client sees it.
_COUNTING = b'{"timings_per_token":true,"return_progress":true,'
_COUNTING_RESPONSES = b'{"timings_per_token":true,'


_NULL = msgspec.Raw(b"null")  # msgspec keeps a raw value out of unions, so absence is a value too


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    n_cmpl: int | None = None  # llama.cpp's own name for n, and for max_tokens below: they bound the cost as well
    best_of: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n_predict: int | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None


class _ChatBody(_Body):
    messages: list[msgspec.Raw] = []
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = _NULL


class _CompletionBody(_Body):
    prompt: str | list[str | int | list[int]] | None = None


class _EmbeddingBody(_Body):
    input: str | list[str | int | list[int]] | None = None


class _ResponseBody(_Body):
    input: msgspec.Raw = _NULL
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = _NULL


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "/v1/chat/completions": msgspec.json.Decoder(_ChatBody),
    "/v1/completions": msgspec.json.Decoder(_CompletionBody),
    "/v1/embeddings": msgspec.json.Decoder(_EmbeddingBody),
    "/v1/responses": msgspec.json.Decoder(_ResponseBody),
}
PATHS = frozenset(_DECODERS)
_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Call:
    """One request to a model. `prompts` > 1: a list of prompts, each answered `choices` times."""

    path: str
    model: str
    body: bytes
    streams: bool
    wants_usage: bool
    choices: int
    prompts: int
    output_tokens_max: int | None
    wants_counts: bool
    forced_tool: str | None

    @property
    def answers(self) -> int:
        return self.choices * self.prompts

    @property
    def is_embedding(self) -> bool:
        return self.path == "/v1/embeddings"


def read(path: str, body: bytes) -> Call:
    """Parse a body for one of PATHS. InvalidRequest says what is wrong and where."""
    try:
        str(body, "utf-8")
        asked = _DECODERS[path].decode(body)
    except UnicodeDecodeError:
        raise InvalidRequest("the request body is not UTF-8 text") from None
    except msgspec.ValidationError as error:
        message = str(error)
        where = message.rpartition("`$.")[2].rstrip("`") if "`$." in message else None
        raise InvalidRequest(f"the request body is not right: {message}", param=where) from None
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the request body is not JSON: {error}") from None
    choices = 1
    if asked.n is not None or asked.n_cmpl is not None or asked.best_of is not None:
        choices = max(_count("n", asked.n, CHOICES_MAX), _count("n_cmpl", asked.n_cmpl, CHOICES_MAX))
        if _count("best_of", asked.best_of, CHOICES_MAX) > choices:
            raise InvalidRequest("best_of above n is not supported; ask for n choices instead", param="best_of")
    bound = None
    for name in _BOUNDS:
        value = getattr(asked, name)
        if value is not None:
            bound = max(bound or 0, _count(name, value, TOKENS_MAX))
    prompts, forced = 1, None
    if isinstance(asked, _ChatBody):
        if not asked.messages:
            raise InvalidRequest("messages must hold at least one message", param="messages")
        forced = _forced_tool(asked.tool_choice)
    elif isinstance(asked, _CompletionBody):
        if asked.prompt is None:
            raise InvalidRequest("prompt is missing", param="prompt")
        prompts = _prompts(asked.prompt, "prompt")
    elif isinstance(asked, _EmbeddingBody):
        if asked.input is None:
            raise InvalidRequest("input is missing", param="input")
        prompts = _prompts(asked.input, "input")
    elif isinstance(asked, _ResponseBody):
        if bytes(asked.input) == b"null":
            raise InvalidRequest("input is missing", param="input")
        forced = _forced_tool(asked.tool_choice)
    return Call(
        path=path,
        model=asked.model,
        body=body,
        streams=bool(asked.stream) and path != "/v1/embeddings",
        wants_usage=asked.stream_options is not None and bool(asked.stream_options.include_usage),
        choices=choices,
        prompts=prompts,
        output_tokens_max=bound,
        wants_counts=asked.timings_per_token is not None or asked.return_progress is not None,
        forced_tool=forced,
    )


def for_engine(call: Call) -> bytes:
    """The body as llama.cpp shall get it: unchanged, but for what it would misread and what it needs to count exactly."""
    body = call.body
    gathers = not call.streams and call.answers > 1 and not call.is_embedding
    if call.forced_tool is not None or gathers:
        fields = _fields(body)
        if call.forced_tool is not None:
            _force_tool(fields, call.forced_tool)
        if gathers:
            # Its usage counts one choice only; its stream counts each. The gateway gathers the whole from the stream.
            fields["stream"] = msgspec.Raw(b"true")
            fields.pop("stream_options", None)
        body = _encode(fields)
    if (call.streams or gathers) and not call.wants_counts:
        return (_COUNTING_RESPONSES if call.path == "/v1/responses" else _COUNTING) + body.lstrip()[1:]
    return body


def for_outside(call: Call, model: str) -> bytes:
    """The body as an outside server shall get it: its own name of the model, and usage asked for in streams."""
    fields = _fields(call.body)
    fields["model"] = msgspec.Raw(_encode(model))
    if call.streams and call.path != "/v1/responses":
        options = _fields(fields["stream_options"]) if call.wants_usage else {}
        options["include_usage"] = msgspec.Raw(b"true")
        fields["stream_options"] = msgspec.Raw(_encode(options))
    return _encode(fields)


def _count(name: str, value: int | None, most: int) -> int:
    if value is None:
        return 1
    if not 1 <= value <= most:
        raise InvalidRequest(f"{name} must be between 1 and {most}, not {value}", param=name)
    return value


def _prompts(given: str | list[Any], name: str) -> int:
    if isinstance(given, str):
        return 1
    if not given:
        raise InvalidRequest(f"{name} must not be empty", param=name)
    # A list of numbers is one prompt already cut into tokens.
    return 1 if all(isinstance(item, int) for item in given) else len(given)


def _forced_tool(choice: msgspec.Raw) -> str | None:
    if not bytes(choice).startswith(b"{"):
        return None
    picked = msgspec.json.decode(choice)
    named = picked.get("function", picked) if isinstance(picked, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    return name if picked.get("type") == "function" and isinstance(name, str) else None


def _force_tool(fields: dict[str, msgspec.Raw], name: str) -> None:
    # llama.cpp reads a named tool choice silently as "auto"; "required" with that one tool alone means the same.
    tools = [tool for tool in msgspec.json.decode(fields.get("tools", _NULL)) or [] if _named(tool) == name]
    if not tools:
        raise InvalidRequest(f"tool_choice names {name!r}, which is not among the tools", param="tool_choice")
    fields["tools"] = msgspec.Raw(_encode(tools))
    fields["tool_choice"] = msgspec.Raw(b'"required"')


def _named(tool: Any) -> str | None:
    if not isinstance(tool, dict):
        return None
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, dict) else None
