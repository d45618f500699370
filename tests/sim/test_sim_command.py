"""`bastide sim SCENARIO.yaml`: what it prints and writes, and that a seed replays whatever the order of hashes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from bastide.domain.errors import InvalidRequest, InvalidSpec
from bastide.sim.report import summary
from bastide.sim.run import run
from bastide.sim.scenario import parse
from bastide.sim.sizing import fewest
from bastide.wiring.main import app, main

SCENARIO = """name: Two <rooms>
seed: 5
duration: 2h
locations:
  north: {price_per_gpu_hour: 2, price_per_kwh: 0.2, carbon_g_per_kwh: 50}
  south: {price_per_gpu_hour: 1, power_w: 1500}
nodes:
  - {location: north, count: 2, device: L40S, devices: 2}
  - {location: south, count: 2, device: T4, devices: 4}
services:
  - {name: chat, model: llama-3.1-8b, most: 3, first_token: 25s, arrivals: {law: diurnal, per_second: 0.2, peak_hour: 1}}
  - {name: own, count: 12, model: qwen3-4b, first_token: 25s, arrivals: {law: bursty, per_hour: 12}}
policies: {worth: 4m}
fault_rates: {node_lost: 12, out_of_memory: 12, hint_lost: 24, lasts: 4m}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "two.yaml").write_text(SCENARIO)
    return tmp_path / "two.yaml"


def digest(scenario: Path, hashseed: str) -> str:
    code = "import sys; from bastide.wiring.main import main; sys.argv[0] = 'bastide'; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "sim", str(scenario), "--json", "-", "--compare", "whole-gpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hashseed},
        check=True,
    )
    return " ".join(found["digest"] for found in json.loads(ended.stdout)["runs"])


def test_a_seed_replays_to_the_bit_under_any_order_of_hashes(scenario: Path) -> None:
    scenario.write_text(SCENARIO.replace("2h", "40m"))
    assert digest(scenario, "1") == digest(scenario, "271828")


