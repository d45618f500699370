"""The sandboxes of one node: made, used, put to rest, saved, ended. Owns which there are and what each may do.

What is acknowledged is recorded first; what is not recorded is ended at the next start. It never looks at what passes
through a sandbox, and never logs it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import secrets
from dataclasses import replace

from bastide.domain.errors import BastideError, Conflict, InvalidRequest, NoRoom, NotFound, Unavailable, Unsupported
from bastide.domain.isolation import Box
from bastide.domain.sandboxes import RESTING, TIMEOUT_S_MAX, EgressRules, Sandbox, SandboxPhase, SandboxSpec
from bastide.policy.sandboxes import WATCH_S, Idle, Step, next_step
from bastide.sandboxes.lives import Live
from bastide.sandboxes.pool import Kind
from bastide.sandboxes.saving import Saving

_log = logging.getLogger("bastide.sandboxes")
ENVIRONMENT_BYTES_MAX = 128 * 1024
LOOK_S_MIN = 0.05
PAUSE_ALL_S_MAX = 10.0  # at the end of Bastide


class House(Saving):
    """The whole of it: recovers, makes, changes, ends, and watches the time."""

    async def recover(self) -> None:
        """Take up what an earlier process left: its sandboxes live on, what it had not acknowledged is ended."""
        survivors = await self.boxes.survivors()
        now_s = self._clock.now_s()
        kept: set[str] = set()
        for sandbox in self.records.sandboxes():
            if sandbox.phase is SandboxPhase.PAUSED:
                self._take(sandbox, now_s)
            elif sandbox.phase in (SandboxPhase.RUNNING, *RESTING) and sandbox.box in survivors:
                box = self._named_box(sandbox)
                running = self.boxes.adopt(box, survivors[sandbox.box])
                running.frozen = True  # it may be: one that nobody has used yet is, whatever its record says
                self.boxes.will_tell(sandbox.box, self._environment(sandbox))
                kept.add(sandbox.box)
                self._take(sandbox, now_s)
                if sandbox.spec.egress.tier == "packet":
                    await self.exits.wall(sandbox.box, sandbox.spec.egress, running.pid)
                await self.exits.open(sandbox.box, sandbox.project, sandbox.spec.egress)
                self._spawn(self.boxes.nudge(sandbox.box))  # it may have been being saved just then
            else:
                self.records.forget(sandbox.sandbox)
                self._note_end(sandbox, "its processes ended while what serves sandboxes was away")
        for name in survivors:
            if name not in kept:
                await self.boxes.end_stranger(name)
        await asyncio.to_thread(self.boxes.sweep, frozenset(kept))
        self.exits.sweep(frozenset(kept))
        self.keys.keep(frozenset(self.live))
        self.snapshots.recover({live.sandbox.image for live in self.live.values() if live.sandbox.image})

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pool.run())
            group.create_task(self._look_forever())

    async def close(self, *, end_boxes: bool) -> None:
        for task in list(self._tasks):
            task.cancel()
        now_s = self._clock.now_s()
        for live in self.live.values():
            self._account(live, now_s)
        if end_boxes:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._pause_all(), PAUSE_ALL_S_MAX)
            for live in list(self.live.values()):
                if live.sandbox.phase is not SandboxPhase.PAUSED:
                    self.records.forget(live.sandbox.sandbox)
                    self.keys.drop(live.sandbox.sandbox)
            for running in list(self.boxes.running.values()):
                with contextlib.suppress(BastideError, OSError):
                    await self.boxes.end(running.box)
        await self.boxes.close(end_boxes=end_boxes)
        await self.keys.close()
        await self.exits.close()
        self.exits.sweep(frozenset(self.boxes.running) if not end_boxes else frozenset())
        self._meter.close()

    async def _pause_all(self) -> None:
        """Those that can be saved are there again after the next start."""
        for live in list(self.live.values()):
            if live.sandbox.phase in (SandboxPhase.RUNNING, *RESTING):
                with contextlib.suppress(BastideError, OSError, KeyError):
                    await self.pause(live)

    def lost(self, name: str, reason: str) -> None:
        """A box has ended by itself."""
        for live in list(self.live.values()):
            if live.sandbox.box == name and live.sandbox.phase in (SandboxPhase.RUNNING, *RESTING):
                self._spawn(self._end(live, f"its processes ended: {reason}"))

    async def create(self, project: str, key_id: str, spec: SandboxSpec, environment: dict[str, str]) -> Sandbox:
        """A sandbox that answers, recorded. Raises what can't be had, by name."""
        give_back = await self._creating.take()  # so that the first of many can be used while the last are being made
        try:
            return await self._created(project, key_id, spec, environment)
        finally:
            give_back()

    async def _created(self, project: str, key_id: str, spec: SandboxSpec, environment: dict[str, str]) -> Sandbox:
        image = ""
        if spec.template.startswith("snapshot:"):
            snapshot = self.snapshots.of(project, spec.template.removeprefix("snapshot:"))
            image = snapshot.snapshot
            spec = replace(spec, tier=snapshot.spec.tier, disk_bytes=snapshot.spec.disk_bytes)
            base = snapshot.spec.template
            environment = {**self._opened(snapshot.environment), **environment}
        else:
            base = self.templates.named(spec.template).name
        if sum(len(name) + len(value) for name, value in environment.items()) > ENVIRONMENT_BYTES_MAX:
            raise InvalidRequest(f"env holds more than {ENVIRONMENT_BYTES_MAX} bytes", param="env")
        self.exits.check(spec.egress)
        if not 1.0 <= spec.timeout_s <= TIMEOUT_S_MAX:
            raise InvalidRequest(f"timeout must be 1 s to {TIMEOUT_S_MAX:.0f} s", param="timeout")
        self._admit(spec)
        identity = f"sb-{secrets.token_hex(8)}"
        spec = replace(spec, template=base)
        if image:
            return await self._begun(identity, project, key_id, spec, environment, image)
        kind = Kind(spec.template, spec.tier, spec.disk_bytes)
        walled = spec.egress.tier == "packet"
        running = None if walled else self.pool.take(kind)
        if running is not None:
            box = replace(running.box, limits=spec.limits)
            try:
                await asyncio.to_thread(self.boxes.tier(box.tier).limit, box)
            except BaseException:
                await asyncio.shield(self.boxes.end(running.box))
                raise
            running.box = box
        else:
            box = await self._fitted(self._box(kind, spec.limits), spec)
            await self._guarded(box, self.boxes.start(box))
        return await self._settled(identity, project, key_id, spec, environment, box)

    async def _begun(
        self, identity: str, project: str, key_id: str, spec: SandboxSpec, environment: dict[str, str], image: str
    ) -> Sandbox:
        box = await self._fitted(self._box(Kind(spec.template, spec.tier, spec.disk_bytes), spec.limits), spec)
        await self._guarded(box, self.boxes.restore(box, str(self.records.image(image))))
        return await self._settled(identity, project, key_id, spec, environment, box)

    async def _settled(
        self, identity: str, project: str, key_id: str, spec: SandboxSpec, environment: dict[str, str], box: Box
    ) -> Sandbox:
        now_s = self._clock.now_s()
        sealed = base64.b64encode(self._vault.seal(json.dumps(environment), "sandbox")).decode() if environment else ""
        sandbox = Sandbox(
            identity, project, key_id, spec, SandboxPhase.RUNNING, box.name, now_s, now_s + spec.timeout_s, sealed
        )
        try:
            await self.exits.open(box.name, project, spec.egress)
            own = await self.keys.environment(identity, project, key_id, spec.egress, environment)
            if own:  # a key is in nobody's record, so it can't be told later
                await self.boxes.tell(box.name, {"op": "settle", "env": own})
            self.boxes.will_tell(box.name, self._environment(sandbox))
            await asyncio.to_thread(self.records.keep, sandbox.sandbox, lambda: sandbox)
        except BaseException:
            await asyncio.shield(self._undo(identity, box))
            raise
        self._take(sandbox, now_s)
        self._changed.set()
        return sandbox

    def _environment(self, sandbox: Sandbox) -> dict[str, str]:
        return {**self._opened(sandbox.environment), "BASTIDE_SANDBOX": sandbox.sandbox}

    async def _undo(self, identity: str, box: Box) -> None:
        self.keys.drop(identity)
        await self.exits.shut(box.name)
        await self.boxes.end(box)

    def _admit(self, spec: SandboxSpec) -> None:
        if len(self.live) >= self.settings.sandboxes_max:
            raise NoRoom(f"there are {len(self.live)} sandboxes already, the most this node allows; end some")
        refused = self.boxes.tier(spec.tier).refuses(Box("probe", spec.tier, ("true",), limits=spec.limits))
        if refused is not None:
            raise Unsupported(refused)
        promised = sum(
            live.sandbox.spec.limits.memory_bytes or 0
            for live in self.live.values()
            if live.sandbox.phase in (SandboxPhase.RUNNING, SandboxPhase.FROZEN)
        )
        wanted = spec.limits.memory_bytes or 0
        if promised + wanted > self.settings.memory_budget_bytes:
            raise NoRoom(
                f"running sandboxes are promised {promised >> 20} MiB of the {self.settings.memory_budget_bytes >> 20} "
                f"MiB for sandboxes here, and this one asks for {wanted >> 20} MiB; end or pause some, or ask for less",
                retry_after_s=5.0,
            )

    def _opened(self, sealed: str) -> dict[str, str]:
        if not sealed:
            return {}
        found: dict[str, str] = json.loads(self._vault.open(base64.b64decode(sealed), "sandbox"))
        return found

    async def fork(self, live: Live, count: int, key_id: str) -> list[Sandbox]:
        """That many more of it, as it is now."""
        if not 1 <= count <= 20:
            raise InvalidRequest("a fork makes 1 to 20", param="count")
        snapshot = await self.snapshot(live, "fork")
        left_s = max(1.0, live.sandbox.expires_s - self._clock.now_s())
        spec = replace(live.sandbox.spec, template=f"snapshot:{snapshot.snapshot}", timeout_s=left_s)
        made: list[Sandbox] = []
        try:
            for _ in range(count):
                made.append(await self.create(live.sandbox.project, key_id, spec, {}))  # noqa: PERF401  undone below
        except BaseException:
            for sandbox in made:
                await asyncio.shield(self.kill(self.live[sandbox.sandbox]))
            raise
        finally:
            await asyncio.to_thread(self.records.remove_snapshot, snapshot.snapshot)
            self.snapshots.forget(snapshot.snapshot)
        return made

    async def set_timeout(self, live: Live, timeout_s: float) -> Sandbox:
        """It ends that many seconds from now."""
        if not 1.0 <= timeout_s <= TIMEOUT_S_MAX:
            raise InvalidRequest(f"timeout must be 1 s to {TIMEOUT_S_MAX:.0f} s", param="timeout")
        live.sandbox = replace(live.sandbox, expires_s=self._clock.now_s() + timeout_s)
        await asyncio.to_thread(self.records.keep, live.sandbox.sandbox, lambda: self._to_keep(live))
        self._changed.set()
        return live.sandbox

    async def set_egress(self, live: Live, rules: EgressRules) -> Sandbox:
        """At once, for open connections too; recorded before it is acknowledged."""
        if rules.tier != live.sandbox.spec.egress.tier:
            raise Conflict("the tier of egress is chosen when a sandbox is made; its rules can be changed at any time")
        self.exits.check(rules)
        live.sandbox = replace(live.sandbox, spec=replace(live.sandbox.spec, egress=rules))
        await asyncio.to_thread(self.records.keep, live.sandbox.sandbox, lambda: self._to_keep(live))
        await self.exits.change(live.sandbox.box, rules)
        return live.sandbox

    async def kill(self, live: Live) -> None:
        await self._end(live, "it was told to end")

    async def _end(self, live: Live, reason: str) -> None:
        sandbox = live.sandbox
        if self.live.pop(sandbox.sandbox, None) is None:
            return
        self._note_end(sandbox, reason)
        _log.info("sandbox %s ends: %s", sandbox.sandbox, reason)
        now_s = self._clock.now_s()
        self._account(live, now_s)
        self.keys.drop(sandbox.sandbox)
        # The record goes first: once it is gone the sandbox has ended, and a restart clears what is left of it.
        await asyncio.to_thread(self.records.forget, sandbox.sandbox)
        running = self.boxes.running.get(sandbox.box)
        await self.exits.shut(sandbox.box)
        if running is not None:
            await self.boxes.end(running.box)
        if sandbox.image:
            await asyncio.to_thread(self.snapshots.drop, sandbox.image)

    async def _look_forever(self) -> None:
        while True:
            self._changed.clear()
            now_s = self._clock.now_s()
            due_s = now_s + 3600.0
            for live in list(self.live.values()):
                verdict = next_step(await self._idle(live, now_s), now_s)
                due_s = min(due_s, verdict.look_again_s)
                if verdict.step is Step.END:
                    await self._end(live, verdict.reason)
                elif verdict.step is Step.WATCH:
                    live.watched = (now_s, await self._cpu_s(live))
                elif verdict.step is Step.REST:
                    await self._rest(live)
                elif verdict.step is Step.PAUSE:
                    with contextlib.suppress(Unavailable, Conflict, NotFound):
                        await self.pause(live)
            wait_s = max(LOOK_S_MIN, due_s - self._clock.now_s())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
            await asyncio.sleep(LOOK_S_MIN)

    async def _idle(self, live: Live, now_s: float) -> Idle:
        phase = live.sandbox.phase
        watched_s, cores = None, 0.0
        if live.watched is not None and live.watched[0] >= live.last_used_s:
            watched_s, used_s = live.watched
            if now_s >= watched_s + WATCH_S:
                cores = (await self._cpu_s(live) - used_s) / (now_s - watched_s)
        return Idle(
            running=phase is SandboxPhase.RUNNING,
            resting=phase in RESTING,
            in_use=live.in_use,
            last_used_s=live.last_used_s,
            expires_s=live.sandbox.expires_s,
            can_pause=live.sandbox.spec.egress.tier != "packet" and self.boxes.saves(live.sandbox.spec.tier),
            watched_s=watched_s,
            cores=cores,
        )

    async def _cpu_s(self, live: Live) -> float:
        """Seconds of processors that its processes have used; 0 where that can't be known."""
        try:
            return (await self.metrics(live)).get("cpu_s", 0.0)
        except (BastideError, OSError):
            return 0.0
