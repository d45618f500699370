"""Control groups of version 2, on a tree of files: which are written, and with what. Version 1 is used for real elsewhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
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


def delegated(group: Path, controllers: str, *, given: bool = True) -> Path:
    """A group of files as systemd would delegate it."""
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.controllers").write_text(controllers)
    (group / "cgroup.subtree_control").write_text("")
    (group / "cgroup.procs").write_text("")
    if given:
        os.setxattr(group, "user.delegate", b"1")
    return group


@pytest.fixture
def below(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be in this group."""

    def put(group: str) -> None:
        real = Path.read_text
        told = f"0::{group}\n"
        monkeypatch.setattr(
            Path, "read_text", lambda self, *a, **k: told if str(self) == "/proc/self/cgroup" else real(self, *a, **k)
        )

    return put


def test_root_is_not_held_to_what_a_slice_happens_to_have(
    mount: Path, below: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 0)
    delegated(mount / "system.slice", "memory pids", given=False)
    delegated(mount / "system.slice/some.service", "memory pids", given=False)
    below("/system.slice/some.service")
    groups = Groups("test", mount)
    assert groups.enforces == {"memory", "cpu", "processes"}
    assert (mount / "bastide-test").is_dir() and not list((mount / "system.slice").glob("**/bastide-*"))


@pytest.mark.parametrize("user", [0, 1000])
def test_what_was_delegated_comes_first(
    mount: Path, below: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    monkeypatch.setattr("os.getuid", lambda: user)
    service = delegated(mount / "system.slice/bastide.service", "cpu memory pids")
    delegated(service / "supervisor", "", given=False)
    below("/system.slice/bastide.service/supervisor")
    groups = Groups("test", mount)
    assert groups.enforces == {"memory", "cpu", "processes"}
    assert (service / "bastide-test").is_dir() and not (mount / "bastide-test").exists()


def test_more_comes_before_nearer(mount: Path, below: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 0)
    service = delegated(mount / "bastide.service", "memory")
    below("/bastide.service")
    assert Groups("test", mount).enforces == {"memory", "cpu", "processes"}
    assert not (service / "bastide-test").exists()


def test_who_is_in_a_group_that_was_given_to_us_steps_aside(
    mount: Path, below: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel has it: a group with processes of its own can't be divided."""
    monkeypatch.setattr("os.getuid", lambda: 1000)
    service = delegated(mount / "bastide.service", "cpu memory pids")
    (service / "cgroup.procs").write_text("41\n42\n")
    real = Path.write_text

    def write(self: Path, text: str, *given: object) -> int:
        if self == service / "cgroup.subtree_control" and (service / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "Device or resource busy")
        if self == service / "supervisor/cgroup.procs":
            left = [pid for pid in (service / "cgroup.procs").read_text().split() if pid != text]
            real(service / "cgroup.procs", "".join(f"{pid}\n" for pid in left))
        return real(self, text)

    monkeypatch.setattr(Path, "write_text", write)
    below("/bastide.service")
    assert Groups("test", mount).enforces == {"memory", "cpu", "processes"}
    assert (service / "cgroup.procs").read_text() == "" and (service / "supervisor/cgroup.procs").exists()
    # One that nobody gave to us stays as it is.
    other = delegated(mount / "other.service", "cpu memory pids", given=False)
    (other / "cgroup.procs").write_text("43\n")
    below("/other.service")
    Groups("test", mount)
    assert not (other / "supervisor").exists()
