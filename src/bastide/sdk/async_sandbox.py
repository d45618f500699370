"""Sandboxes for asyncio: the same, awaited. Each call runs on a thread, so that callbacks and streams stay the same too."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from bastide.domain.errors import NotFound
from bastide.sdk.client import Client
from bastide.sdk.sandbox import Execution, Json, Process, Result, Sandbox, Snapshot, Words


class _Awaited:
    """Every method of another object, on a thread."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if not callable(found):
            return found

        async def call(*given: Any, **named: Any) -> Any:
            return await asyncio.to_thread(found, *given, **named)

        return call


class AsyncProcess(_Awaited):
    """See Process: `stdin`, `wait`, `output`, `kill` and `resize` are awaited."""

    _wrapped: Process


class AsyncSandbox:
    """See Sandbox. `files` has the same methods, awaited."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.id = sandbox.id
        self.files = _Awaited(sandbox.files)

    @classmethod
    async def create(cls, template: str = "python", **options: Any) -> AsyncSandbox:
        return cls(await asyncio.to_thread(Sandbox.create, template, **options))

    @classmethod
    async def connect(cls, id: str, client: Client | None = None) -> AsyncSandbox:
        return cls(await asyncio.to_thread(Sandbox.connect, id, client))

    @classmethod
    async def list(
        cls, metadata: dict[str, str] | None = None, client: Client | None = None
    ) -> tuple[AsyncSandbox, ...]:
        return tuple(cls(one) for one in await asyncio.to_thread(Sandbox.list, metadata, client))

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import contextlib

        with contextlib.suppress(NotFound):
            await self.kill()

    async def exec(self, command: str | tuple[str, ...], **options: Any) -> Result:
        return await asyncio.to_thread(self._sandbox.exec, command, **options)

    async def run_code(self, code: str, **options: Any) -> Execution:
        return await asyncio.to_thread(self._sandbox.run_code, code, **options)

    async def spawn(self, command: str | tuple[str, ...], **options: Any) -> AsyncProcess:
        return AsyncProcess(await asyncio.to_thread(self._sandbox.spawn, command, **options))

    async def pty(self, cols: int = 80, rows: int = 24, **options: Any) -> AsyncProcess:
        return AsyncProcess(await asyncio.to_thread(self._sandbox.pty, cols, rows, **options))

    async def process(self, number: int) -> AsyncProcess:
        return AsyncProcess(await asyncio.to_thread(self._sandbox.process, number))

    async def processes(self) -> tuple[Json, ...]:
        return await asyncio.to_thread(self._sandbox.processes)

    async def url(self, port: int, expires_in: float = 3600.0, *, own_origin: bool = False) -> str:
        return await asyncio.to_thread(self._sandbox.url, port, expires_in, own_origin=own_origin)

    async def snapshot(self, name: str = "") -> Snapshot:
        return await asyncio.to_thread(self._sandbox.snapshot, name)

    async def fork(self, count: int = 1) -> tuple[AsyncSandbox, ...]:
        return tuple(AsyncSandbox(one) for one in await asyncio.to_thread(self._sandbox.fork, count))

    async def pause(self) -> None:
        await asyncio.to_thread(self._sandbox.pause)

    async def resume(self) -> None:
        await asyncio.to_thread(self._sandbox.resume)

    async def set_timeout(self, seconds: float) -> None:
        await asyncio.to_thread(self._sandbox.set_timeout, seconds)

    async def set_egress(self, allow: Words) -> None:
        await asyncio.to_thread(self._sandbox.set_egress, allow)

    async def metrics(self) -> Json:
        return await asyncio.to_thread(self._sandbox.metrics)

    async def refresh(self) -> Json:
        return await asyncio.to_thread(self._sandbox.refresh)

    async def kill(self) -> None:
        await asyncio.to_thread(self._sandbox.kill)
