"""The shared device: its arrivals are the same for a seed, and a quick run writes what the page is rendered from."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from test_benchmarks_run import assert_complete, run

from benchmarks.arrivals import arrivals, made_up


def test_arrivals_are_of_the_seed_in_order_and_as_many_as_asked() -> None:
    chosen = made_up(6)
    first = arrivals(chosen, 600.0, 500, seed=3)
    assert first == arrivals(chosen, 600.0, 500, seed=3) == sorted(first)
    assert first != arrivals(chosen, 600.0, 500, seed=4)
    assert all(0 <= one.at_s <= 600.0 for one in first)
    counts = [len(arrivals(chosen, 600.0, 500, seed=seed)) for seed in range(12)]
    assert 470 < statistics.fmean(counts) < 530
    asked = [sum(one.service == number for one in first) for number in range(6)]
    assert asked[0] > 3 * asked[5], "the n-th asks an n-th as often"


@pytest.mark.timeout(120)
def test_a_quick_run_measures_and_forecasts(tmp_path: Path) -> None:
    found = run("shared_device", tmp_path, "--rules", "shipped")
    assert_complete(found, "shared_device")
    (shipped,) = found["details"]["runs"].values()
    assert shipped["real"]["requests"] == shipped["forecast"]["requests"] > 0
    assert shipped["real"]["failed"] == 0, shipped["failures"]
