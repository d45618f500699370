"""The link's contract, on every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bastide.adapters.link import unix
from bastide.adapters.link.memory import Exchange
from bastide.domain.errors import InternalError, NoRoom, Unavailable
from bastide.ports.link import Body, Link, LinkLost, Notify

Test = Callable[["Town"], Awaitable[None]]


class Town:
    """A server, and a way to reach it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind, self._path = kind, str(folder / "link")
        self._exchange = Exchange()
        self._server: asyncio.Server | None = None
        self._running: list[asyncio.Task[None]] = []
        self.came: list[Link] = []
        self.left: list[Body] = []
        self.gone = asyncio.Event()
        self.told: asyncio.Queue[Body] = asyncio.Queue()

    async def serve(self) -> None:
        def left(link: Link) -> None:
            self.left.append(link.peer)
            self.gone.set()

        if self._kind == "memory":
            self._exchange.serve(self._path, self._answer, self.came.append, left)
        else:
            self._server = await unix.serve(self._path, self._answer, self.came.append, left)

    async def _answer(self, link: Link, verb: str, body: Body, note: Notify) -> Body:
        if verb == "double":
            note({"text": "half way"})
            return {"value": body["value"] * 2}
        if verb == "full":
            raise NoRoom("no room for it", retry_after_s=3.0)
        if verb == "fault":
            raise ZeroDivisionError("a fault")
        if verb == "back":
            return await link.call("ping", {})
        if verb == "never":
            await asyncio.Event().wait()
        self.told.put_nowait(body)
        return {}

    async def reach(self, handler: Any = None) -> Link:
        async def pong(link: Link, verb: str, body: Body, note: Notify) -> Body:
            return {"verb": verb}

        connect = self._exchange.connect if self._kind == "memory" else unix.connect
        link = await connect(self._path, {"role": "test", "n": 1}, handler or pong)
        self._running.append(asyncio.create_task(link.run()))
        return link

    async def end(self) -> None:
        for task in self._running:
            task.cancel()
        if self._server is not None:
            self._server.close()


@pytest.fixture(params=["memory", "unix"])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def main() -> None:
            town = Town(request.param, tmp_path)
            try:
                await test(town)
            finally:
                await town.end()

        asyncio.run(main())

    return run


def test_nobody_there(on: Callable[[Test], None]) -> None:
    async def test(town: Town) -> None:
        with pytest.raises(LinkLost):
            await town.reach()

    on(test)


def test_calls_both_ways_with_progress(on: Callable[[Test], None]) -> None:
    async def test(town: Town) -> None:
        await town.serve()
        link = await town.reach()
        notes: list[Body] = []
        assert await link.call("double", {"value": 4}, notes.append) == {"value": 8}
        assert notes == [{"text": "half way"}]
        assert await link.call("back", {}) == {"verb": "ping"}
        assert town.came[0].peer == {"role": "test", "n": 1}
        answers = await asyncio.gather(*(link.call("double", {"value": n}) for n in range(50)))
        assert [answer["value"] for answer in answers] == [2 * n for n in range(50)]

    on(test)


def test_errors_arrive_as_what_they_are(on: Callable[[Test], None]) -> None:
    async def test(town: Town) -> None:
        await town.serve()
        link = await town.reach()
        with pytest.raises(NoRoom, match="no room for it") as raised:
            await link.call("full", {})
        assert raised.value.retry_after_s == 3.0
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            await link.call("fault", {})
        assert await link.call("double", {"value": 1}) == {"value": 2}, "one fault does not end the line"

    on(test)


def test_telling_is_in_order(on: Callable[[Test], None]) -> None:
    async def test(town: Town) -> None:
        await town.serve()
        link = await town.reach()
        for number in range(20):
            link.tell("note", {"n": number})
        assert [(await town.told.get())["n"] for _ in range(20)] == list(range(20))

    on(test)


def test_a_lost_line_fails_who_waits_and_is_noticed(on: Callable[[Test], None]) -> None:
    async def test(town: Town) -> None:
        await town.serve()
        link = await town.reach()
        waiting = asyncio.ensure_future(link.call("never", {}))
        await link.call("double", {"value": 1})
        await town.came[0].close()
        with pytest.raises((LinkLost, Unavailable)):
            await waiting
        await town.gone.wait()
        assert town.left == [{"role": "test", "n": 1}]
        with pytest.raises(LinkLost):
            await link.call("double", {"value": 1})

    on(test)


def test_a_call_that_is_given_up_harms_nobody(on: Callable[[Test], None]) -> None:
    async def test(town: Town) -> None:
        await town.serve()
        link = await town.reach()
        waiting = asyncio.ensure_future(link.call("never", {}))
        await link.call("double", {"value": 1})
        waiting.cancel()
        assert await link.call("double", {"value": 2}) == {"value": 4}

    on(test)
