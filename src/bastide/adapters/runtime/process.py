"""Engines as child processes of the keeper. The runtime port on a real machine.

It decides nothing: which rung, which instance and when come from the agent. Requests of users never pass here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from bastide.adapters.runtime import boxsaving, logs, proc, promptcache, readahead
from bastide.adapters.runtime.boxed import Boxes
from bastide.adapters.runtime.enginetalk import EngineTalk
from bastide.adapters.runtime.keeperlink import KeeperGone, KeeperLink
from bastide.domain.errors import (
    BastideError,
    EngineError,
    EngineLost,
    EngineStartFailed,
    StateLost,
    Unsupported,
)
from bastide.domain.instances import EngineCounters, Footprint, LaunchSpec, ProcessIdentity, ToldDigest
from bastide.domain.lifecycle import Rung
from bastide.engines.port import Translator
from bastide.ports.runtime import Progress, Runtime

_log = logging.getLogger("bastide.agent")
PROBE_S = 0.003
PAGED_OUT_S_MAX = 30.0
SAID_MAX = 200  # letters of what a program said last, in a reason
GIVE_UP_S_MAX = 5.0
KEEPERS_MAX = 3  # how many may end under one start


class _Engine:
    def __init__(self, launch: LaunchSpec, identity: ProcessIdentity | None = None) -> None:
        self.launch = launch
        self.identity = identity  # None until the keeper has said which process it is
        self.asked = asyncio.Event()  # the keeper was told of it: from here on the keeper's end is its own
        self.ready = asyncio.Event()
        self.paged_out = asyncio.Event()
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.expected = False  # its end was asked for
        self.lost_keeper = False  # it ended because its keeper did


class ProcessRuntime(Runtime):
    """`engines`: translators by name. `keeper`: path of the keeper's socket. `boxes`: for what runs isolated."""

    def __init__(self, keeper: str, engines: Mapping[str, Translator], boxes: Boxes | None = None) -> None:
        self._talk = EngineTalk(engines)
        self._boxes = boxes or Boxes()
        self._running: dict[str, _Engine] = {}
        self._keeper = KeeperLink(keeper, self._hear)
        self._saver = boxsaving.Saver(self._keeper.ask)
        self._tell_died: Callable[[str, str, bool], Awaitable[None]] | None = None
        self._telling: set[asyncio.Future[None]] = set()
        self._boot = proc.boot_id()

    # --- lives -----------------------------------------------------------------------------------------------------

    async def survivors(self) -> tuple[tuple[LaunchSpec, ProcessIdentity, Rung], ...]:
        """Engines that an earlier agent started and that still live, with the rung they rest on."""
        if not await self._keeper.find():
            return ()
        found = []
        for child in (await self._keeper.ask("list"))["children"]:
            launch = msgspec.convert(child["launch"], LaunchSpec)
            identity = ProcessIdentity(child["pid"], child["ticks"], self._boot)
            if child["ready"]:
                found.append((launch, identity, Rung(child["resting"])))
            else:  # it was just starting when the agent went: nobody waits for it any more
                with contextlib.suppress(EngineError):
                    await self._keeper.ask("signal", instance=launch.instance, signal=int(signal.SIGKILL))
        boxed = frozenset(launch.box.name for launch, _, _ in found if launch.box is not None)
        if boxed:
            await self._boxes.ready(boxed)
        return tuple(found)

    async def warm(self, child: str) -> None:
        """Load a child script's library in the keeper before the first start needs it."""
        with contextlib.suppress(EngineStartFailed):  # the first start says what is wrong
            await self._keeper.ask("prepare", child=child)

    async def start(self, launch: LaunchSpec, progress: Progress) -> ProcessIdentity:
        if launch.instance in self._running:
            raise EngineStartFailed(f"{launch.instance} already runs")
        for _ in range(KEEPERS_MAX - 1):
            with contextlib.suppress(KeeperGone):  # no fault of the engine: another keeper starts it at once
                return await self._start(launch, progress)
        return await self._start(launch, progress)

    async def _start(self, launch: LaunchSpec, progress: Progress) -> ProcessIdentity:
        reading = asyncio.create_task(readahead.read_ahead(launch.read_ahead, progress))
        try:
            logs.trim(launch.log)
            promptcache.make_private(launch.state_directory)
            # Known before it is asked for: the keeper's next words about it may be read together with its answer.
            engine = self._running[launch.instance] = _Engine(launch)
            try:
                order = dataclasses.asdict(launch) if launch.box is None else await self._boxes.order(launch)
                answer = await self._keeper.ask("start", engine.asked.set, launch=order)
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and engine.asked.is_set():
                    await asyncio.shield(self._give_up(engine))
                self._running.pop(launch.instance, None)
                raise
            identity = engine.identity = ProcessIdentity(answer["pid"], answer["ticks"], self._boot)
            progress("loading weights" if launch.box is None else "starting", None)
            try:
                async with asyncio.timeout(launch.start_s_max):
                    await self._until_ready(engine)
            except TimeoutError:
                await self.stop(launch.instance, 0.0)
                what = "engine was not ready" if launch.box is None else "app was not well"
                raise EngineStartFailed(f"the {what} within {launch.start_s_max:g} s{self._said(launch)}") from None
            except EngineStartFailed as error:
                if launch.box is None:
                    raise
                await self.stop(launch.instance, 0.0)
                if self._boxes.keeps(launch) and not isinstance(error, KeeperGone):
                    boxsaving.forget(launch)
                    why, _, said = error.message.partition("; it last said: ")
                    last = said.rpartition(" | ")[2][-SAID_MAX:]  # what it said before is of earlier lives
                    raise StateLost(
                        f"what was kept of it can't be brought back: {why}{last and f' ({last})'}"
                    ) from None
                raise
            await self._restore(engine)
            return identity
        finally:
            reading.cancel()

    async def _give_up(self, engine: _Engine) -> None:
        """It may have begun, and nobody else knows of it. Waits for its end: the next start would take word of that for its own."""
        engine.expected = True
        with contextlib.suppress(EngineError):
            await self._signal(engine.launch.instance, signal.SIGKILL)
            await asyncio.wait((engine.died,), timeout=GIVE_UP_S_MAX)
        if engine.launch.box is not None and not engine.died.done():
            self._boxes.ended(engine.launch)

    async def run(self, launch: LaunchSpec, limit_s: float) -> str:
        """Run a box to its end; how it ended. After `limit_s` it is ended. Raises EngineError where it can't begin."""
        if launch.instance in self._running:
            raise EngineStartFailed(f"{launch.instance} runs already")
        logs.trim(launch.log)
        engine = self._running[launch.instance] = _Engine(launch)
        engine.expected = True
        try:
            answer = await self._keeper.ask("start", engine.asked.set, launch=await self._boxes.order(launch))
            engine.identity = ProcessIdentity(answer["pid"], answer["ticks"], self._boot)
            async with asyncio.timeout(limit_s):
                await self._boxes.begin(launch, engine.identity.pid, engine.died)
                return await asyncio.shield(engine.died)
        except TimeoutError:
            await self.stop(launch.instance, 2.0)
            return f"was ended after its time limit of {limit_s:g} s"
        finally:
            if not engine.died.done():
                with contextlib.suppress(EngineError, TimeoutError):
                    await asyncio.shield(self.stop(launch.instance, 0.0))
            self._running.pop(launch.instance, None)

    async def adopt(self, launch: LaunchSpec, identity: ProcessIdentity) -> bool:
        if identity.boot_id != self._boot or not await self._is(launch, identity):
            return False
        engine = self._running[launch.instance] = _Engine(launch, identity)
        engine.asked.set()
        engine.ready.set()
        if launch.box is not None:
            await asyncio.to_thread(boxsaving.forget, launch)  # it was being kept when the agent went; it lives
            await self._boxes.adopt(launch, identity.pid)
        return True

    async def stop(self, instance: str, grace_s: float) -> None:
        engine = self._running.get(instance)
        if engine is None:
            return
        engine.expected = True
        with contextlib.suppress(EngineError):
            # A stopped process can't hear SIGTERM, so it is woken with it.
            if engine.launch.box is not None and engine.identity is not None and grace_s > 0:
                await self._boxes.thaw(engine.launch, engine.identity.pid)
                await self._boxes.ask_to_end(engine.launch, engine.identity.pid)
            else:
                await self._signal(instance, signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
            await self._signal(instance, signal.SIGCONT)
            try:
                await asyncio.wait_for(asyncio.shield(engine.died), grace_s if grace_s > 0 else 10.0)
            except TimeoutError:
                await self._signal(instance, signal.SIGKILL)
                await asyncio.wait_for(asyncio.shield(engine.died), 10.0)
        self._running.pop(instance, None)

    async def recall(self, launches: Iterable[LaunchSpec]) -> dict[str, ToldDigest | StateLost]:
        """Which of these go on with processes that an earlier agent kept, by what those were told, or why they can't. Asked once, before any start."""
        return await self._boxes.recall(launches)

    def keeps(self, launch: LaunchSpec) -> bool:
        """Whether its next start goes on with the processes that it had."""
        return self._boxes.keeps(launch)

    def forget_state(self, launch: LaunchSpec) -> None:
        """Remove what was kept for a deep wake: it holds prompts."""
        if launch.state_directory:
            shutil.rmtree(launch.state_directory, ignore_errors=True)

    # --- rungs -----------------------------------------------------------------------------------------------------

    async def sink(self, instance: str, rung: Rung) -> str:
        engine = self._one(instance)
        if rung in (Rung.DEEP, Rung.OFF):
            lost = ""
            if rung is Rung.DEEP:
                lost = await self._save(engine)
            else:
                self.forget_state(engine.launch)
            await self.stop(instance, 0.0 if self.keeps(engine.launch) else 2.0)
            return lost
        await self._rest(engine, rung)
        return ""

    async def _rest(self, engine: _Engine, rung: Rung) -> None:
        instance = engine.launch.instance
        if engine.launch.box is not None and engine.identity is not None:
            if rung not in (Rung.FROZEN, Rung.LIGHT):
                raise Unsupported(f"no process can rest on {rung.value}")
            await self._boxes.rest(engine.launch, engine.identity.pid, rung)
            await self._keeper.ask("rest", instance=instance, rung=rung.value)
            return
        if rung is Rung.LIGHT:
            engine.paged_out.clear()
            # What is paged out must be able to run for it, so a frozen one is woken; ours does it for itself.
            await self._signal(instance, signal.SIGCONT)
            if (await self._keeper.ask("page_out", instance=instance)).get("later"):
                async with asyncio.timeout(PAGED_OUT_S_MAX):
                    await engine.paged_out.wait()
        elif rung is not Rung.FROZEN:
            raise Unsupported(f"no process can rest on {rung.value}")
        await self._signal(instance, signal.SIGSTOP)
        await self._keeper.ask("rest", instance=instance, rung=rung.value)

    async def wake(self, instance: str) -> None:
        engine = self._one(instance)
        if engine.launch.box is not None and engine.identity is not None:
            await self._boxes.thaw(engine.launch, engine.identity.pid)
        else:
            await self._signal(instance, signal.SIGCONT)
        await self._keeper.ask("rest", instance=instance, rung=Rung.AWAKE.value)

    # --- what it says ----------------------------------------------------------------------------------------------

    async def footprint(self, instance: str) -> Footprint:
        identity = self.identity(instance)
        if identity is None:
            return Footprint()
        launch = self._running[instance].launch
        return proc.footprint(identity.pid) if launch.box is None else await self._boxes.footprint(launch, identity.pid)

    async def cpu_s(self, instance: str) -> float:
        """Seconds of processor that an app's whole tree has used."""
        engine = self._one(instance)
        if engine.launch.box is None or engine.identity is None:
            raise Unsupported("only of apps")
        return await self._boxes.cpu_s(engine.launch, engine.identity.pid)

    async def counters(self, instance: str) -> EngineCounters | None:
        engine = self._one(instance)
        if engine.launch.box is not None:
            return None  # it serves no tokens
        return await self._talk.counters(engine.launch)

    async def canary(self, instance: str) -> tuple[str, EngineCounters]:
        engine = self._one(instance)
        if engine.launch.box is not None and engine.identity is not None:
            wrong = await self._boxes.unwell(engine.launch, engine.identity.pid)
            if wrong is not None:
                raise EngineLost(wrong)
            return "well", EngineCounters()
        return await self._talk.canary(engine.launch)

    def address(self, instance: str, name: str = "app") -> str:
        """Where an instance takes requests: the path of its Unix socket. `name`: of an app's sockets which."""
        engine = self._one(instance)
        if engine.launch.box is None or engine.identity is None:
            return engine.launch.socket
        return self._boxes.address(engine.launch, engine.identity.pid, name)

    def identity(self, instance: str) -> ProcessIdentity | None:
        engine = self._running.get(instance)
        return engine.identity if engine is not None else None

    def last_lines(self, instance: str, count: int) -> tuple[str, ...]:
        engine = self._running.get(instance)
        return logs.tail(engine.launch.log, count) if engine is not None else ()

    def watch(self, died: Callable[[str, str, bool], Awaitable[None]]) -> None:
        self._tell_died = died

    def saved_bytes(self, launch: LaunchSpec) -> int:
        """What the kept prompt cache holds: it lies in memory, so it counts."""
        return promptcache.kept_bytes(launch)

    async def close(self, *, end_engines: bool) -> None:
        """Let go of every engine; with `end_engines` they end, and what was kept of their prompts with them."""
        if end_engines:
            for engine in self._running.values():
                engine.expected = True
                self.forget_state(engine.launch)
        await self._keeper.close(quit_keeper=end_engines)
        await self._boxes.cleared()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _one(self, instance: str) -> _Engine:
        engine = self._running.get(instance)
        if engine is None:
            raise EngineLost(f"{instance} has no process")
        return engine

    async def _is(self, launch: LaunchSpec, identity: ProcessIdentity) -> bool:
        children = (await self._keeper.ask("list"))["children"]
        return any(
            child["launch"]["instance"] == launch.instance
            and child["pid"] == identity.pid
            and child["ticks"] == identity.start_ticks
            for child in children
        )

    async def _signal(self, instance: str, number: int) -> None:
        await self._keeper.ask("signal", instance=instance, signal=int(number))

    async def _until_ready(self, engine: _Engine) -> None:
        """Ours says so itself; an operator's program is asked every few milliseconds."""
        if engine.launch.box is not None:
            assert engine.identity is not None
            await self._boxes.serve(engine.launch, engine.identity.pid, engine.died)
            if not engine.died.done():
                await self._keeper.ask("ready", instance=engine.launch.instance)
                engine.ready.set()
        elif engine.launch.child:
            ready: asyncio.Future[Any] = asyncio.ensure_future(engine.ready.wait())
            ending: asyncio.Future[Any] = engine.died
            await asyncio.wait((ready, ending), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        else:
            while not engine.died.done():
                if await self._talk.healthy(engine.launch):
                    await self._keeper.ask("ready", instance=engine.launch.instance)
                    return
                await asyncio.sleep(PROBE_S)
        if engine.lost_keeper:
            raise KeeperGone("the engine ended with its keeper before it was ready")
        if engine.died.done():
            what = "engine" if engine.launch.box is None else "app"
            raise EngineStartFailed(f"the {what} {engine.died.result()} before it was ready{self._said(engine.launch)}")

    def _said(self, launch: LaunchSpec) -> str:
        lines = logs.tail(launch.log, 8)
        return "; it last said: " + " | ".join(lines) if lines else "; it said nothing"

    async def _save(self, engine: _Engine) -> str:
        """Keep the prompt cache, or an app's processes; on any trouble simply don't: a deep wake without is slower, never wrong.

        Returns what an app loses by that, and why; empty: nothing.
        """
        if engine.launch.box is not None and engine.identity is not None:
            try:
                await self._boxes.save(engine.launch, engine.identity.pid, self._saver)
            except (BastideError, OSError, TimeoutError) as error:
                _log.warning("%s is ended without being kept: %s", engine.launch.instance, error)
                return f"its processes could not be kept, so it will start anew: {str(error)[-300:]}"
            return ""
        await self._talk.save(engine.launch)
        return ""

    async def _restore(self, engine: _Engine) -> None:
        if engine.launch.box is not None:
            await asyncio.to_thread(boxsaving.forget, engine.launch)  # it lives: what was kept is of the past
            return
        await self._talk.restore(engine.launch)

    def _hear(self, news: dict[str, Any]) -> None:
        if news["event"] == "keeper gone":
            self._saver.lost()
            for instance, running in list(self._running.items()):
                if running.asked.is_set():
                    running.lost_keeper = True
                    self._ended(instance, "ended with its keeper")
            return
        if news["event"] == "entered":
            self._saver.hear(news)
            return
        engine = self._running.get(news["instance"])
        if engine is None:
            return
        if news["event"] == "ready":
            engine.ready.set()
        elif news["event"] == "paged out":
            engine.paged_out.set()
        elif news["event"] == "died" and (engine.identity is None or news["pid"] == engine.identity.pid):
            self._ended(news["instance"], news["reason"])

    def _ended(self, instance: str, reason: str) -> None:
        engine = self._running.pop(instance)
        if not engine.died.done():
            engine.died.set_result(reason)
        was_ready = engine.ready.is_set() or not (engine.launch.child or engine.launch.box)
        if engine.launch.box is not None:
            self._boxes.ended(engine.launch)
        if not engine.expected and was_ready and self._tell_died is not None:
            said = logs.tail(engine.launch.log, 3)
            what = "engine" if engine.launch.box is None else "app"
            full = f"the {what} {reason}" + (f"; it last said: {' | '.join(said)}" if said else "")
            task = asyncio.ensure_future(self._tell_died(instance, full, not engine.lost_keeper))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
