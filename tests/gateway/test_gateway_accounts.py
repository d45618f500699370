"""Keys that share an account share its rates and its requests in flight: nobody gets more by making more keys."""

from __future__ import annotations

import pytest

from bastide.domain.errors import RateLimited
from bastide.domain.keys import KeyGrant, Limits
from bastide.domain.ledger import Tokens
from bastide.gateway.accounts import Accounts
from bastide.ports.link import Body


async def _nothing(body: Body) -> Body:
    raise AssertionError("no budget was asked for")


def test_a_sandbox_s_key_is_on_its_maker_s_limits() -> None:
    limits = Limits(in_flight_max=2, requests_per_minute=3)
    maker = KeyGrant("key-1", "a", "default", limits=limits)
    theirs = [KeyGrant(f"sbx-{n}", f"b{n}", "default", limits=limits, account="key-1") for n in range(3)]
    accounts = Accounts(0, 1, _nothing)
    ticket = accounts.admit(maker, 0, 0.0)
    accounts.admit(theirs[0], 0, 0.0)
    with pytest.raises(RateLimited, match="in flight"):
        accounts.admit(theirs[1], 0, 0.0)
    ticket.close(Tokens())
    accounts.admit(theirs[1], 0, 0.0).close(Tokens())
    with pytest.raises(RateLimited, match="a minute"):
        accounts.admit(theirs[2], 0, 0.0)
