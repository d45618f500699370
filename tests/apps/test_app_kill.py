"""kill -9 of each process in turn: apps live on or come back, and an end leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from app_town import SMALL, Town
from house import alive, until

from bastide.domain.errors import Conflict, PlatformError
from bastide.wiring.places import Places


def keeper_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("role", ["gateway", "control", "agent"])
def test_an_app_lives_on_when_others_are_killed(rough_town: Town, role: str) -> None:
    town, house = rough_town, rough_town.house
    assert not town.deploy("app", {"main.py": SMALL})["failed"]
    before = town.json("app")["pid"], house.instance("app")["pid"]
    house.kill(house.pid(role))
    until(lambda: _answers(town))
    until(lambda: _told(lambda: house.instance("app")["phase"] == "awake"))
    assert (town.json("app")["pid"], house.instance("app")["pid"]) == before
    until(lambda: _told(lambda: house.client.sleep("app")))
    assert town.json("app")["mark"] == "first"  # and starts anew, with what it is told in confidence


def _told(ask: Callable[[], object]) -> object:
    """While a process is started again, others say that it is away."""
    try:
        return ask()
    except (PlatformError, Conflict):
        return None


def _answers(town: Town) -> bool:
    try:
        return town.ask("app")[0] == 200
    except OSError:
        return False


def test_what_its_keeper_took_with_it_comes_back_and_an_end_leaves_nothing(rough_town: Town) -> None:
    town, house = rough_town, rough_town.house
    assert not town.deploy("app", {"main.py": SMALL})["failed"]
    box = int(house.instance("app")["pid"])
    house.kill(keeper_of(box))
    until(lambda: not alive(box))
    until(lambda: _answers(town))
    again = int(house.instance("app")["pid"])
    assert again != box
    house.end()
    assert not alive(again)
    boxes = Places(house.data).sockets / "a"
    assert not boxes.is_dir() or list(boxes.iterdir()) == []
    own = Places(house.data).private_name
    assert list(Path("/sys/fs/cgroup").glob(f"*/bastide/{own}-apps/app-*")) == []
