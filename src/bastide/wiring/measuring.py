"""What this machine and one model on it cost, measured with the real engine: what `bastide calibrate` writes down.

Owns a keeper of its own in a directory of its own, for as long as it measures; nothing of a running Bastide is touched.
Every figure is the median of a few; a machine that is busy with other things gives other figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bastide.adapters.runtime import proc
from bastide.adapters.runtime.http import ask
from bastide.adapters.runtime.process import ProcessRuntime
from bastide.domain.errors import EngineGarbage, InvalidRequest
from bastide.domain.instances import Assignment, LaunchSpec, WeightFile
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import ServiceSpec
from bastide.engines.llamacpp import LlamaCpp
from bastide.engines.port import Ask, Place
from bastide.sim.calibration import Calibration, DeviceCosts, ModelCosts, ModelFacts, RungCosts
from bastide.weights.gguf_header import NotGguf, read_header

INSTANCE = "calibrate.model.1.0"
# Bits a weight takes in the files that are usual here; says how many parameters a file of so many bytes has.
BITS_PER_WEIGHT = 8.5
PROMPT_TOKENS = 384
OUTPUT_TOKENS = 32
PART_BYTES = 4 * 2**20
COPY_BYTES = 128 * 2**20
ANSWER_S_MAX = 120.0
KEEPER_ENDS_S = 0.2  # or its end is told to a loop that is closed


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `batches`: how many requests at once; `rungs`: those that hold here."""

    weights: Path
    rungs: frozenset[Rung]
    threads: int
    rounds: int = 3
    batches: tuple[int, ...] = (1, 2, 4)
    context_tokens: int = 2048


async def measure(plan: Plan, told: Callable[[str], None]) -> Calibration:
    """Takes a minute or less. Raises InvalidRequest where the file is no model, EngineError where the engine fails."""
    try:
        header = read_header(str(plan.weights))
    except (NotGguf, OSError) as error:
        raise InvalidRequest(f"{plan.weights} can't be measured: {error}") from None
    weights_bytes = plan.weights.stat().st_size
    kv_bytes = 2 * header.layers * header.kv_heads * header.head_length * 2
    told("reading the weights, from disk and from the page cache")
    disk_s, cached_s = _reading(plan.weights)
    bandwidth = _copying()
    async with _bench(plan) as bench:
        told("starting the engine, from the page cache and from disk")
        warm_s = statistics.median([await bench.start(cold=False) for _ in range(plan.rounds)])
        held_bytes = await bench.held()
        told("putting it to sleep and waking it, rung by rung")
        rungs = {rung: await bench.rung(rung) for rung in sorted(plan.rungs, key=lambda rung: rung.depth)}
        rungs[Rung.OFF] = RungCosts(
            wake_s=statistics.median([await bench.start(cold=True) for _ in range(plan.rounds)])
        )
        told("reading prompts and writing answers")
        prefill = statistics.median([await bench.prefill() for _ in range(plan.rounds)])
        decode = [(size, await bench.decode(size)) for size in plan.batches]
    parameters = weights_bytes * 8 / BITS_PER_WEIGHT
    step_s = max(0.0, 1 / decode[0][1] - weights_bytes / bandwidth)
    device = DeviceCosts(
        memory_bytes=proc.memory_bytes()[0],
        memory_bytes_per_s=bandwidth,
        flops_per_s=2 * parameters * prefill,
        load_bytes_per_s=weights_bytes / disk_s,
        wake_bytes_per_s=weights_bytes / cached_s,
        start_s=max(0.001, warm_s - weights_bytes / bandwidth),
        step_s=step_s,
        power_w=0.0,  # this machine does not say
        idle_power_w=0.0,
    )
    name, here = plan.weights.stem, f"cpu-{plan.threads}"
    costs = ModelCosts(held_bytes, prefill, _rising(decode), rungs)
    facts = ModelFacts(parameters, weights_bytes, kv_bytes)
    return Calibration("bastide calibrate", {here: device}, {name: facts}, {(name, here): costs})


