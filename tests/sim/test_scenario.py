"""Scenario files: those that ship run, those that make no sense are refused, every problem at once with its line."""

from __future__ import annotations

import gzip
from pathlib import Path

import duckdb
import pytest
from traces import DATA, needs

from bastide.domain.errors import InvalidSpec
from bastide.sim.scenario import parse, read
from bastide.sim.scenario_setup import setup

EXAMPLES = Path(__file__).parents[2] / "examples" / "scenarios"
SMALL = """name: small
duration: 20m
locations:
  here: {jurisdiction: DE, price_per_gpu_hour: 1}
nodes:
  - {location: here, count: 1, device: L40S, devices: 2}
services:
  - {name: chat, model: llama-3.1-8b, arrivals: {law: poisson, per_hour: 60}}
"""
HERE = Path(".")


@pytest.mark.parametrize("name", ["hospital", "university", "neocloud"])
def test_what_ships_is_read_and_fits(name: str) -> None:
    made = setup(read(EXAMPLES / f"{name}.yaml"))
    assert made.services and made.shapes
    assert all(service.ways for service in made.services)


def test_ways_are_made_of_what_was_measured_or_derived() -> None:
    found = setup(parse(SMALL, HERE)).services[0].ways[0]
    # 16.06 GB of weights and 6 % beside them, 16 slots of 1,600 tokens of 128 KiB, of 48 GB.
    assert found.request.device_milli == 425 and found.request.models == {"L40S"} and found.slots == 16
    assert found.cached_s == pytest.approx(8 + 16.06 / 3) and found.light_s == pytest.approx(0.05 + 16.06 / 12)
    whole = setup(parse(SMALL.replace("8b, ", "8b, devices: 2, "), HERE)).services[0].ways[0]
    assert (whole.request.devices, whole.request.device_milli) == (2, 1000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("duration: 20m", "duration: 20m\nsped: 3"), "line 3: sped: unknown key; did you mean `seed`?"),
        (("count: 1, device", "count: 0, device"), "line 6: nodes[0].count: must be a number from 1"),
        (("nodes:\n  - {location: here, count: 1, device: L40S, devices: 2}\n", ""), "a fleet needs at least one node"),
        (("device: L40S", "device: L40"), "there is no device in the calibration 'L40'"),
        (("location: here", "location: there"), "there is no location 'there'"),
        (("llama-3.1-8b", "llama"), "line 8: services[0].model: there is no model 'llama'"),
        (("per_hour: 60", "per_hour: 0"), "a service at rate 0 is never asked"),
        (("per_hour: 60", "per_hour: .nan"), "line 8: services[0].arrivals.per_hour: must be a number from 0"),
        (("per_hour: 60", "per_hour: -1"), "must be a number from 0"),
        (("per_hour: 60", "per_second: 1e5"), "are too many one by one; add `together: 1m`"),
        (("per_hour: 60", "cv: 2"), "needs one of `per_second` and `per_hour`"),
        (("price_per_gpu_hour: 1", "price_per_gpu_hour: -1"), "line 4: locations.here.price_per_gpu_hour"),
        (("8b, ", "8b, jurisdictions: [FR], "), "no location is in FR; there are: DE"),
        (("8b, ", "8b, least: 3, most: 2, "), "line 8: services[0].least: 3 is more than `most`, 2"),
        (("duration: 20m", "duration: soon"), "'soon' is not a duration"),
        (("duration: 20m", "policies: {placing: best}"), "there is no kind 'best'; there are: bastide, fgd"),
        (("duration: 20m", "faults: [{kind: fire, at: 1m}]"), "line 2: faults[0].kind: there is no kind 'fire'"),
        (("duration: 20m", "faults: [{kind: node_lost, at: 1m, where: x}]"), "there is no node or location 'x'"),
        (("duration: 20m", "calibration: none.yaml"), "can't be read"),
        (("services:", "services:\n  - {name: chat, model: qwen3-4b, arrivals: {law: poisson, per_hour: 1}}"), "is there twice"),
        (("name: small", "name: [small"), "not YAML"),
    ],
)  # fmt: skip
def test_problems_have_their_line(change: tuple[str, str], said: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(SMALL.replace(*change), HERE)
    assert said in "\n".join(map(str, caught.value.problems))


def test_every_problem_at_once() -> None:
    bad = (
        SMALL.replace("L40S", "L9")
        .replace("llama-3.1-8b", "llama")
        .replace("20m", "soon")
        .replace("DE,", "DE, cost: 3,")
    )
    with pytest.raises(InvalidSpec) as caught:
        parse(bad, HERE)
    assert [problem.line for problem in caught.value.problems] == [2, 4, 6, 8]


def test_a_service_that_fits_nowhere_says_why() -> None:
    with pytest.raises(
        InvalidSpec, match=r"line 8: chat: llama-3.3-70b fits on no node: 2 x L40S of 48 GB can't hold 141 GB"
    ):
        setup(parse(SMALL.replace("llama-3.1-8b", "llama-3.3-70b"), HERE))
    with pytest.raises(InvalidSpec, match="too few cores"):
        setup(parse(SMALL.replace("8b, ", "8b, cores: 500, "), HERE))


TRACE = "{law: trace, file: t.jsonl}"
LINE = '{"timestamp": 10, "input_length": 600, "output_length": 1}\n'


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.jsonl", LINE + LINE[:20], "t.jsonl, line 2: is torn"),
        ("t.jsonl", LINE + LINE.replace("10", "5"), "t.jsonl, line 2: the trace is not sorted by time"),
        ("t.jsonl", LINE.replace("600", "NaN"), "line 1, input_length: nan is not a whole number"),
        ("t.jsonl", "", "has no requests"),
        ("other.jsonl", "", "there is no trace at"),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,1\n", "line 2, TIMESTAMP: 'x' is no moment"),
    ],
)
def test_bad_traces_are_refused_with_their_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    suffix = Path(name).suffix
    scenario = SMALL.replace("{law: poisson, per_hour: 60}", TRACE.replace(".jsonl", suffix))
    with pytest.raises(InvalidSpec) as caught:
        setup(parse(scenario, tmp_path))
    assert caught.value.problems[0].line == 8 and said in caught.value.problems[0].message


