"""Budgets: the bound really bounds, and nobody can spend twice whatever the workers ask."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bastide.domain.ledger import Tokens, cost_pico
from bastide.domain.spec import Price
from bastide.policy.budget import cost_bound_pico, grant, input_tokens_max, output_tokens_max, slice_ask_pico

PRICES = st.builds(Price, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
MONEY = st.integers(0, 10**15)


@given(MONEY, MONEY, MONEY)
def test_a_grant_is_within_what_remains_and_what_was_asked(remaining: int, need: int, ask: int) -> None:
    given_ = grant(remaining, need, ask)
    assert 0 <= given_ <= min(remaining, ask)
    if 0 < need <= min(remaining, ask):
        assert given_ >= need


@given(budget=MONEY, asks=st.lists(st.tuples(st.integers(0, 5), MONEY, MONEY), max_size=60))
def test_grants_never_sum_to_more_than_the_budget(budget: int, asks: list[tuple[int, int, int]]) -> None:
    granted: dict[int, int] = {}
    for worker, need, more in asks:
        granted[worker] = granted.get(worker, 0) + grant(budget - sum(granted.values()), need, need + more)
    assert sum(granted.values()) <= budget


@given(remaining=st.integers(-(10**15), 0), ask=MONEY)
def test_nothing_is_granted_of_a_budget_that_is_spent(remaining: int, ask: int) -> None:
    assert grant(remaining, 1, ask) == 0


@given(remaining=st.integers(100, 10**15))
def test_no_one_worker_takes_all_ahead_of_its_need(remaining: int) -> None:
    assert grant(remaining, 0, 10**18) <= remaining // 4


@given(
    price=PRICES,
    context=st.integers(1, 10**6),
    body_bytes=st.integers(0, 10**7),
    choices=st.integers(1, 128),
    asked=st.none() | st.integers(1, 10**9),
    given_part=st.floats(0, 1),
    cached_part=st.floats(0, 1),
    made_part=st.floats(0, 1),
)
def test_the_bound_bounds_every_possible_cost(
    price: Price, context: int, body_bytes: int, choices: int, asked: int | None,
    given_part: float, cached_part: float, made_part: float,
) -> None:  # fmt: skip
    input_max, output_max = input_tokens_max(context, body_bytes), output_tokens_max(context, choices, asked)
    given_ = int(input_max * given_part)
    tokens = Tokens(given_, int(given_ * cached_part), int(output_max * made_part))
    assert cost_pico(price, tokens) <= cost_bound_pico(price, input_max, output_max)
    assert input_max <= context and output_max <= context * choices


@given(short=st.integers(1, 10**12), bound=st.integers(1, 10**12))
def test_a_worker_asks_for_its_need_and_some_ahead(short: int, bound: int) -> None:
    assert slice_ask_pico(short, bound) >= short
