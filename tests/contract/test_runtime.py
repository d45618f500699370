"""The runtime's contract, on every adapter: real processes under the keeper, and the one in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bastide.adapters.runtime import proc
from bastide.adapters.runtime.boxed import Boxes
from bastide.adapters.runtime.memory import MemoryRuntime
from bastide.adapters.runtime.process import ProcessRuntime
from bastide.agent.service import NodeRuntime
from bastide.builtin import tiny
from bastide.domain.errors import EngineLost, EngineStartFailed
from bastide.domain.instances import Assignment, LaunchSpec, WeightFile
from bastide.domain.isolation import Box, Tier
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import ServiceSpec
from bastide.engines.llamacpp import LlamaCpp
from bastide.engines.port import Place

INSTANCE = "default.chat.1.0"
Test = Callable[["Bench"], Awaitable[None]]


class Bench:
    """One adapter with what it needs to start an engine, and how to kill one from outside."""

    def __init__(self, runtime: NodeRuntime, folder: Path) -> None:
        self.runtime, self.folder = runtime, folder
        self.ended: list[tuple[str, str]] = []
        self.faults: list[bool] = []
        self.changed = asyncio.Event()
        runtime.watch(self._died)

    async def _died(self, instance: str, reason: str, own_fault: bool) -> None:
        self.faults.append(own_fault)
        self.ended.append((instance, reason))
        self.changed.set()

    def launch(self, weights: Path | None = None) -> LaunchSpec:
        path = weights or tiny.weights_path()
        file = WeightFile(str(path), path.stat().st_size, "sha")
        spec = ServiceSpec("default", "chat", context_tokens=256, target_in_flight=2)
        place = Place(str(self.folder), str(self.folder), str(self.folder / "state"), 2, 5.0, "secret")
        return LlamaCpp().launch(Assignment(INSTANCE, 1, 0, spec, file), place)

    async def start(self) -> LaunchSpec:
        launch = self.launch()
        await self.runtime.start(launch, lambda text, fraction: None)
        return launch

    async def kill(self) -> None:
        if isinstance(self.runtime, MemoryRuntime):
            await self.runtime.kill(INSTANCE)
        else:
            identity = self.runtime.identity(INSTANCE)
            assert identity is not None
            os.kill(identity.pid, signal.SIGKILL)


@asynccontextmanager
async def bench(kind: str, folder: Path) -> AsyncIterator[Bench]:
    runtime: NodeRuntime = (
        MemoryRuntime() if kind == "memory" else ProcessRuntime(str(folder / "keeper"), {LlamaCpp.name: LlamaCpp()})
    )
    try:
        yield Bench(runtime, folder)
    finally:
        await runtime.close(end_engines=True)


@pytest.fixture(params=["memory", "process"])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def main() -> None:
            async with bench(request.param, tmp_path) as made:
                await test(made)

        asyncio.run(main())

    return run


def test_a_start_is_ready_when_it_returns(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        said: list[str] = []
        identity = await b.runtime.start(b.launch(), lambda text, fraction: said.append(text))
        assert b.runtime.identity(INSTANCE) == identity and "loading weights" in said
        answer, cost = await b.runtime.canary(INSTANCE)
        assert answer and cost.output_tokens > 0
        assert (await b.runtime.footprint(INSTANCE)).charge_bytes > 2**20
        with pytest.raises(EngineStartFailed):
            await b.runtime.start(b.launch(), lambda text, fraction: None)

    on(test)


def test_the_canary_is_the_same_every_time_and_is_counted(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        await b.start()
        first, cost = await b.runtime.canary(INSTANCE)
        assert (await b.runtime.canary(INSTANCE))[0] == first
        counters = await b.runtime.counters(INSTANCE)
        assert counters is not None
        assert counters.input_tokens == 2 * cost.input_tokens
        assert counters.output_tokens == 2 * cost.output_tokens

    on(test)


def test_frozen_keeps_the_process_and_its_answers(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        await b.start()
        before, identity = (await b.runtime.canary(INSTANCE))[0], b.runtime.identity(INSTANCE)
        await b.runtime.sink(INSTANCE, Rung.FROZEN)
        assert b.runtime.identity(INSTANCE) == identity
        await b.runtime.wake(INSTANCE)
        assert (await b.runtime.canary(INSTANCE))[0] == before

    on(test)


def test_light_gives_memory_back_and_wakes_to_the_same_answers(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        await b.start()
        before, held = (await b.runtime.canary(INSTANCE))[0], await b.runtime.footprint(INSTANCE)
        await b.runtime.sink(INSTANCE, Rung.LIGHT)
        # Without swap only pages of files that nobody else maps can go, which may be none; with it, nearly everything.
        if proc.swap_areas() or isinstance(b.runtime, MemoryRuntime):
            assert (await b.runtime.footprint(INSTANCE)).anonymous_bytes < held.anonymous_bytes // 2
        await b.runtime.wake(INSTANCE)
        assert (await b.runtime.canary(INSTANCE))[0] == before

    on(test)


@pytest.mark.parametrize("through", [None, Rung.FROZEN])
def test_deep_ends_the_process_without_calling_it_a_death(on: Callable[[Test], None], through: Rung | None) -> None:
    async def test(b: Bench) -> None:
        launch = await b.start()
        before = (await b.runtime.canary(INSTANCE))[0]
        if through is not None:
            await b.runtime.sink(INSTANCE, through)
            await b.runtime.wake(INSTANCE)
        await b.runtime.sink(INSTANCE, Rung.DEEP)
        assert b.runtime.identity(INSTANCE) is None and b.ended == []
        assert (await b.runtime.footprint(INSTANCE)).charge_bytes == 0
        await b.runtime.start(launch, lambda text, fraction: None)
        assert (await b.runtime.canary(INSTANCE))[0] == before
        assert b.runtime.saved_bytes(launch) == 0, "what was kept is used up"

    on(test)


def test_a_death_is_told_once_with_its_reason(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        await b.start()
        await b.kill()
        await b.changed.wait()
        assert [(instance, "SIGKILL" in reason) for instance, reason in b.ended] == [(INSTANCE, True)]
        assert b.runtime.identity(INSTANCE) is None
        for ask in (b.runtime.canary, b.runtime.counters, b.runtime.wake):
            with pytest.raises(EngineLost):
                await ask(INSTANCE)

    on(test)


def test_stopping_is_idempotent_and_no_death(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        await b.start()
        await b.runtime.sink(INSTANCE, Rung.FROZEN)
        await b.runtime.stop(INSTANCE, 2.0)
        await b.runtime.stop(INSTANCE, 2.0)
        assert b.ended == [] and b.runtime.identity(INSTANCE) is None
        await b.start()

    on(test)


def test_survivors_are_adopted_by_identity(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        launch = await b.start()
        identity = b.runtime.identity(INSTANCE)
        assert identity is not None
        before = (await b.runtime.canary(INSTANCE))[0]
        await b.runtime.sink(INSTANCE, Rung.FROZEN)
        await b.runtime.close(end_engines=False)
        second: NodeRuntime = (
            MemoryRuntime(processes=b.runtime.processes)
            if isinstance(b.runtime, MemoryRuntime)
            else ProcessRuntime(str(b.folder / "keeper"), {LlamaCpp.name: LlamaCpp()})
        )
        try:
            assert await second.survivors() == ((launch, identity, Rung.FROZEN),)
            wrong = type(identity)(identity.pid, identity.start_ticks + 1, identity.boot_id)
            assert not await second.adopt(launch, wrong), "a number alone is nobody"
            assert await second.adopt(launch, identity)
            await second.wake(INSTANCE)
            assert (await second.canary(INSTANCE))[0] == before
        finally:
            await second.close(end_engines=True)

    on(test)


def test_a_start_that_fails_says_what_the_engine_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.weights_path().read_bytes()[:100_000])

    async def main() -> None:
        async with bench("process", tmp_path) as made:
            with pytest.raises(EngineStartFailed, match=r"ended with status \d+ before it was ready; it last said"):
                await made.runtime.start(made.launch(broken), lambda text, fraction: None)
            assert made.ended == [], "a failed start is told by its error alone"
            await made.start()

    asyncio.run(main())


def test_word_that_it_is_ready_is_heard_however_late_it_is_read(tmp_path: Path) -> None:
    """The keeper's answer and its word that the engine is ready may be read in one go, by an agent that was busy."""

    async def main() -> None:
        async with bench("process", tmp_path) as made:
            await made.start()
            await made.runtime.stop(INSTANCE, 0.0)
            # The loop is held up while the engine starts, as under load.
            asyncio.get_running_loop().call_later(0.002, time.sleep, 0.5)
            async with asyncio.timeout(20.0):
                await made.start()

    asyncio.run(main())


