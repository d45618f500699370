"""What all tests share: short paths for each worker, and examples that may take the time they take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Two workers share two cores: how long one example takes says nothing. What must be quick is measured in benchmarks/.
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """A worker's directory is named by its number alone: a Unix socket's path holds 107 bytes, and Bastide moves its sockets elsewhere before that."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and config.option.basetemp is not None:
        config.option.basetemp = str(Path(config.option.basetemp).with_name(worker.removeprefix("gw")))


@pytest.fixture(scope="session", autouse=True)
def found_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tiers of isolation are proven anew in each run of the tests, once: all workers remember it in one place, and none reads the user's own."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield
