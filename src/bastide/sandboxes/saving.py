"""Sandboxes awake, at rest and on disk: using one wakes it; resting and saving lose nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from bastide.domain.errors import BastideError, Conflict, NotFound, Unsupported
from bastide.domain.sandboxes import RESTING, Sandbox, SandboxPhase, Snapshot
from bastide.sandboxes.line import Line
from bastide.sandboxes.lives import Live, Lives
from bastide.sandboxes.pool import Kind

QUIET_S_MAX = 5.0


class Saving(Lives):
    """The ways between the phases of a sandbox."""

    @contextlib.asynccontextmanager
    async def using(self, live: Live) -> AsyncIterator[str]:
        """While inside, the sandbox is awake and counts as in use; gives the name of its box. Raises NotFound once it ended."""
        while True:
            if self.live.get(live.sandbox.sandbox) is not live:
                raise NotFound(f"there is no sandbox {live.sandbox.sandbox!r} any more")
            if live.lock.locked():  # being saved, brought back or put to rest this moment: wait for it to be over
                async with live.lock:
                    continue
            if live.sandbox.phase is not SandboxPhase.PAUSED:
                break
            await self.resume(live)
        # From the last look to here nothing has waited, so nobody can have begun to save it.
        live.in_use += 1
        try:
            if live.sandbox.phase in RESTING:
                self._move(live, SandboxPhase.RUNNING, "used", durable=False)
            yield live.sandbox.box
        finally:
            live.in_use -= 1
            live.left.set()
            live.last_used_s = self._clock.now_s()
            self._changed.set()

    async def _until_quiet(self, live: Live) -> None:
        """With the lock held: until the calls under way are over. Raises Conflict where they take too long.

        To save a sandbox its connections are cut; what `spawn` started goes on, what somebody waits for would not.
        """
        try:
            async with asyncio.timeout(QUIET_S_MAX):
                while live.in_use:
                    live.left.clear()
                    await live.left.wait()
        except TimeoutError:
            raise Conflict(
                f"{live.in_use} call(s) to this sandbox are under way; it is saved when none is. "
                "Start what takes long with spawn: it goes on"
            ) from None
        if self.live.get(live.sandbox.sandbox) is not live:
            raise NotFound(f"there is no sandbox {live.sandbox.sandbox!r} any more")

    async def ask(self, live: Live, question: dict[str, Any]) -> Line:
        """An open question to its agent; wakes it. Call within `using`."""
        return await self.boxes.ask(live.sandbox.box, question)

    async def tell(self, live: Live, question: dict[str, Any]) -> dict[str, Any]:
        """Ask its agent and take the one answer; wakes it."""
        async with self.using(live) as box:
            return await self.boxes.tell(box, question)

    async def metrics(self, live: Live) -> dict[str, float]:
        """What it uses now; nothing where it lies on disk."""
        running = self.boxes.running.get(live.sandbox.box)
        if running is None:
            return {"memory_bytes": 0.0, "processes": 0.0}
        isolation = self.boxes.tier(running.box.tier)
        usage = await asyncio.to_thread(isolation.usage, running.box, running.pid)
        usage["resident_bytes"] = float(await asyncio.to_thread(isolation.resident_bytes, running.box, running.pid))
        return usage

    async def rest(self, live: Live) -> Sandbox:
        """Lightly, now. Raises Conflict where it is in use, Unsupported where nothing can be paged out here."""
        if not self.settings.light:
            raise Unsupported("no light rest here: there is no zram or encrypted swap; `bastide doctor` says more")
        await self._rest(live)
        if live.sandbox.phase is not SandboxPhase.LIGHT:
            raise Conflict("the sandbox is in use, or its memory could not be paged out")
        return live.sandbox

    async def _rest(self, live: Live) -> None:
        """Stop it, and page it out where that can be."""
        async with live.lock:
            if live.in_use or live.sandbox.phase is not SandboxPhase.RUNNING:
                return
            phase = SandboxPhase.FROZEN
            try:
                await self.boxes.freeze(live.sandbox.box)
                if self.settings.light:
                    with contextlib.suppress(BastideError, OSError):
                        await self.boxes.page_out(live.sandbox.box)
                        phase = SandboxPhase.LIGHT
            except (BastideError, OSError, KeyError):
                with contextlib.suppress(OSError, KeyError):
                    await self.boxes.thaw(live.sandbox.box)
                live.last_used_s = self._clock.now_s()
                return
            if live.in_use:  # somebody came meanwhile: their connection is open, so now it goes on
                await self.boxes.thaw(live.sandbox.box)
                return
            self._move(live, phase, "idle", durable=False)

    def _check_saves(self, live: Live) -> None:
        """Raises Unsupported, by name, where this one can't be saved."""
        self.boxes.pauses(live.sandbox.spec.tier)
        if live.sandbox.spec.egress.tier == "packet":
            raise Unsupported(
                "a sandbox with the packet tier of egress can't be saved: gVisor saves none that uses the host's sockets; "
                "make it with the proxy tier"
            )

    async def pause(self, live: Live) -> Sandbox:
        """Save it with its processes and end them; any use brings it back."""
        self._check_saves(live)
        async with live.lock:
            if live.sandbox.phase is SandboxPhase.PAUSED:
                return live.sandbox
            await self._until_quiet(live)
            name = live.sandbox.box
            running = self.boxes.running.get(name)
            if running is None:
                raise NotFound("the sandbox has ended")
            saved = await self.boxes.save(name)
            image = await asyncio.to_thread(self.snapshots.lay_aside, saved)
            self._move(live, SandboxPhase.PAUSED, "paused", image=image)
            await self.exits.shut(name)
            await self.boxes.end(running.box)
            if self.live.get(live.sandbox.sandbox) is not live:  # ended meanwhile: nobody will come back for it
                await asyncio.to_thread(self.snapshots.drop, image)
        return live.sandbox

    async def resume(self, live: Live) -> Sandbox:
        async with live.lock:
            await self._brought_back(live)
        return live.sandbox

    async def _brought_back(self, live: Live) -> None:
        """With the lock held."""
        if live.sandbox.phase is not SandboxPhase.PAUSED:
            return
        spec, image = live.sandbox.spec, live.sandbox.image
        box = await self._fitted(self._box(Kind(spec.template, spec.tier, spec.disk_bytes), spec.limits), spec)
        await self.exits.open(box.name, live.sandbox.project, spec.egress)
        await self._guarded(box, self.boxes.restore(box, str(self.records.image(image))))
        if self.live.get(live.sandbox.sandbox) is not live:  # ended meanwhile, and so is this
            await self.exits.shut(box.name)
            await self.boxes.end(box)
            raise NotFound("the sandbox has ended")
        self._move(live, SandboxPhase.RUNNING, "resumed", image="", box=box.name)
        await asyncio.to_thread(self.snapshots.drop, image)

    async def snapshot(self, live: Live, name: str) -> Snapshot:
        """Save it while it runs on."""
        self._check_saves(live)
        async with live.lock:
            await self._brought_back(live)
            await self._until_quiet(live)
            box, kept = live.sandbox.box, live.sandbox
            if box not in self.boxes.running:
                raise NotFound("the sandbox has ended")
            saved = await self.boxes.save(box)
            try:
                return await asyncio.to_thread(
                    self.snapshots.make, kept.project, name, kept.spec, saved, kept.environment
                )
            finally:
                await self.boxes.nudge(box)
