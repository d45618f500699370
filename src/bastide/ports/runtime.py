"""Processes on one node: start, freeze, page out, wake, stop, measure. The agent decides; a runtime does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from bastide.domain.instances import EngineCounters, Footprint, LaunchSpec, ProcessIdentity
from bastide.domain.lifecycle import Rung

Progress = Callable[[str, float | None], None]  # what is happening, and how far (0..1) where it is known


class Runtime(Protocol):
    """Every method raises bastide.domain.errors.EngineError with what the process last said where it can't."""

    async def start(self, launch: LaunchSpec, progress: Progress) -> ProcessIdentity:
        """Start the engine and return once it answers its health probe."""
        ...

    async def adopt(self, launch: LaunchSpec, identity: ProcessIdentity) -> bool:
        """Claim a process that an earlier agent started. False where it is gone or is not that process."""
        ...

    async def sink(self, instance: str, rung: Rung) -> str:
        """Step down to `frozen` or `light` (the process lives on), or `deep`/`off` (saved where it can be, then ended).

        Returns what was to be saved and is lost, and why; empty: nothing.
        """
        ...

    async def wake(self, instance: str) -> None:
        """From `frozen` or `light` back to running; returns when the process may run, not when it is paged in."""
        ...

    async def stop(self, instance: str, grace_s: float) -> None:
        """End it: asked first, killed after `grace_s`. Already gone is fine."""
        ...

    async def footprint(self, instance: str) -> Footprint: ...

    async def counters(self, instance: str) -> EngineCounters | None:
        """The engine's own token counts, or None where it has none."""
        ...

    async def canary(self, instance: str) -> tuple[str, EngineCounters]:
        """The answer to a fixed short prompt, greedy, and what it cost in tokens."""
        ...

    def identity(self, instance: str) -> ProcessIdentity | None: ...

    def last_lines(self, instance: str, count: int) -> tuple[str, ...]:
        """The end of its log."""
        ...

    def watch(self, died: Callable[[str, str, bool], Awaitable[None]]) -> None:
        """Call `died(instance, reason, own_fault)` whenever a process ends by itself, or what ran it ends (no own fault)."""
        ...
