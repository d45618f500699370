"""E1 in small: the baselines are what their papers say, Bastide's placement is better, bad traces are refused by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb
import pytest
from traces import DATA, needs
from typer.testing import CliRunner

from bastide.domain.errors import InvalidRequest
from bastide.policy.fleet import Fleet, NodeShape
from bastide.sim.evaluate.catalog import parse_seeds
from bastide.sim.evaluate.lagged import Lagged
from bastide.sim.evaluate.openb import NODES, WORKLOADS, read_nodes, read_workload
from bastide.sim.evaluate.placing import run
from bastide.wiring.main import app

# Published for seed 43 at 100 % arrived, on `default` and `gpuspec25` (Weng et al., ATC'23): the same arrivals, the same nodes.
PUBLISHED = {
    "default": {"dot_prod": 90.56, "gpu_clustering": 91.69, "gpu_packing": 91.78, "best_fit": 92.97, "fgd": 95.06},
    "gpuspec25": {"gpu_clustering": 86.71, "gpu_packing": 87.16},
}


@needs(NODES, WORKLOADS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_seed_is_reproduced(name: str) -> None:
    shapes, workload = read_nodes(DATA), read_workload(DATA, name)
    for policy, published in PUBLISHED[name].items():
        # Theirs is the mean from 99.5 to 100.5 % arrived.
        assert run(shapes, workload, policy, 43)["alloc_at_100"] == pytest.approx(published, abs=0.06), policy


@needs(NODES, WORKLOADS)
def test_one_seed_of_default() -> None:
    shapes, workload = read_nodes(DATA), read_workload(DATA, "default")
    # The mean of ten, whose standard deviation is 0.33.
    assert run(shapes, workload, "random", 43)["alloc_at_100"] == pytest.approx(86.30, abs=0.8)
    assert run(shapes, workload, "bastide", 43)["alloc_at_100"] > 95.45


def test_numbers_by_seed_are_those_that_the_published_runs_drew() -> None:
    """Known far and wide: the first that Go's generator gives for seed 1."""
    chance = Lagged(1)
    first = [chance.word() % 2**63 for _ in range(4)]
    assert first == [5577006791947779410, 8674665223082153551, 6129484611666145821, 4037200794235010051]
    members = list(range(100))
    chance.shuffle(members)
    assert sorted(members) == sorted(chance.permutation(100)) == list(range(100))
    assert {chance.below(7) for _ in range(200)} == set(range(7))


@needs(NODES, WORKLOADS)
def test_a_row_has_its_metrics_and_a_seed_replays() -> None:
    command = ["sim", "evaluate", "E1", "--data", str(DATA), "--workload", "gpushare80", "--policy", "best_fit"]
    found = [CliRunner().invoke(app, [*command, "--seeds", "42", "--json"]) for _ in range(2)]
    first, second = (json.loads(result.stdout) for result in found)
    assert {"workload", "policy", "seed", "alloc_at_90", "alloc_at_95", "alloc_at_100", "alloc_at_130"} <= set(first)
    assert {
        "frag_pct_of_total_at_50",
        "frag_pct_of_total_at_80",
        "frag_pct_of_total_at_100",
        "decision_us_mean",
    } <= set(first)
    del first["decision_us_mean"], second["decision_us_mean"]
    assert first == second


def write(directory: Path, nodes: str, workloads: str) -> Path:
    (directory / NODES).write_bytes(gzip.compress(nodes.encode()))
    duckdb.connect().execute(f"copy ({workloads}) to '{directory / WORKLOADS}' (format parquet)")
    return directory


HEAD = "sn,cpu_milli,memory_mib,gpu,model\n"
ROW = "select '{name}' as name, 'w' as workload, 1000 as cpu_milli, 1 as memory_mib, {gpus} as num_gpu, {milli} as gpu_milli, null::varchar as gpu_spec"


def test_bad_traces_are_refused_with_their_line(tmp_path: Path) -> None:
    good = ROW.format(name="p", gpus=1, milli=500)
    write(tmp_path, HEAD + "a,1000,1,1,G\nb,nan,1,1,G\n", good)
    with pytest.raises(InvalidRequest, match="line 3, cpu_milli: 'nan' is not a whole number"):
        read_nodes(tmp_path)
    write(tmp_path, HEAD + "a,1000,1\n", ROW.format(name="p", gpus=2, milli=500))
    with pytest.raises(InvalidRequest, match="line 2: is torn"):
        read_nodes(tmp_path)
    with pytest.raises(InvalidRequest, match=r"row 1 \(p\): 2 x 500 is no request"):
        read_workload(tmp_path, "w")
    with pytest.raises(InvalidRequest, match="there is no workload 'other'"):
        read_workload(tmp_path, "other")
    write(tmp_path, "sn,cpu_milli\na,1\n", "select 1 as name")
    with pytest.raises(InvalidRequest, match="lacks the column memory_mib"):
        read_nodes(tmp_path)
    with pytest.raises(InvalidRequest, match="lacks a column"):
        read_workload(tmp_path, "w")
    (tmp_path / NODES).write_bytes(gzip.compress((HEAD * 100).encode())[:40])
    with pytest.raises(InvalidRequest, match="torn"):
        read_nodes(tmp_path)


def test_a_workload_without_devices_ends(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "a,1000,1,1,G\n", ROW.format(name="p", gpus=0, milli=0))
    with pytest.raises(InvalidRequest, match="asks for no devices"):
        run(read_nodes(tmp_path), read_workload(tmp_path, "w"), "bastide", 1)


def test_three_times_the_fleet_is_three_times_the_capacity() -> None:
    shapes = (NodeShape("a", 1000, 1, 2, "G"),) * 3
    assert Fleet(shapes).capacity_milli == 6000


def test_seeds() -> None:
    assert parse_seeds("42-44,50") == (42, 43, 44, 50)
    for text in ("x", "²", "42-41", "9" * 30, "42,"):
        with pytest.raises(InvalidRequest, match="give numbers and ranges"):
            parse_seeds(text)