def _rising(decode: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """A larger batch never writes fewer tokens in all: where it was seen to, the machine was busy."""
    best, found = 0.0, []
    for size, rate in decode:
        best = max(best, rate)
        found.append((size, round(best, 3)))
    return tuple(found)


def _reading(path: Path) -> tuple[float, float]:
    """Seconds to read the file from the disk, and again from the page cache."""
    _forget_pages(path)
    times = []
    for _ in range(2):
        began_s = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            while file.read(PART_BYTES):
                pass
        times.append(max(1e-6, time.perf_counter() - began_s))
    return times[0], times[1]


def _forget_pages(path: Path) -> None:
    """Out of the page cache, as far as nobody else has it mapped."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _copying() -> float:
    """Bytes per second that memory moves, read and written."""
    source = bytes(COPY_BYTES)
    times = []
    for _ in range(5):
        began_s = time.perf_counter()
        bytearray(source)
        times.append(time.perf_counter() - began_s)
    return 2 * COPY_BYTES / statistics.median(times)


class _Bench:
    """One engine under the runtime, asked over its own socket."""

    def __init__(self, plan: Plan, runtime: ProcessRuntime, launch: LaunchSpec) -> None:
        self._plan, self._runtime, self._launch = plan, runtime, launch
        self._number = 0

    async def start(self, *, cold: bool) -> float:
        """End what runs, and start anew, nothing kept; `cold`: the weights are not in the page cache either."""
        if self._runtime.identity(INSTANCE) is not None:
            await self._runtime.stop(INSTANCE, 2.0)
        self._runtime.forget_state(self._launch)
        if cold:
            _forget_pages(self._plan.weights)
        return await self._wake(self._begin)

    async def rung(self, rung: Rung) -> RungCosts:
        """Seconds down and up again, the first answer after it beyond an awake one's counted in; what it holds."""
        awake_s = await self._canary_s()
        down, up, held = [], [], 0
        for _ in range(self._plan.rounds):
            began_s = time.perf_counter()
            await self._runtime.sink(INSTANCE, rung)
            down.append(time.perf_counter() - began_s)
            if rung.has_process:
                held = (await self._runtime.footprint(INSTANCE)).charge_bytes
                up.append(await self._wake(lambda: self._runtime.wake(INSTANCE)))
            else:
                held = self._runtime.saved_bytes(self._launch)
                up.append(await self._wake(self._begin))
        wake_s = max(0.0005, statistics.median(up) - awake_s)
        return RungCosts(held_bytes=held, sleep_s=round(statistics.median(down), 5), wake_s=round(wake_s, 5))

    async def held(self) -> int:
        """What it holds awake and in use."""
        await self.prefill()
        return (await self._runtime.footprint(INSTANCE)).charge_bytes

    async def prefill(self) -> float:
        """Tokens of a prompt a second."""
        timings = (await self._complete(PROMPT_TOKENS, 1))["timings"]
        return 1000 * float(timings["prompt_n"]) / float(timings["prompt_ms"])

    async def decode(self, batch: int) -> float:
        """Tokens a second of so many answers at once, in all."""
        answers = await asyncio.gather(*(self._complete(8, OUTPUT_TOKENS) for _ in range(batch)))
        return sum(1000 * float(a["timings"]["predicted_n"]) / float(a["timings"]["predicted_ms"]) for a in answers)

    async def _begin(self) -> None:
        await self._runtime.start(self._launch, lambda text, fraction: None)

    async def _wake(self, how: Callable[[], object]) -> float:
        began_s = time.perf_counter()
        await how()  # type: ignore[misc]
        await self._runtime.canary(INSTANCE)
        return time.perf_counter() - began_s

    async def _canary_s(self) -> float:
        times = []
        for _ in range(3):
            began_s = time.perf_counter()
            await self._runtime.canary(INSTANCE)
            times.append(time.perf_counter() - began_s)
        return statistics.median(times)

    async def _complete(self, prompt_tokens: int, tokens: int) -> dict[str, dict[str, float]]:
        self._number += 1
        prompt = [1 + (self._number * 7919 + place * 104_729) % 1000 for place in range(prompt_tokens)]
        body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        request = Ask("POST", "/completion", json.dumps(body).encode())
        status, answer = await ask(self._launch.socket, self._launch.secret, request, ANSWER_S_MAX)
        if status != 200:
            raise EngineGarbage(f"the engine answered {status}: {answer[:200]!r}")
        found: dict[str, dict[str, float]] = json.loads(answer)
        return found


@asynccontextmanager
async def _bench(plan: Plan) -> AsyncIterator[_Bench]:
    engines = {LlamaCpp.name: LlamaCpp()}
    with tempfile.TemporaryDirectory(prefix="bastide-calibrate-") as folder:
        spec = ServiceSpec("calibrate", "model", context_tokens=plan.context_tokens, target_in_flight=max(plan.batches))
        file = WeightFile(str(plan.weights.absolute()), plan.weights.stat().st_size, "")
        place = Place(folder, folder, f"{folder}/state", plan.threads, 60.0, secrets.token_urlsafe(16))
        launch = LlamaCpp().launch(Assignment(INSTANCE, 1, 0, spec, file), place)
        runtime = ProcessRuntime(f"{folder}/keeper", engines)
        try:
            await runtime.warm("xllamacpp")
            yield _Bench(plan, runtime, launch)
        finally:
            await runtime.close(end_engines=True)
            await asyncio.sleep(KEEPER_ENDS_S)
