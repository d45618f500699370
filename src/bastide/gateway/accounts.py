"""What each key may still do in this worker: rates, requests in flight, and its slice of the budget.

Fails closed: a budget that can't be asked for is a budget that is spent. It never spends past what control granted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bastide.domain.errors import BudgetExceeded, RateLimited, Unavailable
from bastide.domain.keys import KeyGrant, Limits, window_start_s
from bastide.domain.ledger import Tokens
from bastide.domain.units import format_money
from bastide.policy import admission, budget
from bastide.policy.admission import Bucket
from bastide.ports.link import Body, LinkLost

AskSlice = Callable[[Body], Awaitable[Body]]


class Slice:
    """What this worker was granted of one key's budget in one window, in pico-units."""

    __slots__ = ("granted", "reserved", "spent", "start_s")

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.granted = self.spent = self.reserved = 0

    @property
    def free(self) -> int:
        return self.granted - self.spent - self.reserved


class Account:
    """One key in this worker."""

    __slots__ = ("asking", "in_flight", "key_id", "requests", "slice", "tokens")

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.in_flight = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.slice = Slice(-1.0)
        self.asking = asyncio.Lock()


class Ticket:
    """One admitted request: what it took of its key's limits, given back or made exact when it is settled."""

    __slots__ = ("_accounts", "_reserved", "_slice", "account", "estimate")

    def __init__(self, accounts: Accounts, account: Account, estimate: int) -> None:
        self._accounts, self.account, self.estimate = accounts, account, estimate
        self._slice: Slice | None = None
        self._reserved = 0

    def bind(self, slice_: Slice, reserved: int) -> None:
        slice_.reserved += reserved
        self._slice, self._reserved = slice_, reserved

    def settle(self, cost_pico: int) -> None:
        """The reservation ends; what it really cost is spent."""
        if self._slice is not None:
            self._slice.reserved -= self._reserved
            self._slice.spent += cost_pico
            self._slice, self._reserved = None, 0

    def close(self, tokens: Tokens) -> None:
        """The request is over, whatever became of it."""
        if self._slice is not None:
            self.settle(0)
        account = self.account
        account.in_flight -= 1
        if account.tokens is not None:
            used = tokens.input_tokens + tokens.output_tokens
            account.tokens = admission.taken(account.tokens, used - self.estimate)
        if account.in_flight == 0 and account.tokens is None and account.requests is None and not account.slice.granted:
            self._accounts.forget(account.key_id)


class Accounts:
    def __init__(self, rank: int, count: int, ask_slice: AskSlice) -> None:
        self._rank, self._count, self._ask_slice = rank, count, ask_slice
        self._accounts: dict[str, Account] = {}

    def admit(self, grant: KeyGrant, estimate: int, now_s: float) -> Ticket:
        """Take one request of this key's rates. RateLimited says which limit, and when to come back."""
        account = self._accounts.get(grant.billed_to)
        if account is None:
            account = self._accounts[grant.billed_to] = Account(grant.billed_to)
        limits = grant.limits
        if limits.in_flight_max is not None and account.in_flight >= self._share(limits.in_flight_max):
            raise RateLimited(
                f"this key already has {account.in_flight} requests in flight (its in_flight_max); wait for one to end",
                retry_after_s=1.0,
            )
        self._take_rates(account, limits, estimate, now_s)
        account.in_flight += 1
        return Ticket(self, account, estimate)

    def _take_rates(self, account: Account, limits: Limits, estimate: int, now_s: float) -> None:
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            account.requests = account.tokens = None
            return
        requests = tokens = None
        if limits.requests_per_minute is not None:
            rate = self._share(limits.requests_per_minute)
            requests = _ready(account.requests, rate, now_s, "requests", limits.requests_per_minute)
        if limits.tokens_per_minute is not None:
            rate = self._share(limits.tokens_per_minute)
            tokens = _ready(account.tokens, rate, now_s, "tokens", limits.tokens_per_minute)
        # Taken only once both allow it: a refused request costs nothing.
        account.requests = admission.taken(requests, 1) if requests is not None else None
        account.tokens = admission.taken(tokens, estimate) if tokens is not None else None

    async def reserve(self, ticket: Ticket, grant: KeyGrant, bound_pico: int, now_s: float) -> None:
        """Set `bound_pico` aside of the key's budget. BudgetExceeded where it does not cover it; Unavailable where unknown."""
        limits = grant.limits
        if limits.budget_pico is None or bound_pico == 0:
            return
        account, start_s = ticket.account, window_start_s(limits.budget_window, now_s)
        if account.slice.start_s != start_s:
            account.slice = Slice(start_s)
        if account.slice.free < bound_pico:
            async with account.asking:
                slice_ = account.slice
                if slice_.free < bound_pico:
                    await self._grow(account.key_id, slice_, bound_pico)
        slice_ = account.slice
        if slice_.free < bound_pico:
            left, most = format_money(max(0, slice_.free)), format_money(bound_pico)
            raise BudgetExceeded(
                f"this key's budget for this {limits.budget_window.value} is {format_money(limits.budget_pico)}, of which {left} is "
                f"left for this gateway, and this request could cost {most} if it ran to its longest; "
                "ask for fewer tokens (max_tokens), or raise the budget"
            )
        ticket.bind(slice_, bound_pico)

    async def _grow(self, key_id: str, slice_: Slice, bound_pico: int) -> None:
        need = bound_pico - slice_.free
        body: Body = {
            "key_id": key_id,
            "window_start_s": slice_.start_s,
            "ask_pico": budget.slice_ask_pico(need, bound_pico),
            "need_pico": need,
            "spent_pico": slice_.spent,
        }
        try:
            answer = await self._ask_slice(body)
        except LinkLost:
            raise Unavailable(
                "this key's budget can't be checked while the control plane is away; try again soon", retry_after_s=5.0
            ) from None
        slice_.granted = max(slice_.granted, int(answer["granted_pico"]))

    def keep(self, key_ids: set[str]) -> None:
        """Forget keys that are gone, once nothing of theirs is in flight."""
        for key_id, account in list(self._accounts.items()):
            if key_id not in key_ids and account.in_flight == 0:
                del self._accounts[key_id]

    def forget(self, key_id: str) -> None:
        self._accounts.pop(key_id, None)

    def _share(self, limit: int) -> int:
        return limit if self._count == 1 else admission.share(limit, self._rank, self._count)


def _ready(bucket: Bucket | None, per_minute: int, now_s: float, what: str, limit: int) -> Bucket:
    full = admission.refilled(bucket or Bucket(float(per_minute), now_s), per_minute, now_s)
    if full.level < 1.0:
        after_s = admission.retry_after_s(admission.wait_s(full, per_minute))
        raise RateLimited(
            f"this key may use {limit} {what} a minute; try again in {after_s:.0f} s", retry_after_s=after_s
        )
    return full
