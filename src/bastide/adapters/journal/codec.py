"""Journal events as JSON lines, `[kind, fields...]`. Owns the line format; both journal adapters share it.

Fields are only ever added at the end, so that an older line stays readable.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bastide.domain.ledger import EngineCount, InstanceTime, Progress, Reservation, Settlement, Tokens
from bastide.domain.spec import Price
from bastide.ports.journal import JournalEvent

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Any]).decode


def encode_line(event: JournalEvent) -> bytes:
    """One event as one line, its newline included."""
    if isinstance(event, Reservation):
        price = event.price
        prices = (
            price.input_pico_per_token,
            price.cached_input_pico_per_token,
            price.output_pico_per_token,
            price.instance_pico_per_hour,
        )
        fields: tuple[Any, ...] = (
            "reservation", event.event_id, event.at_s, event.project, event.service, event.model, event.key_id,
            event.instance, prices, event.reserved_pico, event.account,
        )  # fmt: skip
    elif isinstance(event, Progress):
        fields = ("progress", event.event_id, _counts(event.tokens))
    elif isinstance(event, Settlement):
        fields = (
            "settlement", event.event_id, event.at_s, event.project, event.service, event.model, event.key_id,
            event.instance, _counts(event.tokens), event.cost_pico, event.outcome, event.account,
            event.first_token_s, event.duration_s,
        )  # fmt: skip
    elif isinstance(event, EngineCount):
        fields = (
            "count", event.event_id, event.at_s, event.project, event.service, event.instance, event.process,
            _counts(event.tokens), event.settled,
        )  # fmt: skip
    else:
        fields = (
            "time", event.event_id, event.at_s, event.project, event.service, event.instance, event.phase,
            event.seconds, event.cost_pico,
        )  # fmt: skip
    return _encode(fields) + b"\n"


def decode_line(line: bytes) -> JournalEvent | None:
    """The event in a line; None where the line is torn or not ours."""
    try:
        kind, *fields = _decode(line)
        if kind == "reservation":
            fields[7] = Price(*fields[7])
            return msgspec.convert(_named(Reservation, fields), Reservation)
        if kind == "progress":
            return Progress(fields[0], Tokens(*fields[1]))
        if kind == "count":
            fields[6] = Tokens(*fields[6])
            return msgspec.convert(_named(EngineCount, fields), EngineCount)
        if kind == "settlement":
            fields[7] = Tokens(*fields[7])
            return msgspec.convert(_named(Settlement, fields), Settlement)
        if kind == "time":
            return msgspec.convert(_named(InstanceTime, fields), InstanceTime)
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError):
        return None
    return None


def _counts(tokens: Tokens) -> tuple[int, int, int]:
    return (tokens.input_tokens, tokens.cached_input_tokens, tokens.output_tokens)


def _named(kind: type[Any], fields: list[Any]) -> dict[str, Any]:
    return dict(zip(kind.__dataclass_fields__, fields, strict=False))
