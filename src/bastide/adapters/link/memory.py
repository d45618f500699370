"""A link inside one process: for tests and the simulator. Same contract as the one over a Unix socket."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable

from bastide.domain.errors import BastideError, InternalError, Unavailable
from bastide.ports.link import Body, Handler, Link, LinkLost, Notify


class MemoryLink(Link):
    """One end. Bodies are copied, as if they had travelled."""

    def __init__(self, handler: Handler, peer: Body) -> None:
        self._handler, self._peer = handler, peer
        self._other: MemoryLink | None = None
        self.lost = asyncio.Event()
        self._serving: dict[asyncio.Task[Body], None] = {}
        self.noticing: asyncio.Task[None] | None = None

    @property
    def peer(self) -> Body:
        return self._peer

    async def call(self, verb: str, body: Body, progress: Notify | None = None) -> Body:
        other = self._other
        if self.lost.is_set() or other is None:
            raise LinkLost(f"cannot ask {verb!r}: the other end is gone")

        def note(said: Body) -> None:
            if progress is not None and not self.lost.is_set():
                progress(copy.deepcopy(said))

        serving = other._serve(verb, copy.deepcopy(body), note)
        gone = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait((serving, gone), return_when=asyncio.FIRST_COMPLETED)
            if not serving.done() or serving.cancelled():
                raise LinkLost("the other end went away before it answered")
            try:
                return copy.deepcopy(serving.result())
            except BastideError:
                raise
            except LinkLost as error:
                raise Unavailable(str(error)) from None
            except Exception as error:
                raise InternalError(f"{type(error).__name__}: {error}") from None
        finally:
            gone.cancel()
            serving.cancel()

    def tell(self, verb: str, body: Body) -> None:
        if not self.lost.is_set() and self._other is not None:
            task = self._other._serve(verb, copy.deepcopy(body), lambda _: None)
            task.add_done_callback(lambda done: None if done.cancelled() else done.exception() and None)

    async def close(self) -> None:
        other = self._other
        for end in (self, other):
            if end is not None:
                end.lost.set()
        for end in (self, other):
            if end is not None:
                for task in list(end._serving):
                    task.cancel()

    async def run(self) -> None:
        """Until the line ends."""
        await self.lost.wait()

    def _serve(self, verb: str, body: Body, note: Notify) -> asyncio.Task[Body]:
        task = asyncio.get_running_loop().create_task(self._answer(verb, body, note))
        self._serving[task] = None
        task.add_done_callback(lambda done: self._serving.pop(done, None))
        return task

    async def _answer(self, verb: str, body: Body, note: Notify) -> Body:
        return await self._handler(self, verb, body, note)


class Exchange:
    """Who serves where, by name; what `connect` and `serve` are for Unix sockets."""

    def __init__(self) -> None:
        self._servers: dict[str, tuple[Handler, Callable[[Link], None], Callable[[Link], Awaitable[None] | None]]] = {}
        self._lines: dict[str, list[MemoryLink]] = {}

    def serve(
        self,
        path: str,
        handler: Handler,
        came: Callable[[Link], None],
        left: Callable[[Link], Awaitable[None] | None],
    ) -> None:
        self._servers[path] = (handler, came, left)

    async def stop(self, path: str) -> None:
        """As when the process that serves there is killed: every line to it is lost."""
        self._servers.pop(path, None)
        for line in self._lines.pop(path, []):
            await line.close()

    async def connect(self, path: str, me: Body, handler: Handler) -> MemoryLink:
        if path not in self._servers:
            raise LinkLost(f"nobody answers at {path}")
        serve, came, left = self._servers[path]
        mine, theirs = MemoryLink(handler, {"role": "server", "path": path}), MemoryLink(serve, copy.deepcopy(me))
        mine._other, theirs._other = theirs, mine
        self._lines.setdefault(path, []).append(mine)
        came(theirs)

        async def notice() -> None:
            await theirs.lost.wait()
            ended = left(theirs)
            if ended is not None:
                await ended

        theirs.noticing = asyncio.get_running_loop().create_task(notice())
        return mine