class _Page(HTMLParser):
    """What the page would load, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.drawn = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.drawn += tag == "svg"
        if tag not in ("meta", "i"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "i"):
            assert self.open.pop() == tag


def test_everything_it_writes(scenario: Path, tmp_path: Path) -> None:
    options = ["--html", "r.html", "--parquet", "tables", "--json", "r.json", "--compare", "always-on"]
    options = [str(tmp_path / one) if one in ("r.html", "tables", "r.json") else one for one in options]
    ended = CliRunner().invoke(app, ["sim", str(scenario), *options])
    assert ended.exit_code == 0, ended.output
    assert "Two <rooms>" in ended.output and "ALWAYS-ON" in ended.output and "devices held over time" in ended.output
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [found["policy"] for found in runs] == ["bastide", "always-on"]
    assert all(found["digest"] in ended.output for found in runs)
    assert runs[0]["figures"]["requests"] == runs[1]["figures"]["requests"], "the same requests for all"
    assert runs[0]["figures"]["gpu_hours_held"] < runs[1]["figures"]["gpu_hours_held"]
    held = duckdb.read_parquet(str(tmp_path / "tables" / "timeline.parquet"))
    assert held.aggregate("policy, count(*) as n").order("policy").fetchall() == [("always-on", 240), ("bastide", 240)]
    text = (tmp_path / "r.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == [] and page.loads == [] and page.drawn == 12
    assert "Two &lt;rooms&gt;" in text and "<script" not in text and not re.search(r"url\(|@import|https?://", text)


def test_wrong_use_is_told_by_file_and_line(scenario: Path) -> None:
    scenario.write_text(SCENARIO.replace("policies:", "policy:"))
    with pytest.raises(InvalidSpec) as caught:
        CliRunner().invoke(app, ["sim", str(scenario)], catch_exceptions=False, standalone_mode=False)
    assert caught.value.problems[0].line == 13 and getattr(caught.value, "file", None) == str(scenario)
    with pytest.raises(
        InvalidRequest, match="there is no policy 'best' to compare with; there are: bastide, always-on"
    ):
        run(parse(SCENARIO, Path(".")), ("best",))


def test_errors_of_a_simulation_say_that_nothing_was_simulated(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario.write_text(SCENARIO.replace("policies:", "policy:").replace("model: llama-3.1-8b", "model: none"))
    monkeypatch.setattr(sys, "argv", ["bastide", "sim", str(scenario)])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.endswith("2 problems; nothing was simulated\n")
    scenario.write_text(SCENARIO.replace("llama-3.1-8b", "llama-3.3-70b").replace("L40S", "L4"))
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "simulating" not in said and said.endswith("1 problem; nothing was simulated\n")


def test_the_fewest_nodes(scenario: Path) -> None:
    big = parse(
        SCENARIO.replace("count: 2, device: L40S", "count: 14, device: L40S").partition("fault_rates")[0],
        scenario.parent,
    )
    said: list[str] = []
    found = fewest(big, None, said.append)
    assert found.enough and found.written == 16
    assert sum(group.count for group in found.scenario.nodes) < 6 and any("% in time" in line for line in said)


def test_size_says_how_many_nodes_of_each_kind(scenario: Path, tmp_path: Path) -> None:
    scenario.write_text(SCENARIO.replace("2h", "40m").replace("count: 2", "count: 4").partition("fault_rates")[0])
    file = tmp_path / "r.json"
    said = CliRunner().invoke(app, ["sim", str(scenario), "--size", "--json", str(file)]).output
    size = json.loads(file.read_text())["size"]
    assert size["enough"] and size["written"] == 8
    assert [(one["location"], one["device"], one["devices"]) for one in size["nodes"]] == [
        ("north", "L40S", 2),
        ("south", "T4", 4),
    ]
    for one in size["nodes"]:
        row = rf"{one['location']} +{one['device']} +{one['nodes']} +{one['devices']}"
        assert re.search(row, said), said
    nodes = sum(one["nodes"] for one in size["nodes"])
    assert f"The fewest nodes that are enough: {nodes}, where 8 were written." in said
    assert "`--size` finds the least" not in said
    piped = CliRunner().invoke(app, ["sim", str(scenario), "--size", "--json", "-"]).stdout
    assert json.loads(piped)["size"] == size


def test_where_size_finds_none_no_fleet_is_said_to_be_enough(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["sim", str(written(tmp_path, NO_POWER)), "--size"]).stdout
    assert "even 64 nodes are too few" in said and "DEVICES IN EACH" not in said


def test_more_nodes_where_those_written_are_too_few(scenario: Path) -> None:
    text = SCENARIO.replace(", power_w: 1500", "").replace("per_hour: 12", "per_hour: 120").partition("fault_rates")[0]
    text = text.replace("count: 2, device: L40S, devices: 2", "count: 1, device: L40S, devices: 1")
    small = parse(text.replace("count: 2, device: T4, devices: 4", "count: 1, device: T4, devices: 1"), scenario.parent)
    said: list[str] = []
    found = fewest(small, None, said.append)
    enough = sum(group.count for group in found.scenario.nodes)
    assert found.enough
    assert enough > sum(group.count for group in small.nodes)
    assert said[0].startswith("2 nodes: ") and said[0].endswith("too few")
    assert f"{enough} nodes: " in " ".join(line for line in said if "too few" not in line)


def test_where_no_fleet_is_enough_it_says_what_else_it_may_be(scenario: Path) -> None:
    """A first token in no time at all: nobody gives that."""
    never = parse(SCENARIO.replace("first_token: 25s", "first_token: 1ms").partition("fault_rates")[0], scenario.parent)
    said: list[str] = []
    found = fewest(never, None, said.append)
    assert found.scenario is never and not found.enough
    assert "more are not tried" in said[-1] and "`most` copies" in said[-1]


NO_POWER = """name: Dark
duration: 1m
locations: {here: {power_w: 0}}
nodes: [{location: here, device: L4}]
services:
  - {name: patient, model: qwen3-4b, first_token: 5m, wait: 10m, arrivals: {law: poisson, per_hour: 600}}
  - {name: hasty, model: qwen3-4b, first_token: 5s, wait: 10m, arrivals: {law: poisson, per_hour: 600}}
