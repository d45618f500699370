"""Apps in boxes, for the process runtime: prepared, told what to run, asked whether they are well, frozen, paged out, cleared.

The keeper is their parent. This decides nothing; every way out of a start that fails leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from bastide.adapters.isolation import volumes
from bastide.adapters.isolation.tree import connect_path
from bastide.adapters.runtime import boxkept, boxline, boxsaving, proc
from bastide.adapters.runtime.http import ask
from bastide.adapters.threads import to_the_end
from bastide.domain.errors import BastideError, EngineLost, EngineStartFailed, StateLost, Unsupported
from bastide.domain.instances import Footprint, LaunchSpec, ToldDigest
from bastide.domain.isolation import Box, Tier
from bastide.domain.lifecycle import Rung
from bastide.domain.sandboxes import EgressRules
from bastide.engines.port import Ask
from bastide.ports.isolation import Isolation

KNOCK_S = 0.002
PROBE_S = 0.01  # between two looks whether an app that starts is well; grows to PROBE_S_MAX
PROBE_S_MAX = 0.04
BACK_S = 10.0  # for one that was brought back to be well again, and for each byte of it as a slow disk needs
BACK_BYTES_PER_S = 50e6
PROCESSES_MAX = 1024  # of an app, where it can be enforced: a fork bomb stays its own
LOG_BYTES_MAX = 4 * 2**20


class Exits(Protocol):
    """The ways out of boxes, one each, enforced outside of them."""

    def directory(self, box: str) -> str:
        """The host directory where a box's exit listens."""
        ...

    async def open(self, box: str, project: str, rules: EgressRules) -> None: ...
    async def wall(self, box: str, rules: EgressRules, inside: int | None = None) -> str: ...
    async def shut(self, box: str, *, keep_directory: bool = False) -> None: ...
    async def close(self) -> None: ...


