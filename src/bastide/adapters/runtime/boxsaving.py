"""Apps on the deep rung, in tiers that can save processes: written whole to a directory of their own, and brought back from it.

The directory holds an app's memory, and is for Bastide's owner only; it goes once the app is awake again, or changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bastide.adapters.runtime import boxkept, boxline
from bastide.domain.errors import BastideError, EngineLost
from bastide.domain.instances import LaunchSpec, ToldDigest
from bastide.domain.isolation import Box
from bastide.ports.isolation import Pausing

Ask = Callable[..., Awaitable[dict[str, Any]]]


def forget(launch: LaunchSpec) -> None:
    """What is kept is believed no more, then gone."""
    if not launch.state_directory:
        return
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(launch.state_directory, boxkept.WHOLE))
    shutil.rmtree(launch.state_directory, ignore_errors=True)


class Saver:
    """`ask`: of the keeper. `hear` is told its news."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._entered: dict[str, asyncio.Future[tuple[int, str]]] = {}

    def hear(self, news: dict[str, Any]) -> None:
        waiting = self._entered.get(str(news["key"]))
        if waiting is not None and not waiting.done():
            waiting.set_result((int(news["code"]), str(news["said"])))

    def lost(self) -> None:
        """The keeper is gone."""
        for waiting in self._entered.values():
            if not waiting.done():
                waiting.set_result((70, "the keeper is gone"))

    async def save(
        self, launch: LaunchSpec, box: Box, isolation: Pausing, pid: int, agent: str, told: ToldDigest | None
    ) -> None:
        """Write the app's processes down; it must be ended next. `told`: what it was told in confidence, where that is known. Raises BastideError or OSError where they can't be: it lives on."""
        isolation.hush(box)
        try:
            await boxline.ask(agent, {"op": "quiet"})
            await self._written(launch, box, isolation, pid, told)
        except BaseException:
            isolation.begin_again(box)
            raise

    async def _written(
        self, launch: LaunchSpec, box: Box, isolation: Pausing, pid: int, told: ToldDigest | None
    ) -> None:
        command = await asyncio.to_thread(isolation.save_command, box, pid)
        key = f"save-{box.name}"
        self._entered[key] = asyncio.get_running_loop().create_future()
        try:
            whole = dataclasses.asdict(command.save) if command.save is not None else None
            words = list(command.argv)
            await self._ask("enter", inside=command.inside, user=command.user, argv=words, save=whole, key=key)
            code, said = await self._entered[key]
        finally:
            del self._entered[key]
        if code != 0:
            raise EngineLost(f"its processes could not be saved: {said[-300:] or f'status {code}'}")
        await asyncio.to_thread(_take, Path(isolation.saved_at(box)), launch, isolation.identity(), told)


def _take(saved: Path, launch: LaunchSpec, programs: str, told: ToldDigest | None) -> None:
    kept = Path(launch.state_directory)
    shutil.rmtree(kept, ignore_errors=True)
    image = boxkept.image_of(launch)
    kept.mkdir(mode=0o700, parents=True)
    image.mkdir()
    image.chmod(0o755)  # below a directory that is ours alone, shown to the box that is brought back
    for file in saved.iterdir():
        shutil.move(str(file), str(image / file.name))
        (image / file.name).chmod(0o644)
    boxkept.lay(launch, programs, told)


async def until_it_answers(agent: Callable[[], str], died: asyncio.Future[str], knock_s: float) -> None:
    """Once it is started, until the agent inside listens, or it has died."""
    while not died.done():
        with contextlib.suppress(OSError, BastideError):
            await boxline.ask(agent(), {"op": "hello"})  # where it is may be known only once it is there
            return
        await asyncio.sleep(knock_s)
