"""One Bastide for a whole module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_town import SPEC, Town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    started = Town(folder / "data")
    try:
        file = folder / "spec.yaml"
        file.write_text(SPEC)
        done = started.run("deploy", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        yield started
    finally:
        status = started.end()
    assert status == 0
