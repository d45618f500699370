"""What things cost: the calibration file that simulations run by. Owns its format, reading, writing and what is derived.

A calibration knows kinds of devices, models, and what was measured of a model on a device. Where a pair was not measured,
its costs are derived from the device and the model, and say so (`derived`). `bastide calibrate` writes such a file;
`shipped()` is the one in the package, whose header names the source of every figure.

    calibration: 1
    source: bastide calibrate on node-a
    devices:
      cpu-2: {memory_bytes: 8GiB, memory_bytes_per_s: 12e9, flops_per_s: 60e9, load_bytes_per_s: 1.1e9,
              wake_bytes_per_s: 3e9, start_s: 0.03, step_s: 0.0005, power_w: 30, idle_power_w: 8}
    models:
      smol-135m:
        parameters: 135e6
        weights_bytes: 145MB
        kv_bytes_per_token: 23040
        measured:
          cpu-2:
            held_bytes: 220MiB
            prefill_tokens_per_s: 900
            decode_tokens_per_s: {1: 55, 4: 120}   # of the whole batch, by its size
            rungs:
              light: {held_bytes: 0, host_bytes: 220MiB, sleep_s: 0.05, wake_s: 0.09}
              deep: {wake_s: 0.30}
              off: {wake_s: 0.45}                  # from weights on the node's disk
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bastide.domain.errors import InvalidSpec
from bastide.domain.lifecycle import Rung
from bastide.sim.reading import Reading, bytes_of, in_file, number, text_in, text_of

FORMAT = 1
SHIPPED = Path(__file__).with_name("calibrations") / "default.yaml"
# Beside its weights an engine holds this share of them for itself, and room for this many tokens of memory.
ENGINE_SHARE = 0.06
KV_TOKENS = 16_384
# Weights that lie in host memory take a moment beyond the copying; so do engines that keep their process.
WAKE_FIXED_S = 0.05
FROZEN_WAKE_S = 0.005


@dataclass(frozen=True, slots=True)
class DeviceCosts:
    """One kind of device. Rates are what is sustained, not peaks.

    `load_bytes_per_s`: weights from the node's disk or page cache; `wake_bytes_per_s`: from host memory. `start_s`: until
    a new engine begins to load. `step_s`: what every decoding step takes beyond reading memory.
    """

    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: float
    load_bytes_per_s: float
    wake_bytes_per_s: float
    start_s: float
    step_s: float
    power_w: float
    idle_power_w: float


@dataclass(frozen=True, slots=True)
class RungCosts:
    """Resting on a rung: bytes held on the device and in host memory; seconds to step down to it and to wake from it."""

    held_bytes: int = 0
    host_bytes: int = 0
    sleep_s: float = 0.0
    wake_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model is, wherever it runs. `kv_bytes_per_token`: memory of one token of context."""

    parameters: float
    weights_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """A model on a kind of device. `decode_tokens_per_s`: (size of batch, tokens a second of all of it), sizes rising.

    `rungs` holds `off` at least: waking from it is a start from weights on the node's disk.
    """

    held_bytes: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: tuple[tuple[int, float], ...]
    rungs: Mapping[Rung, RungCosts]
    derived: bool = False

    def step_s(self, batch: int) -> float:
        """Seconds of one decoding step of so many requests: straight lines between what was measured, and on beyond."""
        points = [(size, size / rate) for size, rate in self.decode_tokens_per_s]
        if len(points) == 1 or batch <= points[0][0]:
            return points[0][1]
        after = next((i for i, (size, _) in enumerate(points) if size >= batch), len(points) - 1)
        (low, low_s), (high, high_s) = points[after - 1], points[after]
        return max(points[0][1], low_s + (high_s - low_s) * (batch - low) / (high - low))


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that is known, by name. `measured` by (model, device)."""

    source: str
    devices: Mapping[str, DeviceCosts] = field(default_factory=dict)
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    measured: Mapping[tuple[str, str], ModelCosts] = field(default_factory=dict)

    def costs(self, model: str, device: str, parts: int = 1) -> ModelCosts:
        """What is measured of the pair, else what is derived. `parts`: devices it is split over. KeyError: unknown name."""
        found = self.measured.get((model, device)) if parts == 1 else None
        return found if found is not None else derive(self.models[model], self.devices[device], parts)

    def with_models(self, models: Mapping[str, ModelFacts]) -> Calibration:
        """The same, and more models; those of one name are replaced, with what was measured of them."""
        kept = {pair: costs for pair, costs in self.measured.items() if pair[0] not in models}
        return replace(self, models={**self.models, **models}, measured=kept)

    def over(self, base: Calibration) -> Calibration:
        """This one's figures, and the base's where this one has none."""
        return Calibration(
            f"{self.source}; else {base.source}",
            {**base.devices, **self.devices},
            {**base.models, **self.models},
            {**base.measured, **self.measured},
        )


def derive(model: ModelFacts, device: DeviceCosts, parts: int = 1) -> ModelCosts:
    """Costs of a pair that nobody measured: decoding reads the weights once a step, a prompt costs two operations a
    parameter and token, loading and waking move the weights. Split over `parts` devices, each moves its part."""
    weights = model.weights_bytes / parts
    held = int(weights * (1 + ENGINE_SHARE) + KV_TOKENS * model.kv_bytes_per_token / parts)
    read_s = weights / device.memory_bytes_per_s + device.step_s
    # Each sequence adds its own memory to what a step reads (2,000 tokens, an everyday length) and its own operations.
    each_s = 2000 * model.kv_bytes_per_token / parts / device.memory_bytes_per_s
    each_s += 2 * model.parameters / parts / device.flops_per_s
    rates = tuple((size, size / (read_s + size * each_s)) for size in (1, 8, 64, 256))
    load_s = weights / device.load_bytes_per_s
    copy_s = weights / device.wake_bytes_per_s
    rungs = {
        Rung.FROZEN: RungCosts(held, 0, FROZEN_WAKE_S, FROZEN_WAKE_S),
        Rung.LIGHT: RungCosts(int(0.01 * held), int(weights), copy_s + WAKE_FIXED_S, copy_s + WAKE_FIXED_S),
        Rung.DEEP: RungCosts(0, 0, 0.2, load_s + 0.25 * device.start_s),
        Rung.OFF: RungCosts(0, 0, 0.2, load_s + device.start_s),
    }
    return ModelCosts(held, device.flops_per_s * parts / (2 * model.parameters), rates, rungs, derived=True)


def shipped() -> Calibration:
    """The calibration in the package."""
    return load(SHIPPED)


def load(path: Path) -> Calibration:
    """Read a calibration file (YAML or JSON). Raises InvalidSpec with every problem and its line."""
    text = text_in(path, "a file that `bastide calibrate` wrote")
    try:
        return parse(text)
    except InvalidSpec as error:
        raise in_file(error, path) from None


def parse(text: str) -> Calibration:
    """A calibration from the text of its file. Raises InvalidSpec with every problem."""
    reading = Reading()
    root = reading.root(text)
    reading.known(root, "", ("calibration", "source", "measured_at", "devices", "models"))
    version = reading.value(root, "", "calibration", number(1, 1000), None)
    if version is not None and version != FORMAT:
        reading.wrong(root.line, "calibration", f"is format {version:g}, and this Bastide reads format {FORMAT}")
    source = reading.value(root, "", "source", text_of, "a file")
    devices = {name: _device(reading, f"devices.{name}", branch) for name, branch in reading.named(root, "", "devices")}
    models: dict[str, ModelFacts] = {}
    measured: dict[tuple[str, str], ModelCosts] = {}
    for name, branch in reading.named(root, "", "models"):
        where = f"models.{name}"
        reading.known(branch, where, (*_MODEL, "measured"))
        models[name] = model_facts(reading, where, branch)
        for device, pair in reading.named(branch, where, "measured"):
            measured[name, device] = _pair(reading, f"{where}.measured.{device}", pair)
    reading.finish()
    return Calibration(source, devices, models, measured)


_DEVICE = {
    "memory_bytes": bytes_of,
    "memory_bytes_per_s": number(1.0),
    "flops_per_s": number(1.0),
    "load_bytes_per_s": number(1.0),
    "wake_bytes_per_s": number(1.0),
    "start_s": number(0.0),
    "step_s": number(0.0),
    "power_w": number(0.0),
    "idle_power_w": number(0.0),
}
_MODEL = {"parameters": number(1.0), "weights_bytes": bytes_of, "kv_bytes_per_token": number(0.0)}
_RUNG = {"held_bytes": bytes_of, "host_bytes": bytes_of, "sleep_s": number(0.0), "wake_s": number(0.0)}


def _device(reading: Reading, where: str, branch: Any) -> DeviceCosts:
    reading.known(branch, where, tuple(_DEVICE))
    values = {key: reading.value(branch, where, key, parser, None) for key, parser in _DEVICE.items()}
    return DeviceCosts(**{key: 1 if value is None else value for key, value in values.items()})


def model_facts(reading: Reading, where: str, branch: Any) -> ModelFacts:
    """What a model is; unknown keys are the caller's to refuse."""
    values = {key: reading.value(branch, where, key, parser, None) or 0 for key, parser in _MODEL.items()}
    return ModelFacts(float(values["parameters"]), int(values["weights_bytes"]), int(values["kv_bytes_per_token"]))


