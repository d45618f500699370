"""`bastide sim evaluate`: options that change nothing are said to, and rows that were found outlast Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate import catalog
from bastide.sim.evaluate.table import parquet_rows
from bastide.wiring.main import app


@pytest.mark.parametrize(
    ("name", "policies", "given", "said"),
    [
        ("E2", (), {"seeds": True}, ["nothing is drawn in E2: `--seeds` changes nothing"]),
        ("E4", ("bastide",), {"seeds": True}, ["nothing is drawn by bastide in E4: `--seeds` changes nothing"]),
        ("E4", ("random", "bastide"), {"seeds": True}, []),
        ("E6", (), {"data": True, "seeds": True}, ["E6 reads no traces: `--data` changes nothing"]),
        ("E1", ("fgd",), {"data": True, "seeds": True, "tiles": True}, []),
        ("E5", ("bastide",), {"data": True, "seeds": True}, []),
    ],
)
def test_an_option_that_changes_nothing_is_said_to(
    name: str, policies: tuple[str, ...], given: dict[str, bool], said: list[str]
) -> None:
    assert catalog.unused(catalog.EVALUATIONS[name], policies, **given) == said


@pytest.mark.parametrize("name", ["E2", "E6"])
def test_another_fleet_than_was_asked_for_is_refused(name: str) -> None:
    done = CliRunner().invoke(app, ["sim", "evaluate", name, "--data", ".", "--tiles", "3"])
    assert isinstance(done.exception, InvalidRequest) and f"leave it out of {name}" in done.exception.message


def interrupted(ask: catalog.Ask) -> Iterator[catalog.Row]:
    for seed in ask.seeds[:2]:
        yield {"world": "fleet", "policy": "bastide", "seed": seed, "broken": 0, "faults": 10 * seed}
    raise KeyboardInterrupt


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """E6 is interrupted after two rows."""
    monkeypatch.setitem(catalog.EVALUATIONS, "E6", replace(catalog.EVALUATIONS["E6"], rows=interrupted))


@pytest.mark.usefixtures("stopping")
def test_rows_found_before_an_interruption_are_shown_and_said_not_to_be_all() -> None:
    done = CliRunner().invoke(app, ["sim", "evaluate", "E6"])
    assert done.exit_code == 130
    assert done.stdout.splitlines()[1].split()[:9] == ["fleet", "bastide", "2", "0", "±", "0", "15", "±", "7.1"]
    assert "interrupted after 2 rows: not all that was asked for" in done.stderr


@pytest.mark.usefixtures("stopping")
def test_rows_for_programs_are_printed_as_they_are_found() -> None:
    done = CliRunner().invoke(app, ["sim", "evaluate", "E6", "--json"])
    assert done.exit_code == 130 and "not all" in done.stderr
    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == [1, 2]


def test_an_interruption_while_a_trace_is_read_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.parquet"
    duckdb.connect().execute(f"copy (select 1 as x) to '{file}' (format parquet)")

    def connect() -> None:
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr(duckdb, "connect", connect)
    with pytest.raises(KeyboardInterrupt):
        parquet_rows(file, "select x from trace")


def test_rows_found_before_a_torn_trace_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(ask: catalog.Ask) -> Iterator[catalog.Row]:
        yield {"world": "fleet", "policy": "bastide", "seed": 1, "broken": 0, "faults": 10}
        raise InvalidRequest("traces.csv, line 7: torn")

    monkeypatch.setitem(catalog.EVALUATIONS, "E6", replace(catalog.EVALUATIONS["E6"], rows=torn))
    done = CliRunner().invoke(app, ["sim", "evaluate", "E6"])
    assert isinstance(done.exception, InvalidRequest) and "fleet" in done.stdout
