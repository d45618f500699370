"""Boxes through the keeper: started, reached, frozen, saved, brought back, ended. Owns no record and decides nothing.

Every way out of a start that fails leaves nothing behind; what a kill of this process leaves, `sweep` clears.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bastide.adapters.threads import to_the_end
from bastide.domain.errors import BastideError, EngineStartFailed, Unavailable, Unsupported
from bastide.domain.isolation import Box, BoxLaunch, Tier
from bastide.ports.isolation import Isolation, Pausing
from bastide.sandboxes.line import HELLO_S_MAX, Line
from bastide.sandboxes.turns import Turns

KNOCK_S = 0.002
STARTING = ("settle", "exec", "spawn", "code")  # questions that cost a processor's time at once
END_S_MAX = 10.0


class Keeper(Protocol):
    """The line to the process that is every box's parent."""

    async def ask(self, operation: str, asked: Callable[[], None] | None = None, **rest: Any) -> dict[str, Any]: ...
    async def close(self, *, quit_keeper: bool) -> None: ...


@dataclass(slots=True)
class Running:
    """A live box. `ended` is set with the reason once its first process is gone."""

    box: Box
    pid: int
    frozen: bool = False
    leaving: bool = False  # we end it ourselves
    untold: dict[str, str] | None = None  # what its agent is to put into the environment, with the next question
    ended: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # the keeper was told of it: it ends with that one