def _pair(reading: Reading, where: str, branch: Any) -> ModelCosts:
    reading.known(branch, where, ("held_bytes", "prefill_tokens_per_s", "decode_tokens_per_s", "rungs"))
    held = reading.value(branch, where, "held_bytes", bytes_of, None) or 0
    prefill = reading.value(branch, where, "prefill_tokens_per_s", number(1e-6), None) or 1.0
    rates: list[tuple[int, float]] = []
    for size, value, line in reading.leaves(branch, where, "decode_tokens_per_s"):
        if not size.isdigit() or not int(size):
            reading.wrong(line, f"{where}.decode_tokens_per_s.{size}", "must be the size of a batch, from 1 up")
            continue
        rates.append((int(size), reading.parsed(value, line, f"{where}.decode_tokens_per_s.{size}", number(1e-6), 1.0)))
    if not rates:
        reading.wrong(branch.line, f"{where}.decode_tokens_per_s", "needs a rate, such as {1: 55, 4: 120}")
    rungs: dict[Rung, RungCosts] = {}
    for name, rung in reading.named(branch, where, "rungs"):
        if name not in set(Rung) - {Rung.AWAKE}:
            reading.wrong(rung.line, f"{where}.rungs.{name}", "is no rung; there are frozen, light, deep, off")
            continue
        reading.known(rung, f"{where}.rungs.{name}", tuple(_RUNG))
        values = {key: reading.value(rung, f"{where}.rungs.{name}", key, p, 0) for key, p in _RUNG.items()}
        rungs[Rung(name)] = RungCosts(**values)
    if Rung.OFF not in rungs:
        reading.wrong(branch.line, f"{where}.rungs", "needs `off`: what a start from weights on the node's disk takes")
    return ModelCosts(held, prefill, tuple(sorted(rates)) or ((1, 1.0),), rungs)


def dump(calibration: Calibration) -> str:
    """The text of its file; `parse` reads it back to the same figures."""
    models: dict[str, Any] = {}
    for name, facts in calibration.models.items():
        entry: dict[str, Any] = {key: getattr(facts, key) for key in _MODEL}
        pairs = {
            device: {
                "held_bytes": costs.held_bytes,
                "prefill_tokens_per_s": costs.prefill_tokens_per_s,
                "decode_tokens_per_s": dict(costs.decode_tokens_per_s),
                "rungs": {rung.value: {key: getattr(at, key) for key in _RUNG} for rung, at in costs.rungs.items()},
            }
            for (model, device), costs in calibration.measured.items()
            if model == name
        }
        models[name] = {**entry, **({"measured": pairs} if pairs else {})}
    devices = {name: {key: getattr(device, key) for key in _DEVICE} for name, device in calibration.devices.items()}
    whole = {"calibration": FORMAT, "source": calibration.source, "devices": devices, "models": models}
    return str(yaml.safe_dump(whole, sort_keys=False, width=120))
