"""What broke in a run is told: in the summary, in the report, in files; and it is the same under every policy."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import duckdb
import pytest
from rich.console import Console
from typer.testing import CliRunner

from bastide.sim.report.faults import by_kind, one_by_one, spans
from bastide.sim.report.html import page
from bastide.sim.report.summary import summary
from bastide.sim.run import run
from bastide.sim.scenario import parse
from bastide.wiring.main import app

SCENARIO = """name: Faults
duration: 1h
locations: {north: {}, south: {}}
nodes:
  - {location: north, count: 2, device: L40S}
  - {location: south, count: 2, device: L40S}
services:
  - {name: chat, model: qwen3-4b, most: 2, arrivals: {law: poisson, per_hour: 60}}
faults:
  - {kind: herd, at: 30m}
  - {kind: node_lost, at: 10m, lasts: 5m, where: north-L40S-1}
  - {kind: location_cut, at: 50m, lasts: 20m}
"""


def fault(kind: str, at_s: float, lasts_s: float = 60.0, where: str = "a", nodes: int = 1) -> dict[str, object]:
    return {"kind": kind, "at_s": at_s, "lasts_s": lasts_s, "where": where, "nodes": nodes}


def test_faults_are_listed_in_the_order_they_happened_with_the_place_that_chance_chose() -> None:
    first, other = run(parse(SCENARIO, Path(".")), ("always-on",))
    assert [one["kind"] for one in first.faults] == ["node_lost", "herd", "location_cut"]
    assert first.faults == other.faults, "the same for all that are compared"
    assert len(first.faults) == first.figures["faults"]
    lost, herd, cut = first.faults
    assert (lost["where"], lost["nodes"], lost["lasts_s"]) == ("north-L40S-1", 1, 300.0)
    assert (herd["where"], herd["lasts_s"]) == ("", 0.0)
    assert cut["where"] in ("north", "south") and cut["nodes"] == 2


def test_the_summary_the_report_and_the_tables_tell_of_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(SCENARIO)
    options = ["--html", str(tmp_path / "r.html"), "--parquet", str(tmp_path), "--json", str(tmp_path / "r.json")]
    said = CliRunner().invoke(app, ["sim", str(file), *options]).output
    lines = [line.split() for line in said.splitlines()]
    assert ["node_lost", "10m", "00s", "5m", "00s", "north-L40S-1"] in lines
    assert ["herd", "30m", "00s", "everywhere"] in lines
    told = json.loads((tmp_path / "r.json").read_text())["runs"][0]["faults"]
    assert [one["kind"] for one in told] == ["node_lost", "herd", "location_cut"]
    assert duckdb.read_parquet(str(tmp_path / "faults.parquet")).aggregate("count(*)").fetchall() == [(3,)]
    text = (tmp_path / "r.html").read_text()
    assert "<td>node_lost</td><td>north-L40S-1</td>" in text
    plots = text.split("<svg")[1:]
    assert all(
        f"<title>{one}, 1 time</title>" in plot for plot in plots for one in ("node_lost", "herd", "location_cut")
    )
    assert '<i class="span c1"></i>node_lost, 1 time' in text, "a legend"


def test_where_nothing_broke_the_report_shades_nothing() -> None:
    text = page(run(parse(SCENARIO.partition("faults:\n")[0], Path("."))))
    assert "Nothing broke." in text and 'class="span' not in text


def test_many_faults_are_told_by_kind() -> None:
    many = [fault("node_lost", 60.0 * n, 30.0 + n, f"n{n}") for n in range(20)] + [fault("herd", 30.0, 0.0, "")]
    assert by_kind(many) == [
        ("node_lost", "20", "0 ms", "19m 00s", "up to 49 s", "n0, n1 and 18 more"),
        ("herd", "1", "30 s", "30 s", "", "everywhere"),
    ]
    (ran,) = run(parse(SCENARIO, Path(".")))
    printed = StringIO()
    Console(width=120, file=printed).print(summary([replace(ran, faults=tuple(many))]))
    assert "n0, n1 and 18 more" in printed.getvalue() and "n2" not in printed.getvalue()
    text = page([replace(ran, faults=tuple(many * 10))])
    assert text.count("<td>node_lost</td>") < 200 and "And 10 more; --json and --parquet have all." in text


def test_a_node_that_a_smaller_fleet_lacks_is_said_to_be_missing() -> None:
    assert one_by_one([fault("node_lost", 3600.0, 60.0, "a-L4-7", 0)]) == [
        ("node_lost", "1h 00m", "1m 00s", "a-L4-7 (not in this fleet)")
    ]
    assert spans([fault("node_lost", 3600.0, 60.0, "a-L4-7", 0)], 2.0, 1)[0].pieces == []


@pytest.mark.parametrize(
    ("times", "pieces"),
    [
        ([(0.0, 3600.0), (1800.0, 3600.0)], [(0.0, 1.5)]),
        ([(0.0, 60.0), (61.0, 59.0)], [(0.0, 120 / 3600)]),
        ([(0.0, 3600.0), (600.0, 60.0)], [(0.0, 1.0)]),
        ([(0.0, 360.0), (3600.0, 360.0)], [(0.0, 0.1), (1.0, 1.1)]),
        ([(3600.0, 7200.0)], [(1.0, 2.0)]),
    ],
    ids=["overlapping", "a gap nobody sees", "one within another", "apart", "longer than the run"],
)
def test_spans_of_one_kind_are_one_shade(times: list[tuple[float, float]], pieces: list[tuple[float, float]]) -> None:
    (found,) = spans([fault("disk_full", at_s, lasts_s) for at_s, lasts_s in times], 2.0, 1)
    assert [hour for piece in found.pieces for hour in piece] == pytest.approx(
        [hour for piece in pieces for hour in piece]
    )
