"""The agent's end of the line to the keeper: starts one where none serves, asks it things, hears its news."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bastide.domain.errors import EngineStartFailed

KEEPER = Path(__file__).with_name("keeper.py")
START_S_MAX = 10.0


class KeeperGone(EngineStartFailed):
    """The keeper ended before it answered, and its engines with it: another may be asked."""


class KeeperLink:
    """One line to one keeper. `news` is called with every event it tells, `{"event": "died", "instance": …}`."""

    def __init__(self, path: str, news: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._news = path, news
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def find(self) -> bool:
        """Claim a keeper that already serves. False where none does."""
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._path, limit=64 * 2**20)
        except OSError:
            return False
        self._reading = asyncio.create_task(self._read(reader))
        return True

    async def ask(self, operation: str, asked: Callable[[], None] | None = None, **rest: Any) -> dict[str, Any]:
        """Ask and wait. Raises EngineStartFailed where the keeper can't be had or refuses, KeeperGone where it ends.

        `asked` is called once one has been told: a keeper may end, and another be started, before.
        """
        async with self._opening:
            if self._writer is None and not await self.find():
                await self._start()
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            assert self._writer is not None
            if asked is not None:
                asked()
            self._writer.write(json.dumps({"n": number, "op": operation, **rest}).encode() + b"\n")
            result = await answer
        finally:
            self._waiting.pop(number, None)
        if "gone" in result:
            raise KeeperGone(f"the keeper could not {operation}: it is gone")
        if "error" in result:
            raise EngineStartFailed(f"the keeper could not {operation}: {result['error']}")
        return result

    async def close(self, *, quit_keeper: bool) -> None:
        """Let go of the claim; with `quit_keeper`, every engine ends now."""
        if self._writer is None:
            return
        if quit_keeper:
            self._writer.write(b'{"n":0,"op":"quit"}\n')
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if self._reading is not None:
            if quit_keeper:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.shield(self._reading), 5.0)
            self._reading.cancel()

    async def _start(self) -> None:
        package = importlib.util.find_spec("xllamacpp")
        libraries = [str(Path(package.origin).parent.parent)] if package is not None and package.origin else []
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(KEEPER), self._path, *libraries,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal ends Bastide, which ends the keeper in order
        )  # fmt: skip
        deadline = asyncio.get_running_loop().time() + START_S_MAX
        try:
            while not await self.find():
                if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                    raise EngineStartFailed(f"the keeper at {self._path} did not start (status {process.returncode})")
                await asyncio.sleep(0.003)
        except asyncio.CancelledError:
            process.kill()  # told to end while it was starting: nobody will claim it
            raise

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                message = json.loads(line)
                if "event" in message:
                    self._news(message)
                elif (answer := self._waiting.get(message["n"])) is not None and not answer.done():
                    answer.set_result(message)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._news({"event": "keeper gone"})  # first, so that every end is told before what it made fail
        for answer in list(self._waiting.values()):
            if not answer.done():
                answer.set_result({"gone": True})
