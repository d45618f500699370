"""`bastide sim evaluate`: options that would change nothing are refused, and rows that were found outlast Ctrl-C."""

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
    ("options", "said"),
    [
        ("E2 --data . --seeds 1-3", "nothing is drawn in E2, so `--seeds` would change nothing; leave it out"),
        ("E2 --data . --policy fixed_30m --seeds 1", "nothing is drawn in E2"),
        ("E4 --data . --policy bastide --seeds 1", "in E4 bastide draws nothing (only random does), so `--seeds`"),
        ("E6 --seeds 1 --tiles 1", "`--tiles` is for E1 alone and would change nothing in E6"),
        ("E2 --data . --tiles 3", "`--tiles` is for E1 alone and would change nothing in E2"),
        ("E6 --data . --seeds 1", "E6 reads no traces, so `--data` would change nothing"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(options: str, said: str) -> None:
    done = CliRunner().invoke(app, ["sim", "evaluate", *options.split()])
    assert isinstance(done.exception, InvalidRequest) and said in done.exception.message


@pytest.mark.parametrize(
    ("name", "policies"),
    [("E1", ("fgd",)), ("E4", ()), ("E4", ("random", "bastide")), ("E5", ("bastide",)), ("E6", ())],
)
def test_seeds_are_taken_where_something_is_drawn(name: str, policies: tuple[str, ...]) -> None:
    catalog.refuse_idle(catalog.EVALUATIONS[name], policies, seeds=True, tiles=name == "E1")


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
