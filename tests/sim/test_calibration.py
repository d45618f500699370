"""The calibration file: what is written is read back, what makes no sense is refused by line, what is not measured is derived."""

from __future__ import annotations

from pathlib import Path

import pytest

from bastide.domain.errors import InvalidSpec
from bastide.domain.lifecycle import Rung
from bastide.sim.calibration import Calibration, ModelCosts, RungCosts, dump, load, parse, shipped

MEASURED = """calibration: 1
source: measured
devices:
  cpu-2: {memory_bytes: 8GiB, memory_bytes_per_s: 12e9, flops_per_s: 60e9, load_bytes_per_s: 1.1e9,
          wake_bytes_per_s: 3e9, start_s: 0, step_s: 0.0005, power_w: 30, idle_power_w: 8}
models:
  smol:
    parameters: 135e6
    weights_bytes: 145MB
    kv_bytes_per_token: 23040
    measured:
      cpu-2:
        held_bytes: 220MiB
        prefill_tokens_per_s: 900
        decode_tokens_per_s: {1: 50, 4: 100}
        rungs: {light: {host_bytes: 220MiB, wake_s: 0.09}, off: {wake_s: 0.45}}
"""


def test_what_is_written_is_read_back() -> None:
    found = parse(MEASURED)
    assert found.devices["cpu-2"].start_s == 0
    assert found.costs("smol", "cpu-2").rungs[Rung.OFF] == RungCosts(wake_s=0.45)
    for calibration in (found, shipped(), found.over(shipped())):
        again = parse(dump(calibration))
        assert (again.devices, again.models, again.measured) == (
            calibration.devices,
            calibration.models,
            calibration.measured,
        )


def test_a_batch_between_and_beyond_those_measured() -> None:
    costs = parse(MEASURED).costs("smol", "cpu-2")
    assert [costs.step_s(batch) for batch in (1, 4, 7)] == pytest.approx([0.02, 0.04, 0.06])
    assert costs.step_s(2) == pytest.approx(0.02 + 0.02 / 3)
    assert ModelCosts(1, 1.0, ((1, 10.0),), {}).step_s(9) == pytest.approx(0.1)


def test_what_was_not_measured_is_derived_and_says_so() -> None:
    costs = shipped().costs("llama-3.1-8b", "H100")
    assert costs.derived and not parse(MEASURED).costs("smol", "cpu-2").derived
    assert costs.rungs[Rung.LIGHT].wake_s == pytest.approx(0.68, abs=0.1), "as published for it"
    wakes = [costs.rungs[rung].wake_s for rung in (Rung.FROZEN, Rung.LIGHT, Rung.DEEP, Rung.OFF)]
    assert wakes == sorted(wakes)
    halves = shipped().costs("llama-3.1-8b", "H100", 2)
    assert halves.held_bytes == pytest.approx(costs.held_bytes / 2, rel=0.01)
    with pytest.raises(KeyError):
        Calibration("none").costs("smol", "cpu-2")


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    bad = MEASURED.replace("135e6", "nan").replace("145MB", "-3").replace("off: {wake_s: 0.45}", "asleep: {}")
    bad = bad.replace("{1: 50, 4: 100}", "{none: 50}").replace("power_w: 30", "power: 30").replace("n: 1", "n: 2", 1)
    (tmp_path / "bad.yaml").write_text(bad)
    with pytest.raises(InvalidSpec) as caught:
        load(tmp_path / "bad.yaml")
    said = "\n".join(str(problem) for problem in caught.value.problems)
    for expected in (
        "line 1: calibration: is format 2",
        "line 5: devices.cpu-2.power: unknown key; did you mean `power_w`?",
        "line 4: devices.cpu-2.power_w: is missing",
        "line 8: models.smol.parameters: must be a number from 1 up, not 'nan'",
        "line 9: models.smol.weights_bytes",
        "line 15: models.smol.measured.cpu-2.decode_tokens_per_s.none: must be the size of a batch",
        "line 16: models.smol.measured.cpu-2.rungs.asleep: is no rung",
        "needs `off`",
    ):
        assert expected in said, said
    with pytest.raises(InvalidSpec, match="there is no such file; name a file that `bastide calibrate` wrote"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InvalidSpec, match="must be a mapping"):
        parse("[]")
