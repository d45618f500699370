"""One real Bastide for all gentle tests of apps; what they install comes from wheels made on the spot."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))
sys.path.insert(0, str(Path(__file__).parent.parent / "builds"))
sys.path.insert(0, str(Path(__file__).parent.parent / "sandboxes"))

from app_town import Town
from house import House
from wheelhouse import installed_wheels


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Wheels of FastAPI and what it needs; nothing is fetched while tests run."""
    wheels = installed_wheels(tmp_path_factory.mktemp("wheels"))
    before = {name: os.environ.get(name) for name in ("UV_FIND_LINKS", "UV_NO_INDEX")}
    os.environ |= {"UV_FIND_LINKS": str(wheels), "UV_NO_INDEX": "1"}
    yield wheels
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory, offline: Path) -> Iterator[Town]:
    house = House(tmp_path_factory.mktemp("apps"), "--memory", "2GiB").start()
    try:
        yield Town(house, tmp_path_factory.mktemp("code"))
    finally:
        house.end()


@pytest.fixture
def rough_town(tmp_path: Path, offline: Path) -> Iterator[Town]:
    """A Bastide of one's own, to be treated badly."""
    house = House(tmp_path / "house", "--memory", "1GiB").start()
    try:
        yield Town(house, tmp_path / "code")
    finally:
        house.end()
