"""E2 in small: a hundred services of the sample, and traces that make no sense."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from traces import DATA, needs

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate.keeping import BASELINES, TRACE, read, rows, run

FILE = f"{TRACE}.parquet"
# What the definitions give on the whole sample: cold starts a request, and minutes wasted beside a fixed ten.
KNOWN = {"fixed_5m": (0.0014, 0.50, 0.86), "fixed_10m": (0.0008, 0.3896, 1.0), "fixed_60m": (0.0002, 0.1875, 1.44)}


@needs(FILE)
def test_fixed_times_are_what_is_known_of_them() -> None:
    for row in rows(DATA, (), tuple(KNOWN)):
        cold, cold_p75, waste = KNOWN[row["policy"]]
        assert row["cold_rate"] == pytest.approx(cold, abs=6e-5)
        assert row["cold_rate_p75"] == pytest.approx(cold_p75, abs=1e-4)
        assert row["waste"] == pytest.approx(waste, abs=6e-3)


@needs(FILE)
@pytest.mark.parametrize(("baseline", "setting"), [("fixed_10m", "bastide"), ("hybrid_4h", "bastide_240m")])
def test_it_is_better_on_every_axis(baseline: str, setting: str) -> None:
    services = read(DATA)[::2]
    theirs, ours = run(services, baseline), run(services, setting)
    assert all(ours[figure] < theirs[figure] for figure in ours)


def one(directory: Path, select: str) -> Path:
    duckdb.connect().execute(f"copy ({select}) to '{directory / FILE}' (format parquet)")
    return directory


def test_what_one_service_costs(tmp_path: Path) -> None:
    """Requests at minutes 0, 4 and 30: warm for ten, two are cold; idle for 4, 10 and 10 minutes."""
    one(tmp_path, "select unnest([0, 4, 30]) as minute, 1 as func, 2 as count")
    assert run(read(tmp_path), "fixed_10m") == {"cold_rate": 2 / 6, "cold_rate_p75": 2 / 6, "idle_minutes": 24}
    for policy in (*BASELINES, "bastide"):
        assert run(read(tmp_path), policy)["cold_rate"] > 0


def test_bad_traces_and_policies(tmp_path: Path) -> None:
    bad = {
        "select 1 as func, 0 as minute, 0 as count": "has no requests",
        "select 1 as func, 'nan'::double as minute, 1 as count": "row 1 of func 1, minute: nan is not a whole number",
        "select 1 as func, 1 as minute, -1 as count": "count: -1 is not a whole number",
        "select 1 as func, 1 as minute, 1 as count from range(2)": "minute 1 is there twice",
        "select 1 as func": "lacks a column",
    }
    for select, said in bad.items():
        one(tmp_path, select)
        with pytest.raises(InvalidRequest, match=said):
            read(tmp_path)
    for policy in ("fixed_0m", "fixed_xm", "other", "bastide_0m"):
        with pytest.raises(InvalidRequest, match="there is no policy"):
            run([], policy)
