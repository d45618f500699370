"""`bastide calibrate`: measures this machine with the real engine, and writes the file that simulations run by."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bastide.cli.context import JsonOption
from bastide.cli.show import as_json, err, out, table
from bastide.domain.errors import InvalidRequest, Unsupported
from bastide.domain.lifecycle import Rung
from bastide.domain.units import format_bytes, format_duration

if TYPE_CHECKING:
    from bastide.sim.calibration import Calibration


def register(app: typer.Typer) -> None:
    app.command()(calibrate)


def calibrate(
    to: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")] = Path("calibration.yaml"),
    model: Annotated[
        Path | None, typer.Option(help="A GGUF file to measure with (default: the built-in model).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the model (default: its file's name).")] = None,
    device: Annotated[str | None, typer.Option(help="What to call this machine's device (default: cpu-CORES).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine (default: all cores).")] = None,
    json: JsonOption = False,
) -> None:
    """Measure what loading, sleeping, waking, reading and writing cost on this machine. Under a minute for a small model."""
    from bastide.builtin.tiny import weights_path
    from bastide.wiring.rungs import holding, test_rungs

    try:
        from bastide.sim.calibration import dump
        from bastide.wiring.measuring import Plan, measure
    except ImportError as error:
        raise Unsupported(f"calibrating needs {error.name}: pip install 'bastide[sim]'") from None
    path = model if model is not None else Path(weights_path())
    if not path.is_file():
        raise InvalidRequest(f"there is no file {path}")
    if to.exists() and not to.is_file():
        raise InvalidRequest(f"{to} is no file; name one to write")
    rungs = frozenset(rung for rung in holding(test_rungs()) if rung is not Rung.OFF)
    plan = Plan(path, rungs, threads or len(os.sched_getaffinity(0)))
    found = asyncio.run(measure(plan, lambda text: err.print(text, style="bright_black")))
    found = _called(found, name, device)
    to.write_text(dump(found))
    if json:
        as_json({"file": str(to), "calibration": dump(found)})
        return
    _show(found)
    out.print(f"written to {to}")


def _called(found: Calibration, name: str | None, device: str | None) -> Calibration:
    """The same, under the names that were asked for."""
    (old_device, costs), (old_name, facts) = next(iter(found.devices.items())), next(iter(found.models.items()))
    device, name = device or old_device, name or old_name
    pair = found.measured[old_name, old_device]
    return replace(found, devices={device: costs}, models={name: facts}, measured={(name, device): pair})


def _show(found: Calibration) -> None:
    (model, device), costs = next(iter(found.measured.items()))
    facts, here = found.models[model], found.devices[device]
    shown = table(f"{model} ON {device}", "")
    shown.add_row("weights", format_bytes(facts.weights_bytes))
    shown.add_row("held awake", format_bytes(costs.held_bytes))
    shown.add_row("from disk, from the page cache", f"{_rate(here.load_bytes_per_s)}, {_rate(here.wake_bytes_per_s)}")
    for rung, at in sorted(costs.rungs.items(), key=lambda item: item[0].depth):
        text = f"wakes in {format_duration(at.wake_s)}, holds {format_bytes(at.held_bytes)}"
        down = f", sleeps in {format_duration(at.sleep_s)}" if at.sleep_s else ""
        shown.add_row(rung.value, text + down)
    shown.add_row("reads prompts", f"{costs.prefill_tokens_per_s:.0f} tokens/s")
    rates = ", ".join(f"{rate:.0f} of {size}" for size, rate in costs.decode_tokens_per_s)
    shown.add_row("writes answers", f"{rates} at once, tokens/s")
    shown.add_row("memory of a token", format_bytes(facts.kv_bytes_per_token))
    out.print(shown)


def _rate(bytes_per_s: float) -> str:
    return f"{format_bytes(int(bytes_per_s))}/s"
