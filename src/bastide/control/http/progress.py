"""What is told of services while they are deployed: a line of JSON at each change, until each has come to its end.

Owns what an end is: it serves, it failed, it was removed, or another generation took its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from bastide.control.state import Control
from bastide.control.view import services_view
from bastide.domain.lifecycle import ServicePhase
from bastide.domain.plan import DesiredService

PROGRESS_S = 0.03
FAILURES_MIN = 2  # in a row: after a single one it is tried again at once, and whoever asks waits for that
REMOVED = "it was removed while it was being deployed; deploy it again to have it"


async def progress_lines(control: Control, project: str, wanted: Mapping[str, int]) -> AsyncIterator[bytes]:
    """`wanted`: by service the generation whose end is waited for; 0: whichever is the newest."""
    watcher = control.loop.watch()
    last: dict[str, str] = {}
    ends: dict[str, dict[str, Any]] = {}
    try:
        while True:
            watcher.clear()
            began_s = control.clock.monotonic_s()
            lines = [ends.get(line["name"], line) for line in _lines(control, project, wanted)]
            # Of a generation that came to its end while others are on their way: what is deployed after it is not its.
            ends.update({line["name"]: line for line in lines if line["done"] and wanted[line["name"]]})
            for line in lines:
                text = json.dumps(line)
                if last.get(line["name"]) != text:
                    last[line["name"]] = text
                    yield text.encode() + b"\n"
            if all(line["done"] for line in lines):
                return
            # Several changes make one line, and many services make a longer pause: most of the time is for the work.
            await asyncio.sleep(max(PROGRESS_S, 9 * (control.clock.monotonic_s() - began_s)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watcher.wait(), 10.0)
    finally:
        control.loop.unwatch(watcher)


def _lines(control: Control, project: str, wanted: Mapping[str, int]) -> list[dict[str, Any]]:
    there = {name: s for name in wanted if (s := control.loop.services.get((project, name))) is not None}
    lines = [
        _line(control, there[view["name"]], view, wanted[view["name"]])
        for view in services_view(there.values(), control.loop)
    ]
    for name in wanted:
        if name not in there:
            phase = ServicePhase.REMOVING.value
            lines.append(_told(name, phase, REMOVED, wanted[name], None, done=True, failed=True))
    return lines


def _line(control: Control, found: DesiredService, view: dict[str, Any], wanted: int) -> dict[str, Any]:
    on_its_way = found.rolling or (found.serving > 0 and view["phase"] == "pending") or not control.table_is_out
    name, reason, failed = view["name"], view["reason"], True
    if found.removed:
        reason, on_its_way = REMOVED, False
    elif wanted not in (0, found.generation):
        reason, on_its_way = _replaced(name, wanted, found.generation), False
    elif found.failed_generation == found.generation:
        reason = found.failure
    elif not on_its_way and _fails(found, view):
        reason = (
            f"it fails when it is started: {reason}; `bastide logs {name}` shows what it said. Deploy it changed, "
            f"or, where something else was mended, `bastide wake {name}`"
        )
    else:
        failed = False
    return _told(name, view["phase"], reason, found.generation, view["progress"], done=not on_its_way, failed=failed)


def _replaced(name: str, wanted: int, by: int) -> str:
    return (
        f"generation {wanted} was replaced by generation {by} while it was being deployed: it was deployed, scaled or "
        f"rolled back meanwhile; `bastide why {name}` tells what happened. Deploy this one again if it is the one to serve"
    )


def _fails(found: DesiredService, view: dict[str, Any]) -> bool:
    """Whether what takes the traffic is down, for it failed: nothing has to be proven, and still it does not serve."""
    if view["phase"] == ServicePhase.FAILED.value:
        return True
    mine = [one for one in view["instances"] if one["generation"] == found.serving_run]
    rests = view["phase"] == ServicePhase.ASLEEP.value
    return rests and bool(mine) and all(one["failures"] >= FAILURES_MIN for one in mine)


def _told(
    name: str, phase: str, reason: str, generation: int, progress: dict[str, Any] | None, *, done: bool, failed: bool
) -> dict[str, Any]:
    return {
        "name": name,
        "phase": phase,
        "reason": reason,
        "generation": generation,
        "progress": progress,
        "done": done,
        "failed": failed,
    }