def test_traces_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress((LINE + LINE.replace("10", "2000")).encode()))
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,30,4\n")
    tables = {
        "functions": "select unnest([0, 1, 3]) as minute, 7 as func, unnest([1, 5, 2]) as count",
        "clients": "select 0 as t_s, 0.5::float as rate_rps, 2.0::float as cv, 'language' as category, 'm' as model, 3 as client",
        "other": "select 1 as x",
    }
    for table, select in tables.items():
        duckdb.connect().execute(f"copy ({select}) to '{tmp_path}/{table}.parquet' (format parquet)")
    asked = {}
    for name in ("t.jsonl.gz", "t.csv", "functions.parquet", "clients.parquet"):
        scenario = SMALL.replace("{law: poisson, per_hour: 60}", TRACE.replace("t.jsonl", name))
        (found,) = setup(parse(scenario, tmp_path)).services
        asked[name] = sum(weight for _, weight, *_ in found.arrivals())
    assert asked["t.jsonl.gz"] == 2 and asked["t.csv"] == 1 and asked["functions.parquet"] == 8
    assert 150 < asked["clients.parquet"] < 450
    with pytest.raises(InvalidSpec, match="has none of the columns of a trace known here"):
        setup(parse(SMALL.replace("{law: poisson, per_hour: 60}", TRACE.replace("t.jsonl", "other.parquet")), tmp_path))


@needs("azure_functions_2019_day_sample1000.parquet")
def test_a_trace_of_functions_becomes_services() -> None:
    file = DATA / "azure_functions_2019_day_sample1000.parquet"
    law = f"{{law: trace, file: {file}, services: 5}}"
    found = setup(parse(SMALL.replace("{law: poisson, per_hour: 60}", law), HERE)).services
    assert len(found) == 5 and all(sum(weight for _, weight, *_ in one.arrivals()) > 1000 for one in found)
