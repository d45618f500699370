"""The benchmarks still run, and write what the page is rendered from. Never their figures: those depend on the machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, directory: Path, *more: str) -> dict[str, Any]:
    out = directory / f"{name}.json"
    words = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--work", str(directory), "--out", str(out), *more]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def assert_complete(found: dict[str, Any], name: str) -> None:
    assert found["name"] == name
    assert found["quick"] is True
    assert str(Path.home()) not in found["command"]
    assert found["date"] and found["machine"] and found["predicted"]
    for row in found["rows"]:
        assert row["figure"] and row["measured"]
        assert set(row) == {"figure", "bar", "measured", "met", "why"}


@pytest.mark.timeout(60)
def test_idle_measures_every_own_process(tmp_path: Path) -> None:
    found = run("idle", tmp_path)
    assert_complete(found, "idle")
    assert set(found["details"]["processes"]) == {"supervisor", "agent", "control", "gateway", "keeper"}
    assert len(found["rows"]) == 2


@pytest.mark.timeout(60)
def test_cold_start_measures_both_sides(tmp_path: Path) -> None:
    found = run("cold_start", tmp_path, "--models", "tiny")
    assert_complete(found, "cold_start")
    assert set(found["details"]["tiny"]) == {"ours_ms", "by_hand_ms", "ratio", "rounds"}
