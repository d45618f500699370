"""One real Bastide for all gentle tests of sandboxes, and a sandbox of each tier that holds here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))

from house import House

from bastide import Sandbox
from bastide.sdk import Client

TIERS = ("namespace", "gvisor")


def tier_reports(client: Client) -> dict[str, dict[str, object]]:
    found = client.transport.ask("GET", "/api/v1/templates")["tiers"]
    return {report["tier"]: report for report in found}


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("town"), "--memory", "1GiB", "--sandbox-memory", "8GiB").start()
    try:
        yield house
    finally:
        house.end()


@pytest.fixture(scope="session", params=TIERS)
def tier(request: pytest.FixtureRequest, town: House) -> str:
    """Each tier in turn; one that this machine lacks is skipped by name."""
    name = str(request.param)
    report = tier_reports(town.client)[name]
    if not report["holds"]:
        pytest.skip(f"the {name} tier does not hold on this machine: {report['detail']}")
    return name


@pytest.fixture(scope="session")
def pausing_tier(town: House) -> str:
    report = tier_reports(town.client)["gvisor"]
    if not report["holds"]:
        pytest.skip(f"the gvisor tier does not hold on this machine: {report['detail']}")
    return "gvisor"


@pytest.fixture
def make(town: House) -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that end with the test."""
    made: list[Sandbox] = []

    def create(**options: object) -> Sandbox:
        made.append(Sandbox.create(client=town.client, **options))  # type: ignore[arg-type]
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.__exit__(None, None, None)


@pytest.fixture(scope="session")
def kept(town: House, tier: str) -> Iterator[Sandbox]:
    """A sandbox for tests that leave it as they found it."""
    with Sandbox.create(client=town.client, tier=tier, timeout=600, memory="1GiB", processes=400) as sandbox:
        yield sandbox


def is_root() -> bool:
    return os.getuid() == 0
