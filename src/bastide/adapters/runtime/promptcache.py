"""The prompt caches of an engine that rests deep: one file a slot, in memory, for its owner only. They hold what users wrote."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from bastide.domain.errors import EngineError
from bastide.domain.instances import LaunchSpec
from bastide.engines.port import Ask, Engine

SAVED_BYTES_MAX = 64 * 2**20
SLOT_BYTES_MIN = 256  # less is nothing worth keeping

AskEngine = Callable[[Ask], Awaitable[tuple[int, bytes]]]


async def save(launch: LaunchSpec, engine: Engine, ask: AskEngine) -> None:
    """Keep every slot; on any trouble simply don't: a deep wake without it is slower, never wrong."""
    kept = 0
    make_private(launch.state_directory)
    for slot in range(launch.slots):
        request = engine.save(slot)
        if request is None:
            return
        file = _file(launch, slot)
        with contextlib.suppress(EngineError):
            status, body = await ask(request)
            size = file.stat().st_size if status == 200 and file.exists() else 0
            kept += size
            if size < SLOT_BYTES_MIN or kept > SAVED_BYTES_MAX or b'"n_saved":0' in body:
                kept -= size
                file.unlink(missing_ok=True)


async def restore(launch: LaunchSpec, engine: Engine, ask: AskEngine) -> None:
    """Give back what was kept; it is forgotten then, whatever came of it."""
    for slot in range(launch.slots):
        file = _file(launch, slot)
        if not launch.state_directory or not file.exists():
            continue
        request = engine.restore(slot)
        if request is not None:
            with contextlib.suppress(EngineError):
                await ask(request)
        file.unlink(missing_ok=True)


def kept_bytes(launch: LaunchSpec) -> int:
    directory = Path(launch.state_directory)
    return sum(file.stat().st_size for file in directory.glob("slot-*")) if launch.state_directory else 0


def make_private(directory: str) -> None:
    if directory:
        os.makedirs(directory, mode=0o700, exist_ok=True)


def _file(launch: LaunchSpec, slot: int) -> Path:
    return Path(launch.state_directory) / f"slot-{slot}"