"""


def test_who_still_waits_at_the_end_was_not_answered_in_time(tmp_path: Path) -> None:
    (result,) = run(parse(NO_POWER, tmp_path))
    assert result.figures["answered_share"] == result.figures["in_time_share"] == 0.0
    assert result.figures["waiting_at_end"] == result.figures["requests"] > 0
    assert [one["service"] for one in result.worst] == ["hasty"], "what was promised to the other may still be kept"
    said = CliRunner().invoke(app, ["sim", str(written(tmp_path, NO_POWER))]).output
    assert "still waiting at the end" in said and "Below 99 % by themselves: hasty (0.0 % of" in said
    assert "Most often: no place" in said


def written(directory: Path, text: str) -> Path:
    path = directory / "scenario.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("option", ["--json", "--html", "--parquet"])
def test_where_nothing_can_be_written_nothing_is_simulated(scenario: Path, tmp_path: Path, option: str) -> None:
    there = tmp_path / "there"
    if option == "--parquet":
        there.write_text("a file")
    else:
        there.mkdir()
    done = CliRunner().invoke(app, ["sim", str(scenario), option, str(there)])
    assert isinstance(done.exception, InvalidRequest) and str(there) in done.exception.message
    assert "simulating" not in done.output
    done = CliRunner().invoke(app, ["sim", str(written(tmp_path, NO_POWER)), option, str(tmp_path / "new" / "out")])
    assert done.exit_code == 0 and (tmp_path / "new" / "out").exists()


@pytest.mark.parametrize("flag", ["--help", "-h", ""])
def test_a_newcomer_finds_the_options_of_a_run_in_the_help_of_sim(flag: str) -> None:
    said = CliRunner().invoke(app, ["sim", *([flag] if flag else [])]).output
    assert all(option in said for option in ("--size", "--compare", "--html", "--json", "--parquet", "--seed")), said
    assert "sim SCENARIO.yaml [OPTIONS] | COMMAND" in said and "evaluate" in said


def test_options_may_come_before_the_scenario(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sim", "--json", "-", str(written(tmp_path, NO_POWER))])
    assert json.loads(done.stdout)["runs"][0]["scenario"] == "Dark"


def test_what_is_neither_a_file_nor_a_subcommand_is_told_what_there_is() -> None:
    done = CliRunner().invoke(app, ["sim", "evalaute", "E1", "--data", "."])
    assert isinstance(done.exception, InvalidRequest)
    assert "no file evalaute, and no subcommand of that name; there are: run, evaluate" in done.exception.message


def test_nothing_is_written_over_the_scenario_or_over_another_result(tmp_path: Path) -> None:
    file = written(tmp_path, NO_POWER)
    for options, said in (
        (["--html", str(file)], "would write over the scenario itself"),
        (["--html", str(tmp_path / "r"), "--json", str(tmp_path / "r")], "would write over what `--html` writes"),
    ):
        done = CliRunner().invoke(app, ["sim", str(file), *options])
        assert isinstance(done.exception, InvalidRequest) and said in done.exception.message
    assert file.read_text() == NO_POWER


def test_a_trace_whose_requests_all_come_later_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "t.parquet"
    duckdb.connect().execute(f"copy (select 'f' as func, 100 as minute, 3 as count) to '{trace}' (format parquet)")
    text = NO_POWER.split("services:")[0] + (
        "services:\n  - {name: s, model: qwen3-4b, arrivals: {law: trace, file: t.parquet}}\n"
    )
    with pytest.raises(InvalidSpec, match="no requests in the 60 s that are simulated"):
        run(parse(text, tmp_path))
    (tmp_path / "t.csv").write_text("func,minute,count\nf,0,3\n")
    with pytest.raises(InvalidSpec, match="read as Parquet only"):
        run(parse(text.replace("t.parquet", "t.csv"), tmp_path))
    with pytest.raises(InvalidSpec, match=r"jurisdictions: names none"):
        parse(NO_POWER.replace("first_token: 5s", "jurisdictions: []"), tmp_path)


CUT = """name: Cut off
duration: 1h
locations: {here: {}}
nodes: [{location: here, device: H100, devices: 8}]
services:
  - {name: notes, model: qwen3-4b, first_token: 5s, arrivals: {law: poisson, per_hour: 3600}}
faults: [{kind: location_cut, at: 0s, lasts: 30m}]
"""


def test_a_fleet_that_is_nearly_free_is_not_said_to_be_too_small(tmp_path: Path) -> None:
    """What broke is named first."""
    said = " ".join(CliRunner().invoke(app, ["sim", str(written(tmp_path, CUT))]).output.split())
    assert "came in time: what broke took its part, services may have" in said and "too small" not in said


def test_a_run_that_nobody_asked_in_says_so(tmp_path: Path) -> None:
    said = (
        CliRunner().invoke(app, ["sim", str(written(tmp_path, CUT.replace("1h", "1s").partition("faults")[0]))]).output
    )
    assert "Nobody asked for anything in this time." in said and "too small" not in said


def test_requests_add_up(tmp_path: Path) -> None:
    (result,) = run(parse(CUT.replace("3600", "360000"), tmp_path))
    figures = result.figures
    parts = ("refused", "timed_out", "failed", "waiting_at_end", "in_flight_at_end")
    answered = figures["answered_share"] * figures["requests"]
    assert figures["in_flight_at_end"] > 0
    assert answered + sum(figures[part] for part in parts) == pytest.approx(figures["requests"], abs=1)


def test_what_misses_the_bar_is_not_rounded_up_to_it() -> None:
    assert (summary._below(0.98961), summary._below(0.99), summary._below(0.0)) == ("98.9", "99.0", "0.0")
