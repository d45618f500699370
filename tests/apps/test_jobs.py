"""Jobs: run to completion, tried again, ended after their time, by a schedule, and across a kill."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest
from app_town import Town
from house import BASTIDE, until

from bastide.control.jobs import next_s
from bastide.domain.errors import BastideError, Conflict

pytestmark = pytest.mark.timeout(60)
COUNTS = """
import os, sys
with open("/data/tries", "a") as file: file.write("x")
tries = os.path.getsize("/data/tries")
print("try", tries, flush=True)
sys.exit(0 if tries >= int(os.environ["NEEDS"]) else 3)
"""
DATA = [{"name": "data", "path": "/data"}]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        ("*/5 * * * *", "2026-01-01T00:00:00", "2026-01-01T00:05:00"),
        ("0 3 * * *", "2026-01-01T03:00:00", "2026-01-02T03:00:00"),
        ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
    ],
)
def test_when_a_schedule_is_due(schedule: str, after: str, due: str) -> None:
    assert next_s(schedule, at(after)) == at(due)


def last_run(town: Town, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = town.house.client.jobs(name)["jobs"][0]["runs"]
    return found[-1] if found else {"ended": None, "attempts": 0, "run": 0}


def ended(town: Town, name: str, run: int = 1) -> dict[str, Any]:
    until(lambda: last_run(town, name)["run"] >= run and last_run(town, name)["ended"])
    return last_run(town, name)


def test_a_job_runs_once_for_each_deploy_and_when_asked(town: Town) -> None:
    assert not town.deploy("once", {"main.py": "print('did it')"}, job=True)["failed"]
    run = ended(town, "once")
    assert run["exit_code"] == 0 and "did it" in run["said"] and run["cause"] == "deployed" and run["attempts"] == 1
    assert not town.deploy("once", {"main.py": "print('did it')"}, job=True)["failed"]
    assert len(town.house.client.jobs("once")["jobs"][0]["runs"]) == 1
    assert not town.deploy("once", {"main.py": "print('did more')"}, job=True)["failed"]
    assert "did more" in ended(town, "once", 2)["said"]
    assert town.house.client.run("once")["run"] == 3 and ended(town, "once", 3)["cause"] == "asked"
    assert town.ask("once", "/")[0] == 404, "a job takes no requests"
    assert town.house.client.service("once")["phase"] == "asleep"
    assert "did more" in "".join(part["text"] for part in town.house.client.logs("once")["parts"])


def test_a_job_that_fails_is_tried_again_as_often_as_it_says(town: Town) -> None:
    assert not town.deploy("again", {"main.py": COUNTS}, job={"retries": 2}, env={"NEEDS": 2}, volumes=DATA)["failed"]
    run = ended(town, "again")
    assert run["exit_code"] == 0 and run["attempts"] == 2 and "try 2" in run["said"]
    assert not town.deploy("never", {"main.py": COUNTS}, job={"retries": 1}, env={"NEEDS": 9}, volumes=DATA)["failed"]
    run = ended(town, "never")
    assert run["exit_code"] == 3 and run["attempts"] == 2 and run["reason"] == "ended with status 3"


def test_a_job_has_its_time(town: Town) -> None:
    assert not town.deploy("long", {"main.py": "import time; time.sleep(99)"}, job={"time_limit": "1s"})["failed"]
    with pytest.raises(Conflict, match="runs already"):
        town.house.client.run("long")
    run = ended(town, "long")
    assert run["exit_code"] is None and "time limit of 1 s" in run["reason"]


def test_a_scheduled_one_waits_for_its_time(town: Town) -> None:
    assert not town.deploy("nightly", {"main.py": "print(1)"}, schedule="0 3 29 2 *")["failed"]
    job = town.house.client.jobs("nightly")["jobs"][0]
    assert job["runs"] == [] and job["due"].startswith("2028-02-29T03:00") and not job["running"]
    shown = subprocess.run(
        [BASTIDE, "--data", str(town.house.data), "jobs"], capture_output=True, text=True, check=True
    )
    assert "2028-02-29 03:00" in shown.stdout and "has not run" in shown.stdout


def test_a_run_that_a_kill_cut_off_is_taken_up_again(rough_town: Town) -> None:
    town, house = rough_town, rough_town.house
    code = COUNTS + "\nimport time\nif tries < 2: time.sleep(99)\n"
    code = code.replace('sys.exit(0 if tries >= int(os.environ["NEEDS"]) else 3)', "")
    assert not town.deploy("cut", {"main.py": code}, job=True, volumes=DATA)["failed"]
    until(lambda: "try 1" in "".join(part["text"] for part in house.client.logs("cut")["parts"]))
    house.kill(house.pid("control"))
    until(lambda: _over(town))
    run = last_run(town, "cut")
    assert run["exit_code"] == 0 and run["attempts"] == 2 and run["run"] == 1


def _over(town: Town) -> bool:
    try:
        return bool(last_run(town, "cut")["ended"])
    except BastideError:
        return False