class Boxes:
    """`tiers` tries which tiers hold here, once, when the first box is needed. It may take a second.

    `kept`: where what is kept lies; of an earlier life's nothing is believed that `recall` has not found good. `door`: (path, port) of the way to the gateway as a box sees it. `exits`: makes ways out; without it there are none.
    """

    def __init__(
        self,
        tiers: Callable[[], Mapping[Tier, Isolation]] | None = None,
        door: tuple[str, int] | None = None,
        exits: Callable[[], Exits] | None = None,
        kept: str = "",
    ) -> None:
        self._kept = kept
        self._tiers, self._door, self._make_exits = tiers, door, exits
        self._exits: Exits | None = None
        self._isolations: Mapping[Tier, Isolation] = {}
        self._trying = asyncio.Lock()
        self._locks: dict[str, asyncio.Lock] = {}
        self._clearing: set[asyncio.Task[None]] = set()
        self._believed: set[str] = set()  # boxes of which what is kept is ours, or was found good
        self._told: dict[str, ToldDigest] = {}  # by box, what was told to what runs in it or is kept of it

    def of(self, launch: LaunchSpec) -> tuple[Box, Any]:
        """Raises Unsupported where its tier does not hold."""
        assert launch.box is not None
        found = self._isolations.get(launch.box.tier)
        if found is None:
            raise Unsupported(
                f"the {launch.box.tier.value} tier does not hold on this machine; `bastide doctor` says why"
            )
        return launch.box, found

    async def order(self, launch: LaunchSpec) -> dict[str, Any]:
        """What the keeper is told. It never hears what the app is told in confidence.

        Raises StateLost where it was to be brought back, and can't be: it starts anew.
        """
        await self.ready(frozenset())
        box, isolation = self.of(launch)
        limited = dataclasses.replace(box, limits=dataclasses.replace(box.limits, processes=PROCESSES_MAX))
        async with self._lock(box):
            if isolation.refuses(limited) is None:
                box = limited
            if launch.egress:
                box = await self._with_exit(launch, box)
            kept = self.keeps(launch)
            if kept and (harm := await asyncio.to_thread(boxkept.harm, launch)):
                await asyncio.to_thread(boxsaving.forget, launch)
                raise StateLost(f"what was kept of it can't be used: {harm}")
            prepared = await to_the_end(self._prepared, launch, box, isolation, kept)
            if kept:
                isolation.begin_again(box)
                await asyncio.to_thread(boxkept.take, launch)
        told = dataclasses.replace(launch, box=box)
        if launch.serving is not None:
            told = dataclasses.replace(told, serving=dataclasses.replace(launch.serving, environment=(), files=()))
        return {**dataclasses.asdict(told), "box_launch": dataclasses.asdict(prepared), "log_bytes_max": LOG_BYTES_MAX}

    async def _with_exit(self, launch: LaunchSpec, box: Box, inside: int | None = None) -> Box:
        """Open its way out before it starts. Raises Unsupported where there can be none: then it does not start."""
        if self._exits is None:
            if self._make_exits is None:
                raise Unsupported("no way out of boxes can be made here; leave `egress` out")
            self._exits = self._make_exits()
        rules = EgressRules(launch.egress, launch.egress_tier)
        if rules.tier == "packet":
            return dataclasses.replace(box, network_namespace=await self._exits.wall(box.name, rules, inside))
        await self._exits.open(box.name, launch.instance.partition(".")[0], rules)
        return dataclasses.replace(box, egress_directory=self._exits.directory(box.name))

    async def adopt(self, launch: LaunchSpec, pid: int) -> None:
        """An earlier process of ours started it: what that one held open for it is opened again, and it goes on if it was being saved."""
        if launch.box is not None and launch.state_directory:
            box, isolation = self.of(launch)
            if getattr(isolation, "pauses", False):
                await asyncio.to_thread(isolation.begin_again, box)
        if launch.egress and launch.box is not None:
            await self._with_exit(launch, launch.box, pid)

    @staticmethod
    def _prepared(launch: LaunchSpec, box: Box, isolation: Any, kept: bool) -> Any:
        image = str(boxkept.image_of(launch))
        prepared = isolation.prepare_restore(box, image) if kept else isolation.prepare(box)
        for owned in launch.owned:
            volumes.make(owned, prepared.user)
        return prepared

    def keeps(self, launch: LaunchSpec) -> bool:
        """Whether its processes are kept, to be brought back by its next start."""
        return launch.box is not None and launch.box.name in self._believed and boxkept.is_kept(launch)

    async def recall(self, launches: Iterable[LaunchSpec]) -> dict[str, ToldDigest | StateLost]:
        """Of what an earlier Bastide kept: what each instance was told that goes on, or why it can't. All else that it kept goes."""
        left = await asyncio.to_thread(_names, self._kept)
        if not left:
            return {}
        await self.ready(frozenset())  # those alive are known by now, where there are any
        found: dict[str, ToldDigest | StateLost] = {}
        for launch in launches:
            if launch.box is None or launch.box.name not in left:
                continue
            isolation: Any = self._isolations.get(launch.box.tier)
            try:
                if not getattr(isolation, "pauses", False):
                    raise StateLost(
                        f"what was kept of it can't be used: the {launch.box.tier.value} tier saves no more"
                    )
                told = await asyncio.to_thread(boxkept.believed, launch, isolation.identity())
                found[launch.instance] = self._told[launch.box.name] = told
                self._believed.add(launch.box.name)
            except StateLost as error:
                found[launch.instance] = error
        for name in left - self._believed:
            await asyncio.to_thread(shutil.rmtree, os.path.join(self._kept, name), True)
        return found

    async def save(self, launch: LaunchSpec, pid: int, saver: boxsaving.Saver) -> None:
        """Keep its processes, where its tier can. Raises BastideError or OSError where they can't be kept."""
        box, isolation = self.of(launch)
        if not launch.state_directory or not getattr(isolation, "pauses", False) or not isolation.keeps(box):
            return
        await self.thaw(launch, pid)
        await saver.save(launch, box, isolation, pid, self.address(launch, pid, "agent"), self._told.get(box.name))
        self._believed.add(box.name)

    async def serve(self, launch: LaunchSpec, pid: int, died: asyncio.Future[str]) -> None:
        """Tell the box what to run, and return once that is well. Raises EngineStartFailed with why not.

        One that was kept runs already, and knows. It was well: it has little time to be so again, as it can start anew.
        """
        if not self.keeps(launch):
            await self.begin(launch, pid, died)
            await self._well(launch, pid, died)
            return
        limit_s = BACK_S + boxkept.image_bytes(launch) / BACK_BYTES_PER_S
        try:
            async with asyncio.timeout(limit_s):
                await boxsaving.until_it_answers(lambda: self.address(launch, pid, "agent"), died, KNOCK_S)
                await self._well(launch, pid, died)
        except TimeoutError:
            raise StateLost(f"its processes were not well again within {limit_s:.0f} s") from None

    async def _well(self, launch: LaunchSpec, pid: int, died: asyncio.Future[str]) -> None:
        """Until it is well, or has died."""
        wait_s = PROBE_S
        while not died.done() and await self.unwell(launch, pid) is not None:
            await asyncio.wait((died,), timeout=wait_s)
            wait_s = min(PROBE_S_MAX, wait_s * 1.3)

    async def begin(self, launch: LaunchSpec, pid: int, died: asyncio.Future[str]) -> None:
        """Tell the box what to run. Raises EngineStartFailed with why not."""
        assert launch.serving is not None
        serving = launch.serving
        door = {"door": self._door[0], "door_port": self._door[1]} if self._door is not None else {}
        question = {
            "op": "serve", "argv": list(serving.argv), "cwd": serving.directory, "port": serving.port,
            "env": dict(serving.environment), **door,
        }  # fmt: skip
        await boxsaving.until_it_answers(lambda: self.address(launch, pid, "agent"), died, KNOCK_S)
        try:
            if not died.done():
                if launch.box is not None and launch.state_directory:
                    self._told[launch.box.name] = boxkept.digest_of(serving.environment)
                agent = self.address(launch, pid, "agent")
                for file in serving.files:
                    await boxline.write_file(agent, file.path, file.text.encode(), 0o600)
                await boxline.ask(agent, question)
        except (BastideError, OSError) as error:
            if not died.done():
                raise EngineStartFailed(f"the app can't be started: {error}") from None

    async def unwell(self, launch: LaunchSpec, pid: int) -> str | None:
        """Ask its health. None: it is well."""
        assert launch.serving is not None
        health, port = launch.serving.health, launch.serving.port
        try:
            if health.path is None:
                await boxline.ask(self.address(launch, pid, "agent"), {"op": "connect", "port": port}, health.timeout_s)
                return None
            leads, descriptor = connect_path(self.address(launch, pid, "app"))
            try:
                status, _ = await ask(leads, "", Ask("GET", health.path), health.timeout_s)
            finally:
                os.close(descriptor)
        except TimeoutError:
            return f"it did not answer within {health.timeout_s:g} s"
        except (OSError, ValueError) as error:
            return f"it can't be reached: {error}"
        except BastideError as error:
            return error.message
        return None if status < 400 else f"{health.path} answered with status {status}"

    def address(self, launch: LaunchSpec, pid: int, name: str) -> str:
        """Host path of one of its sockets."""
        box, isolation = self.of(launch)
        return str(isolation.address(box, name, pid))

    async def footprint(self, launch: LaunchSpec, pid: int) -> Footprint:
        """Of the whole tree."""
        box, isolation = self.of(launch)
        return await asyncio.to_thread(_footprint, isolation.pids(box, pid))

    async def cpu_s(self, launch: LaunchSpec, pid: int) -> float:
        box, isolation = self.of(launch)
        usage = await asyncio.to_thread(isolation.usage, box, pid)
        return float(usage["cpu_s"])

    async def rest(self, launch: LaunchSpec, pid: int, rung: Rung) -> None:
        """Everyone stops; on the light rung their memory is given to swap."""
        box, isolation = self.of(launch)
        try:
            await asyncio.to_thread(isolation.freeze, box, pid)
            if rung is Rung.LIGHT:
                await asyncio.to_thread(isolation.page_out, box, pid)
        except OSError as error:
            raise EngineLost(f"its processes can't be stopped: {error}") from None

    async def thaw(self, launch: LaunchSpec, pid: int) -> None:
        box, isolation = self.of(launch)
        try:
            await asyncio.to_thread(isolation.thaw, box, pid)
        except OSError as error:
            raise EngineLost(f"its processes can't go on: {error}") from None

    async def ask_to_end(self, launch: LaunchSpec, pid: int) -> None:
        """The app is told by SIGTERM; its box ends with it."""
        with contextlib.suppress(BastideError, OSError):
            await boxline.ask(self.address(launch, pid, "agent"), {"op": "stop"}, 1.0)

    def ended(self, launch: LaunchSpec) -> None:
        """Its first process is gone: clear what it left, in the background."""
        task = asyncio.get_running_loop().create_task(self._clear(launch))
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)

    async def cleared(self) -> None:
        """Wait until all that ended has left nothing behind."""
        await asyncio.gather(*self._clearing, return_exceptions=True)
        if self._exits is not None:
            await self._exits.close()

    async def _clear(self, launch: LaunchSpec) -> None:
        box, isolation = self.of(launch)
        async with self._lock(box):
            if self._exits is not None:
                await self._exits.shut(box.name)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(isolation.clear, box)

    async def ready(self, alive: frozenset[str]) -> None:
        """Know which tiers hold, and clear what boxes of an earlier life have left; those `alive` stay."""
        async with self._trying:
            if self._tiers is None:
                return
            self._isolations = await asyncio.to_thread(self._tiers)
            self._tiers = None
            for isolation in self._isolations.values():
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(isolation.sweep, alive)

    def _lock(self, box: Box) -> asyncio.Lock:
        return self._locks.setdefault(box.name, asyncio.Lock())


def _names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder)) if folder else set()
    except OSError:
        return set()


def _footprint(pids: tuple[int, ...]) -> Footprint:
    parts = [proc.footprint(pid) for pid in pids]
    return Footprint(
        anonymous_bytes=sum(part.anonymous_bytes for part in parts),
        file_bytes=sum(part.file_bytes for part in parts),
        swapped_bytes=sum(part.swapped_bytes for part in parts),
        zram_bytes=sum(part.zram_bytes for part in parts),
    )
