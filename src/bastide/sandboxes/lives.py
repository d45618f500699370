"""Which sandboxes there are on this node, and the boxes they are made of. Starts and ends nothing by itself."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from bastide.domain.errors import NotFound
from bastide.domain.isolation import Box, Limits, Scratch, TierReport
from bastide.domain.sandboxes import Sandbox, SandboxPhase, SandboxSpec
from bastide.egress.exits import Exits
from bastide.ports.clock import Clock
from bastide.ports.vault import Vault
from bastide.sandboxes.boxes import Boxes
from bastide.sandboxes.keys import Keys
from bastide.sandboxes.meter import SandboxMeter
from bastide.sandboxes.pool import Kind, Pool
from bastide.sandboxes.records import Records
from bastide.sandboxes.settings import SandboxSettings
from bastide.sandboxes.snapshots import Snapshots
from bastide.sandboxes.templates import Templates
from bastide.sandboxes.tokens import Tokens
from bastide.sandboxes.turns import Turns

HOME = "/home/user"
ENDED_KEPT = 1000


@dataclass(slots=True)
class Live:
    """A sandbox and what is only known while this process lives."""

    sandbox: Sandbox
    last_used_s: float
    in_use: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by whatever changes its phase
    left: asyncio.Event = field(default_factory=asyncio.Event)  # set whenever a call to it is over
    phase_since_s: float = 0.0
    watched: tuple[float, float] | None = None  # since when its processes are watched, and what they had used by then


class Lives:
    """What every part of the house shares."""

    def __init__(
        self,
        settings: SandboxSettings,
        boxes: Boxes,
        records: Records,
        templates: Templates,
        exits: Exits,
        meter: SandboxMeter,
        vault: Vault,
        tokens: Tokens,
        tiers: tuple[TierReport, ...],
        clock: Clock,
        keys: Keys,
    ) -> None:
        self.keys = keys
        self.tokens, self.tiers = tokens, tiers
        self.settings, self.boxes, self.records, self.templates = settings, boxes, records, templates
        self.exits, self._meter, self._vault, self._clock = exits, meter, vault, clock
        self.live: dict[str, Live] = {}
        self._ended: dict[str, tuple[str, str]] = {}  # project and reason of those that ended, newest last
        boxes.after_end = exits.forget
        self.snapshots = Snapshots(records, clock)
        spare_limits = Limits(processes=512) if "processes" in settings.enforces else Limits()
        self.pool = Pool(boxes, self._box, settings.spares, spare_limits, clock)
        self._creating = Turns(os.cpu_count() or 1)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, project: str | None, identity: str) -> Live:
        """The sandbox, if it is this project's (None: anybody's). Raises NotFound."""
        live = self.live.get(identity)
        if live is None or (project is not None and live.sandbox.project != project):
            owner, why = self._ended.get(identity, ("", ""))
            if why and project in (None, owner):
                raise NotFound(f"the sandbox {identity} has ended: {why}")
            raise NotFound(f"there is no sandbox {identity!r}; `bastide sandbox ls` lists those that live")
        return live

    def _note_end(self, sandbox: Sandbox, reason: str) -> None:
        """For whoever asks for it later: why it is gone. The oldest are forgotten."""
        self._ended[sandbox.sandbox] = (sandbox.project, reason)
        while len(self._ended) > ENDED_KEPT:
            del self._ended[next(iter(self._ended))]

    def _take(self, sandbox: Sandbox, now_s: float) -> Live:
        live = self.live[sandbox.sandbox] = Live(sandbox, now_s, phase_since_s=now_s)
        return live

    def _move(
        self,
        live: Live,
        phase: SandboxPhase,
        reason: str,
        *,
        durable: bool = True,
        image: str | None = None,
        box: str | None = None,
    ) -> None:
        now_s = self._clock.now_s()
        self._account(live, now_s)
        old = live.sandbox
        live.sandbox = replace(
            old,
            phase=phase,
            reason=reason,
            image=old.image if image is None else image,
            box=old.box if box is None else box,
        )
        live.phase_since_s = now_s
        self.records.keep(live.sandbox.sandbox, lambda: self._to_keep(live), durable=durable)

    def _to_keep(self, live: Live) -> Sandbox | None:
        """What a record shall say at the moment it is written; None once the sandbox has ended."""
        return live.sandbox if self.live.get(live.sandbox.sandbox) is live else None

    def _account(self, live: Live, now_s: float) -> None:
        self._meter.spent(live.sandbox, max(0.0, now_s - live.phase_since_s), now_s)
        live.phase_since_s = now_s

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _box(self, kind: Kind, limits: Limits) -> Box:
        return self._box_named(f"s{secrets.token_hex(6)}", kind, limits)

    def _named_box(self, sandbox: Sandbox) -> Box:
        spec = sandbox.spec
        return self._box_named(sandbox.box, Kind(spec.template, spec.tier, spec.disk_bytes), spec.limits)

    def _box_named(self, name: str, kind: Kind, limits: Limits) -> Box:
        template = self.templates.named(kind.template)
        arguments, mounts = self.templates.agent(template)
        environment = [("HOME", HOME), ("PATH", template.path), ("USER", "user"), ("LANG", "C.UTF-8")]
        if template.python:
            environment.append(("BASTIDE_PYTHON", template.python))
        return Box(
            name=name,
            tier=kind.tier,
            arguments=arguments,
            environment=tuple(environment),
            root=template.root,
            mounts=mounts,
            scratch=(Scratch(HOME, kind.disk_bytes),),
            limits=limits,
            listens=("agent",),
            egress_directory=self.exits.directory(name),
            hostname="sandbox",
        )

    async def _fitted(self, box: Box, spec: SandboxSpec) -> Box:
        """The box with its wall, where it is to have one: before it starts, for a namespace can't be changed later."""
        if spec.egress.tier != "packet":
            return box
        return replace(box, network_namespace=await self.exits.wall(box.name, spec.egress), egress_directory="")

    async def _guarded(self, box: Box, starting: Coroutine[Any, Any, Any]) -> None:
        """A start that leaves no way out behind where it fails."""
        try:
            await starting
        except BaseException:
            await asyncio.shield(self.exits.shut(box.name))
            raise
