"""Control groups of version 2, on a tree of files: which are written, and with what. Version 1 is used for real elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from bastide.adapters.isolation.groups import Groups
from bastide.domain.isolation import Limits


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    return tmp_path


def test_limits_are_written(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 0)
    groups = Groups("test", mount)
    assert groups.version == 2
    assert groups.enforces == {"memory", "cpu", "processes"}
    assert groups.freezes
    files = groups.make("box", Limits(memory_bytes=1 << 20, cpu=0.5, processes=7))
    folder = mount / "bastide-test" / "box"
    assert files == (str(folder / "cgroup.procs"),)
    assert (folder / "memory.max").read_text() == str(1 << 20)
    assert (folder / "cpu.max").read_text() == "50000 100000"
    assert (folder / "pids.max").read_text() == "7"
    groups.limit("box", Limits())
    assert (folder / "memory.max").read_text() == (folder / "pids.max").read_text() == "max"


def test_what_can_not_be_enforced_is_named(tmp_path: Path) -> None:
    groups = Groups("test", tmp_path)  # no controllers at all
    assert groups.enforces == frozenset()
    assert groups.lacks(Limits()) is None
    assert "memory" in (groups.lacks(Limits(memory_bytes=1)) or "")
    assert "cpu" in (groups.lacks(Limits(cpu=1.0)) or "")
    assert "processes" in (groups.lacks(Limits(processes=1)) or "")