def _keeper(b: Bench) -> int:
    identity = b.runtime.identity(INSTANCE)
    assert identity is not None
    return int(Path(f"/proc/{identity.pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("when", ["before it is asked", "while the engine loads"])
def test_a_start_outlives_its_keeper(tmp_path: Path, when: str) -> None:
    """One clean retry with another keeper: nobody hears of it."""

    async def main() -> None:
        async with bench("process", tmp_path) as made:
            await made.start()
            keepers = [_keeper(made)]
            await made.runtime.stop(INSTANCE, 0.0)

            def kill(text: str, fraction: float | None) -> None:
                if keepers and text == "loading weights":
                    os.kill(keepers.pop(), signal.SIGKILL)

            if when == "before it is asked":
                kill("loading weights", None)
            await made.runtime.start(made.launch(), kill)
            assert not keepers and (await made.runtime.canary(INSTANCE))[0]
            assert made.ended == []

    asyncio.run(main())


def test_an_end_with_the_keeper_is_no_fault_of_the_engine(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench("process", tmp_path) as made:
            await made.start()
            os.kill(_keeper(made), signal.SIGKILL)
            await made.changed.wait()
            assert [(instance, "with its keeper" in reason) for instance, reason in made.ended] == [(INSTANCE, True)]
            assert made.faults == [False]

    asyncio.run(main())


def test_a_start_that_is_still_prepared_does_not_end_with_the_keeper_before(tmp_path: Path) -> None:
    """Else the next keeper would hold what nobody knows of, and every other start would be told that it already runs."""

    class Slow(Boxes):
        """A box that takes until the keeper has been killed to prepare."""

        async def order(self, launch: LaunchSpec) -> dict[str, Any]:
            if not gone.is_set():  # a start is tried again, where its own keeper goes
                os.kill(_keeper(made), signal.SIGKILL)
                await gone.wait()
            return dataclasses.asdict(dataclasses.replace(launch, box=None))

        async def serve(self, launch: LaunchSpec, pid: int, died: asyncio.Future[str]) -> None:
            assert not died.done()

        def ended(self, launch: LaunchSpec) -> None:
            pass

        def keeps(self, launch: LaunchSpec) -> bool:
            return False

    async def main() -> None:
        runtime = ProcessRuntime(str(tmp_path / "keeper"), {LlamaCpp.name: LlamaCpp()}, Slow())
        made.runtime = runtime
        hear = runtime._hear

        def heard(news: dict[str, Any]) -> None:
            hear(news)
            if news["event"] == "keeper gone":
                gone.set()

        runtime._keeper._news = heard
        try:
            launch = made.launch()
            await runtime.start(launch, lambda text, fraction: None)
            boxed = dataclasses.replace(launch, instance="default.app.1.0", box=Box("app-1", Tier.NAMESPACE, ("true",)))
            identity = await runtime.start(boxed, lambda text, fraction: None)
            assert runtime.identity(boxed.instance) == identity
            await runtime.stop(boxed.instance, 0.0)
            assert not Path(f"/proc/{identity.pid}/status").exists()
        finally:
            await runtime.close(end_engines=True)

    gone = asyncio.Event()
    made = Bench(MemoryRuntime(), tmp_path)
    asyncio.run(main())
