"""Prefix affinity, bounded by load."""

from __future__ import annotations

import pytest

from bastide.policy.affinity import Prospect, choose


def test_it_goes_where_the_prefix_is() -> None:
    chosen = choose([Prospect(0.0, 2.0), Prospect(0.5, 0.5)])
    assert (chosen.index, chosen.fetch, chosen.first_token_s) == (1, False, 1.0)


def test_but_not_behind_a_queue_longer_than_it_saves() -> None:
    assert choose([Prospect(0.0, 2.0), Prospect(9.0, 0.5)]).index == 0


def test_what_others_would_wait_counts_only_on_a_busy_instance() -> None:
    near, far = Prospect(0.0, 2.0), Prospect(2.5, 0.5)
    assert choose([near, far]).index == 1, "two seconds of work against half a second"
    assert choose([Prospect(0.0, 2.0, load=0.0), Prospect(2.5, 0.5, load=0.0)]).index == 0


def test_a_prefix_is_fetched_where_that_is_quicker() -> None:
    chosen = choose([Prospect(0.0, 2.0, fetch_s=0.1, fetched_work_s=0.5), Prospect(5.0, 0.5)])
    assert chosen.index == 0 and chosen.fetch and "fetched" in chosen.reason


def test_of_equals_the_first_and_none_is_an_error() -> None:
    assert choose([Prospect(1.0, 1.0)] * 3).index == 0
    with pytest.raises(ValueError, match="no instance"):
        choose([])
