"""E4 in small: the first requests of the trace, and what makes no sense."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from traces import DATA, needs

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate.routing import TRACE, Node, Prompt, read, run

FILE = f"{TRACE}.jsonl.gz"


@needs(FILE)
def test_knowing_prefixes_helps_and_knowing_all_of_them_helps_more() -> None:
    prompts = read(DATA)[:4000]
    found = {
        policy: run(prompts, policy, 42)
        for policy in ("random", "least_loaded", "local_cache_aware", "global_cache_aware", "bastide")
    }
    means = [
        found[policy]["ttft_mean_s"] for policy in ("random", "least_loaded", "local_cache_aware", "global_cache_aware")
    ]
    assert means == sorted(means, reverse=True)
    assert found["bastide"]["ttft_mean_s"] <= found["global_cache_aware"]["ttft_mean_s"] * 1.002
    assert found["bastide"]["ttft_p99_s"] <= found["global_cache_aware"]["ttft_p99_s"]
    assert run(prompts, "random", 42) == found["random"]


def test_a_prefix_counts_only_once_it_is_computed() -> None:
    node = Node()
    node.remember((1, 2), done_s=5.0)
    assert node.prefix((1, 2, 3), by_s=4.0) == 0
    assert node.prefix((1, 2, 3), by_s=5.0) == 2
    assert run([Prompt(0.0, 1024, (1, 2)), Prompt(60.0, 1024, (1, 2))], "bastide", 1)[
        "token_hit_rate"
    ] == pytest.approx(0.5, abs=1e-3)


def test_bad_traces_are_refused_with_their_line(tmp_path: Path) -> None:
    good = '{"timestamp": 10, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}\n'
    bad = {
        good + '{"timestamp": 20, "input_l': "line 2: is torn",
        good + good.replace("10", "5"): "line 2: the trace is not sorted",
        good.replace("600", "NaN"): "line 1, input_length: nan is not a whole number",
        good.replace("[1, 2]", "7"): "line 1, hash_ids: is not a list",
        "": "has no requests",
    }
    for text, said in bad.items():
        (tmp_path / FILE).write_bytes(gzip.compress(text.encode()))
        with pytest.raises(InvalidRequest, match=said):
            read(tmp_path)
    with pytest.raises(InvalidRequest, match="there is no policy"):
        run([], "other", 1)
