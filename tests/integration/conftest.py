"""Fixtures: one Bastide shared by gentle tests of a module, or one of its own for rough ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import CHAT, House


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"), "--memory", "1GiB").start()
    try:
        ends = house.deploy(CHAT)
        assert ends["chat"]["phase"] == "ready", ends
        yield house
    finally:
        house.end()


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(*options: str, data: Path | None = None) -> House:
        made.append(House(data or tmp_path / f"house-{len(made)}", *(options or ("--memory", "1GiB"))))
        return made[-1]

    yield make
    for house in made:
        house.end()
