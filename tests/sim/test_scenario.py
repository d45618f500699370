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
        (("duration: 20m", "calibration: none.yaml"), "none.yaml: there is no such file; name a file that `bastide calibrate` wrote"),
        (("name: small", "name: small\nfaults:\n  - {kind: herd, at: 19m}\n  - {kind: node_lost, at: 20m}"),
         "line 4: faults[1].at: the run is over after 20m 00s, so it would never happen; give an earlier time"),
        (("name: small", "name: 2026-13-01"), "line 1: not YAML: '2026-13-01': month must be in 1..12"),
        (("name: small", "name: small\n\0"), "line 2: not YAML: the character 0x0 may not be in it"),
        (("duration: 20m", "duration: 0"), "line 2: duration: must be from 1 s to 366d 0h, not 0"),
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("here: {jurisdiction: DE, price_per_gpu_hour: 1}", "here: 3"), "line 4: locations.here: must be a mapping of keys"),
        (("{law: poisson, per_hour: 60}", "often"), "line 8: services[0].arrivals: must be a mapping of keys"),
        (("{law: poisson, per_hour: 60}", "{law: poisson}"), "line 8: services[0].arrivals: needs one of `per_second` and `per_hour`"),
        (("nodes:", "nodes: {}\nnode:"), "line 5: nodes: must be a list"),
        (("duration: 20m", "duration: soon\nfaults: [{kind: herd, at: 2d}]"), "line 2: duration: 'soon' is not a duration"),
    ],
)  # fmt: skip
def test_what_only_follows_from_a_mistake_is_not_told_too(change: tuple[str, str], said: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(SMALL.replace(*change), HERE)
    told = [str(problem) for problem in caught.value.problems if "unknown key" not in problem.message]
    assert len(told) == 1 and said in told[0]


def test_a_file_that_is_no_scenario_says_so_without_internals(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    for name, said in (
        ("", "is a directory; name a scenario"),
        ("none.yaml", "there is no such file; name a scenario"),
        ("binary.yaml", "is not text (UTF-8); name a scenario"),
        ("empty.yaml", "line 1: the file is empty"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            read(tmp_path / name)
        assert said in caught.value.message and "Errno" not in caught.value.message
    with pytest.raises(InvalidSpec, match="over 4 MiB"):
        read(Path("/dev/zero"))


def test_nodes_of_one_kind_have_names_of_their_own_whatever_group_they_are_of() -> None:
    twice = SMALL.replace("services:", "  - {location: here, count: 2, device: L40S}\nservices:")
    made = setup(
        parse(twice.replace("duration", "faults: [{kind: node_lost, at: 1m, where: here-L40S-2}]\nduration"), HERE)
    )
    assert [shape.name for shape in made.shapes] == ["here-L40S-0", "here-L40S-1", "here-L40S-2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("3.1-8b", "3.3-70b"), "a copy needs 158 GB (150 for its weights and engine, 8 for the context of 16 requests at once), "
         "and the most it is given is 96 GB (2 x L40S); take a smaller model, or add a node with more or larger devices"),
        (("3.1-8b", "3.3-70b, devices: 1"), "is given is 48 GB (1 x L40S); take a smaller model, or ask for more `devices`"),
        (("8b, ", "8b, devices: 4, "), "a copy asks for 4 devices, and no node has more than 2; ask for fewer `devices`"),
        (("8b, ", "8b, slots: 1000, "), "2 x L40S); lower `slots` or the tokens, or add a node"),
        (("8b, ", "8b, cores: 500, "), "a copy asks for 500 cores and 8.0 GiB (`cores`, `memory`), and nodes with L40S have at "
         "most 64 and 512.0 GiB; lower what it asks for"),
    ],
)  # fmt: skip
def test_a_service_that_fits_nowhere_says_what_it_needs_and_what_there_is(change: tuple[str, str], said: str) -> None:
    with pytest.raises(InvalidSpec, match=r"line 8: chat: llama-\S+ fits on no node: ") as caught:
        setup(parse(SMALL.replace(*change), HERE))
    assert said in caught.value.message


TRACE = "{law: trace, file: t.jsonl}"
LINE = '{"timestamp": 10, "input_length": 600, "output_length": 1}\n'


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.jsonl", LINE + LINE[:20], "t.jsonl, line 2: is torn"),
        ("t.jsonl", LINE + LINE.replace("10", "5"), "t.jsonl, line 2: the trace is not sorted by time"),
        ("t.jsonl", LINE.replace("600", "NaN"), "line 1, input_length: nan is not a whole number"),
        ("t.jsonl", "\n", "has no requests in the 1200 s that are simulated"),
        ("t.jsonl", "[1]\n", "line 1: lacks timestamp; a line is an object with timestamp, input_length, output_length"),
        ("t.jsonl.gz", LINE, "t.jsonl.gz is not gzipped, though its name says so"),
        ("t.parquet", LINE, "t.parquet is no Parquet file"),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-01,1,1\n2026-01-01T01:00:00Z,1,1\n",
         "line 3, TIMESTAMP: some moments have a time zone and some have none"),
        ("other.jsonl", "", "there is no trace at"),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,1\n", "line 2, TIMESTAMP: 'x' is no moment"),
    ],
)  # fmt: skip
def test_bad_traces_are_refused_with_their_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    suffix = "".join(Path(name).suffixes)
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
        "whole": "select 0 as t_s, 0.5::decimal(4, 2) as rate_rps, 2 as cv, 'm' as model, 3 as client",
        "other": "select 1 as x",
    }
    for table, select in tables.items():
        duckdb.connect().execute(f"copy ({select}) to '{tmp_path}/{table}.parquet' (format parquet)")
    asked = {}
    for name in ("t.jsonl.gz", "t.csv", "functions.parquet", "clients.parquet", "whole.parquet"):
        scenario = SMALL.replace("{law: poisson, per_hour: 60}", TRACE.replace("t.jsonl", name))
        (found,) = setup(parse(scenario, tmp_path)).services
        asked[name] = sum(weight for _, weight, *_ in found.arrivals())
    assert asked["t.jsonl.gz"] == 2 and asked["t.csv"] == 1 and asked["functions.parquet"] == 8
    assert 150 < asked["clients.parquet"] < 450 and asked["whole.parquet"] == asked["clients.parquet"]
    with pytest.raises(InvalidSpec, match="has none of the columns of a trace known here"):
        setup(parse(SMALL.replace("{law: poisson, per_hour: 60}", TRACE.replace("t.jsonl", "other.parquet")), tmp_path))


@needs("azure_functions_2019_day_sample1000.parquet")
def test_a_trace_of_functions_becomes_services() -> None:
    file = DATA / "azure_functions_2019_day_sample1000.parquet"
    law = f"{{law: trace, file: {file}, services: 5}}"
    found = setup(parse(SMALL.replace("{law: poisson, per_hour: 60}", law), HERE)).services
    assert len(found) == 5 and all(sum(weight for _, weight, *_ in one.arrivals()) > 1000 for one in found)