class Boxes:
    """`connect_keeper` makes the line, given who hears its news. `lost` is called for a box that ended by itself."""

    def __init__(
        self,
        connect_keeper: Callable[[Callable[[dict[str, Any]], None]], Keeper],
        isolations: Mapping[Tier, Isolation],
        logs_directory: str,
        lease_s: float,
        lost: Callable[[str, str], None],
    ) -> None:
        self._isolations, self._logs, self._lease_s, self._lost = isolations, logs_directory, lease_s, lost
        self._keeper = connect_keeper(self._hear)
        self._turns = Turns(os.cpu_count() or 1)
        self.running: dict[str, Running] = {}
        self._entered: dict[str, asyncio.Future[tuple[int, str]]] = {}
        self.after_end: Callable[[str], None] = lambda name: None  # told of every box that is gone, spares too

    def tier(self, tier: Tier) -> Isolation:
        """Raises Unsupported where this tier is not offered here."""
        found = self._isolations.get(tier)
        if found is None:
            hint = ", or ask for tier namespace, which is weaker" if tier is Tier.GVISOR else ""
            raise Unsupported(f"the {tier.value} tier does not hold on this machine; `bastide doctor` says why{hint}")
        return found

    def saves(self, tier: Tier) -> bool:
        """Whether a tier holds here, and can save processes."""
        return bool(getattr(self._isolations.get(tier), "pauses", False))

    def pauses(self, tier: Tier) -> Pausing:
        """Raises Unsupported, by name, where a tier can't save processes."""
        found: Any = self.tier(tier)
        if not getattr(found, "pauses", False):
            raise Unsupported(
                f"the {tier.value} tier can't save processes with their memory; make the sandbox with tier=gvisor"
            )
        pausing: Pausing = found
        return pausing

    # --- lives -----------------------------------------------------------------------------------------------------

    async def survivors(self) -> dict[str, int]:
        """Boxes that an earlier process of ours started, by name, with their process identifiers."""
        children = (await self._keeper.ask("list"))["children"]
        return {child["launch"]["instance"]: int(child["pid"]) for child in children}

    def adopt(self, box: Box, pid: int) -> Running:
        running = self.running[box.name] = Running(box, pid)
        running.asked.set()
        return self.running[box.name]

    async def start(self, box: Box) -> Running:
        """Start it and return once its agent answers."""
        isolation = self.tier(box.tier)
        return await self._started(box, await self._prepared(box, isolation.prepare, box))

    async def restore(self, box: Box, image: str) -> Running:
        """Bring back what was saved in `image`."""
        isolation = self.pauses(box.tier)
        launch = await self._prepared(box, isolation.prepare_restore, box, image)
        isolation.begin_again(box)
        return await self._started(box, launch)

    async def _prepared(self, box: Box, prepare: Callable[..., BoxLaunch], *arguments: Any) -> BoxLaunch:
        """Where it fails, or its caller is cancelled, what it has made by then goes again."""
        try:
            return await to_the_end(prepare, *arguments)
        except BaseException:
            await asyncio.to_thread(self.tier(box.tier).clear, box)
            raise

    async def _started(self, box: Box, launch: BoxLaunch) -> Running:
        log = os.path.join(self._logs, f"{box.name}.log")
        order = {
            "instance": box.name, "child": "", "socket": "", "log": log, "lease_s": self._lease_s,
            "box_launch": dataclasses.asdict(launch),
        }  # fmt: skip
        running = self.running[box.name] = Running(box, 0)
        try:
            running.pid = int((await self._keeper.ask("start", running.asked.set, launch=order))["pid"])
            await self._until_it_answers(running)
            return running
        except BaseException as error:
            said = _tail(log)
            with contextlib.suppress(BastideError, OSError):
                await asyncio.shield(self.end(box))
            if isinstance(error, Unavailable):
                raise EngineStartFailed(f"the sandbox did not start: {error.message}{said}") from None
            raise

    async def _until_it_answers(self, running: Running) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HELLO_S_MAX
        while True:
            if running.ended.done():
                raise Unavailable(running.ended.result())
            with contextlib.suppress(OSError):
                line = await self._open(running, {"op": "hello"})
                try:
                    await asyncio.wait_for(line.answer(), HELLO_S_MAX)
                    return
                finally:
                    line.close()
            if loop.time() > deadline:
                raise Unavailable(f"it did not answer within {HELLO_S_MAX:g} s")
            await asyncio.sleep(KNOCK_S)

    async def end(self, box: Box) -> None:
        """Kill all of it at once and leave nothing."""
        running = self.running.get(box.name)
        if running is not None:
            running.leaving = True
            if running.pid and not running.ended.done():
                with contextlib.suppress(BastideError, TimeoutError):
                    await self._keeper.ask("signal", instance=box.name, signal=int(signal.SIGKILL))
                    await asyncio.wait_for(asyncio.shield(running.ended), END_S_MAX)
            self.running.pop(box.name, None)
        isolation = self._isolations.get(box.tier)
        if isolation is not None:
            await asyncio.to_thread(isolation.clear, box)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._logs, f"{box.name}.log"))
        self.after_end(box.name)

    async def end_stranger(self, name: str) -> None:
        """A box of the keeper's that nobody has a record of."""
        with contextlib.suppress(BastideError):
            await self._keeper.ask("signal", instance=name, signal=int(signal.SIGKILL))

    def sweep(self, keep: frozenset[str]) -> tuple[str, ...]:
        swept: set[str] = set()
        for isolation in self._isolations.values():
            swept.update(isolation.sweep(keep))
        return tuple(sorted(swept))

    async def close(self, *, end_boxes: bool) -> None:
        await self._keeper.close(quit_keeper=end_boxes)

    # --- questions -------------------------------------------------------------------------------------------------

    async def ask(self, name: str, question: dict[str, Any]) -> Line:
        """An open question to a box's agent. A frozen one is connected to first and thawed second: nothing is lost."""
        running = self.running.get(name)
        if running is None or running.leaving or running.ended.done():
            raise Unavailable("the sandbox has ended")
        give_back = await self._turns.take() if question["op"] in STARTING else None
        untold = running.untold
        try:
            line = await self._open(running, question if untold is None else {**question, "settle": untold})
            line.when_closed = give_back

            def heard() -> None:
                if running.untold is untold:
                    running.untold = None

            line.when_heard = heard
            if running.frozen:
                await self.thaw(name)
            return line
        except BaseException as error:
            if give_back is not None:
                give_back()
            if isinstance(error, OSError):
                raise Unavailable(f"the sandbox can't be reached: {error.strerror or error}") from None
            raise

    async def _open(self, running: Running, question: dict[str, Any]) -> Line:
        isolation = self.tier(running.box.tier)
        path, descriptor = isolation.connect_path(running.box, "agent", running.pid)
        return await Line.open(path, descriptor, question)

    def will_tell(self, name: str, environment: dict[str, str]) -> None:
        """The environment of all that is started in it, told with the first question, so that a spare sleeps until then.

        Telling it again changes nothing: whoever does not know whether it was told tells it.
        """
        self.running[name].untold = environment

    async def tell(self, name: str, question: dict[str, Any]) -> dict[str, Any]:
        """Ask and take the one answer."""
        line = await self.ask(name, question)
        try:
            return await line.answer()
        finally:
            line.close()

    # --- rest ------------------------------------------------------------------------------------------------------

    async def freeze(self, name: str) -> None:
        """Stop everyone in it. A question thaws it."""
        running = self.running[name]
        await asyncio.to_thread(self.tier(running.box.tier).freeze, running.box, running.pid)
        running.frozen = True

    async def page_out(self, name: str) -> None:
        """Give the memory of a frozen one to swap. Raises Unsupported where that can't be."""
        running = self.running[name]
        await asyncio.to_thread(self.tier(running.box.tier).page_out, running.box, running.pid)

    async def thaw(self, name: str) -> None:
        running = self.running[name]
        isolation = self.tier(running.box.tier)
        isolation.thaw(running.box, running.pid)  # a write to one file: quicker than a thread
        running.frozen = False

    async def save(self, name: str) -> str:
        """Write all of it to a directory, whose path is returned. It is quiet from then on: `nudge` lets it go on."""
        running = self.running[name]
        isolation = self.pauses(running.box.tier)
        if running.frozen:
            await self.thaw(name)
        isolation.hush(running.box)
        await self.tell(name, {"op": "quiet"})
        # What a save that came to nothing has left would be in the way of this one.
        await asyncio.to_thread(_emptied, isolation.saved_at(running.box))
        command = await asyncio.to_thread(isolation.save_command, running.box, running.pid)
        key = f"save-{name}"
        self._entered[key] = asyncio.get_running_loop().create_future()
        try:
            await self._keeper.ask("enter", inside=command.inside, user=command.user, argv=list(command.argv), key=key)
            code, said = await self._entered[key]
            if code != 0:
                raise Unavailable(f"the sandbox could not be saved: {said[-300:] or f'status {code}'}")
        except BaseException:
            with contextlib.suppress(BastideError, OSError):
                await asyncio.shield(self.nudge(name))
            raise
        finally:
            del self._entered[key]
        return isolation.saved_at(running.box)

    async def nudge(self, name: str) -> None:
        """Let one that was saved, or was about to be, go on. Nothing happens to one that was not."""
        running = self.running.get(name)
        if running is None:
            return
        isolation: Any = self._isolations.get(running.box.tier)  # it may hold no more: its program is gone
        if not getattr(isolation, "pauses", False):
            return
        with contextlib.suppress(OSError):
            _, descriptor = isolation.connect_path(running.box, "agent", running.pid)
            os.close(descriptor)
            return
        isolation.begin_again(running.box)
        await self._until_it_answers(running)

    # --- news ------------------------------------------------------------------------------------------------------

    def _hear(self, news: dict[str, Any]) -> None:
        if news["event"] == "entered":
            waiting = self._entered.get(news["key"])
            if waiting is not None and not waiting.done():
                waiting.set_result((int(news["code"]), str(news["said"])))
        elif news["event"] == "died":
            self._gone(news["instance"], str(news["reason"]))
        elif news["event"] == "keeper gone":
            for name, running in list(self.running.items()):
                if running.asked.is_set():
                    self._gone(name, "ended with its keeper")
            for waiting in self._entered.values():
                if not waiting.done():
                    waiting.set_result((70, "the keeper is gone"))

    def _gone(self, name: str, reason: str) -> None:
        running = self.running.get(name)
        if running is not None and not running.ended.done():
            running.ended.set_result(reason)
            if not running.leaving:
                self._lost(name, reason)


def _emptied(directory: str) -> None:
    """The directory itself stays: a box has it open."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _tail(log: str) -> str:
    try:
        with open(log, "rb") as file:
            said = file.read()[-600:].decode(errors="replace").strip()
    except OSError:
        return ""
    return f"; it last said: {' | '.join(said.splitlines()[-4:])}" if said else ""
