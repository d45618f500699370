"""What the agent inside a box is made of: that it starts with little, and that its own small parts do what the usual ones do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bastide.adapters.isolation import etc
from bastide.inside import DIRECTORY, processes, quickjson

values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
)


@given(values)
def test_json_is_read_and_written_as_by_the_usual_package(value: Any) -> None:
    assert quickjson.dumps(value) == json.dumps(value)
    assert quickjson.loads(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", '{"a":', "[1,]", "{} {}", "nothing", '"\ud800', '{"a" 1}'])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        quickjson.loads(text)


def test_the_agent_starts_without_what_is_slow_to_import() -> None:
    """A user waits for it, in gVisor three times as long: this is 40 ms of a cold start."""
    parent = os.path.dirname(DIRECTORY)
    code = f"import sys; sys.path.insert(0, {parent!r}); from inside import agent; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    slow = {"json", "socket", "threading", "subprocess", "signal", "contextlib", "re", "os", "collections", "typing"}
    assert not slow & set(ran.stdout.split())


def test_programs_are_found_by_the_path_they_will_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(
        tmp_path
    )  # starting one moves the whole process for a moment: afterwards we are back where we were
    program = tmp_path / "greet"
    program.write_text("#!/bin/sh\necho here\n")
    with pytest.raises(PermissionError):
        processes.start(["greet"], {"PATH": str(tmp_path)}, "/")
    program.chmod(0o755)
    with pytest.raises(FileNotFoundError):
        processes.start(["greet"], {"PATH": "/nowhere"}, "/")
    with pytest.raises(FileNotFoundError):
        processes.start(["greet"], {"PATH": str(tmp_path)}, "/nowhere")
    with pytest.raises(ValueError):
        processes.start([], {}, "/")


def test_many_that_start_at_once_get_one_etc(tmp_path: Path) -> None:
    made: list[Path] = []
    gate = threading.Barrier(8)

    def make() -> None:
        gate.wait()
        made.append(etc.make(tmp_path / "etc", walled=False))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(made)) == 1
    assert (made[0] / "passwd").read_text() == etc.FILES["passwd"]
    assert [path.name for path in (tmp_path / "etc").iterdir()] == [made[0].name]
    assert etc.make(tmp_path / "etc", walled=True) != made[0]


def test_etc_is_shown_entry_by_entry_where_something_is_laid_in_it(tmp_path: Path) -> None:
    made = etc.make(tmp_path, walled=False)
    assert list(etc.shown(made, ("/data",))) == [(made, "/etc")]
    assert (made / "passwd", "/etc/passwd") in list(etc.shown(made, ("/etc/app",)))


def test_a_directory_in_the_path_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first" / "greet").mkdir(parents=True)
    second = tmp_path / "second"
    second.mkdir()
    (second / "greet").write_text("#!/bin/sh\n")
    (second / "greet").chmod(0o755)
    found = processes._found("greet", {"PATH": f"{tmp_path}/first:{second}"})
    assert found == f"{second}/greet"
