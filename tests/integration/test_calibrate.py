"""`bastide calibrate` on this machine, with the built-in model: what it writes can be read, and makes sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bastide.wiring.main  # noqa: F401  registers the command
from bastide.cli.application import app
from bastide.domain.errors import InvalidRequest
from bastide.domain.lifecycle import Rung
from bastide.sim.calibration import load


@pytest.mark.timeout(60)
def test_what_it_writes_can_be_read_and_makes_sense(tmp_path: Path) -> None:
    file = tmp_path / "here.yaml"
    ended = CliRunner().invoke(app, ["calibrate", str(file), "--name", "small", "--device", "here", "--json"])
    assert ended.exit_code == 0, ended.output
    found = load(file)
    costs, facts, device = found.measured["small", "here"], found.models["small"], found.devices["here"]
    assert json.loads(ended.stdout)["file"] == str(file)
    assert facts.weights_bytes > 2**20 and facts.kv_bytes_per_token == 1024
    assert costs.held_bytes > facts.weights_bytes
    assert {Rung.FROZEN, Rung.DEEP, Rung.OFF} <= set(costs.rungs)
    assert all(0 < rung.wake_s < 30 for rung in costs.rungs.values())
    assert costs.rungs[Rung.DEEP].held_bytes < costs.held_bytes
    rates = [rate for _, rate in costs.decode_tokens_per_s]
    assert rates == sorted(rates) and rates[0] > 1 and costs.prefill_tokens_per_s > 1
    assert device.load_bytes_per_s > 1 and device.memory_bytes_per_s > 1
    assert not costs.derived


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "notes.gguf"
    other.write_text("not a model")
    for words, says in (
        (["--model", str(other)], "can't be measured"),
        (["--model", "nowhere.gguf"], "there is no file"),
    ):
        ended = CliRunner().invoke(app, ["calibrate", str(tmp_path / "here.yaml"), *words])
        assert isinstance(ended.exception, InvalidRequest) and says in str(ended.exception)
    assert not (tmp_path / "here.yaml").exists()
