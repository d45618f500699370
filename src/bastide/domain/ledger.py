"""The ledger's nouns: what was reserved, what was counted, what was settled. Exact, append-only.

Owns the events a gateway worker writes to its journal and the rule that settles a reservation found open after a
crash. Costs are whole pico-units. The contract is written for users in docs/ledger.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bastide.domain.spec import Price


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one answer. `input_tokens` includes the cached ones; `output_tokens` sums all choices."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


def cost_pico(price: Price, tokens: Tokens) -> int:
    """What these tokens cost, in pico-units: cached input at its own price, the rest of the input at the full one."""
    fresh = tokens.input_tokens - tokens.cached_input_tokens
    return (
        fresh * price.input_pico_per_token
        + tokens.cached_input_tokens * price.cached_input_pico_per_token
        + tokens.output_tokens * price.output_pico_per_token
    )


class Account(StrEnum):
    """Who the tokens were for. Users + system = what the engines counted."""

    USER = "user"
    SYSTEM = "system"  # canaries, retries after an engine died, tokens made between a hang-up and the engine's stop


class Outcome(StrEnum):
    COMPLETE = "complete"
    HUNG_UP = "hung_up"  # the client left; what was generated is billed
    FAILED = "failed"  # no token reached the client; nothing is billed
    CUT = "cut"  # the engine died after the first token; what was sent is billed
    RECOVERED = "recovered"  # settled after a crash, by the last running count


@dataclass(frozen=True, slots=True)
class Reservation:
    """Written before a request is forwarded. `event_id` is unique for ever; `reserved_pico` bounds what it can cost."""

    event_id: str
    at_s: float
    project: str
    service: str
    model: str
    key_id: str
    instance: str
    price: Price
    reserved_pico: int
    account: Account = Account.USER


@dataclass(frozen=True, slots=True)
class Progress:
    """A running count, written while an answer streams: what a crash would be settled by."""

    event_id: str
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one request; self-contained, so that it can be folded into the store without its reservation."""

    event_id: str
    at_s: float
    project: str
    service: str
    model: str
    key_id: str
    instance: str
    tokens: Tokens
    cost_pico: int
    outcome: Outcome
    account: Account = Account.USER
    first_token_s: float | None = None
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class InstanceTime:
    """Seconds one instance spent on one rung, for usage by phase and `instance_hour` prices."""

    event_id: str
    at_s: float
    project: str
    service: str
    instance: str
    phase: str
    seconds: float
    cost_pico: int = 0


@dataclass(frozen=True, slots=True)
class EngineCount:
    """What one engine process has counted since it started. `process` names it beyond doubt. Written when the instance
    is idle. `settled`: no gateway held it, so every settlement it covers was written before, and what is missing from the
    ledger can be booked on the system account.
    """

    event_id: str
    at_s: float
    project: str
    service: str
    instance: str
    process: str
    tokens: Tokens
    settled: bool = False


def recover(reservation: Reservation, last: Progress | None, at_s: float) -> Settlement:
    """Settle a reservation whose worker died: by its last running count; by nothing where it had none.

    The rule favours the user: at most the tokens made since the last running count go unbilled, and those are booked
    on the system account when the engine's own counters are compared.
    """
    tokens = last.tokens if last is not None else Tokens()
    return Settlement(
        event_id=reservation.event_id,
        at_s=at_s,
        project=reservation.project,
        service=reservation.service,
        model=reservation.model,
        key_id=reservation.key_id,
        instance=reservation.instance,
        tokens=tokens,
        cost_pico=cost_pico(reservation.price, tokens),
        outcome=Outcome.RECOVERED,
        account=reservation.account,
    )
