"""A small town for the gateway's tests: real sockets, a real worker, an agent and a control of a few lines.

Engines are either real (engine_child.py) or `Script`s, where what the engine does must be decided by the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from bastide.adapters.journal.file import FileJournalReader, FileJournalWriter
from bastide.adapters.link.unix import UnixLink, connect, serve
from bastide.domain.errors import BastideError
from bastide.domain.keys import KeyGrant, Limits, hash_key
from bastide.domain.ledger import Progress, Reservation, Settlement
from bastide.domain.routes import InstanceRef, ModelRoute, RoutingTable, ServiceRoute
from bastide.domain.spec import Price
from bastide.gateway import worker
from bastide.gateway.settings import GatewayLimits, GatewaySettings
from bastide.ports.link import Body, Notify

KEY = "bst_test"
PRICE = Price(100, 10, 1000)
Answering = Callable[["Script", dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


def head(status: int = 200, kind: str = "application/json", length: int | None = None) -> bytes:
    ending = f"content-length: {length}" if length is not None else "transfer-encoding: chunked"
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{ending}\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(body: object) -> bytes:
    return chunk(b"data: " + msgspec.json.encode(body) + b"\n\n")


def token(text: str, number: int, input_tokens: int = 7) -> bytes:
    return event(
        {
            "choices": [{"index": 0, "finish_reason": None, "delta": {"content": text}}],
            "object": "chat.completion.chunk",
            "id": "x",
            "created": 1,
            "model": "chat",
            "timings": {"cache_n": 2, "prompt_n": input_tokens - 2, "predicted_n": number},
        }
    )


LAST = event(
    {"choices": [{"index": 0, "finish_reason": "stop", "delta": {}}], "object": "chat.completion.chunk", "id": "x",
     "created": 1, "model": "chat", "timings": {"cache_n": 2, "prompt_n": 5, "predicted_n": 3}}
) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"  # fmt: skip


def whole(text: str = "hello") -> bytes:
    body = msgspec.json.encode(
        {
            "id": "x", "object": "chat.completion", "created": 1, "model": "chat",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
                      "prompt_tokens_details": {"cached_tokens": 2}},
        }
    )  # fmt: skip
    return head(length=len(body)) + body


async def plain(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """An engine that works: three tokens, streamed or whole."""
    if not body.get("stream"):
        writer.write(whole())
        return
    writer.write(head(kind="text/event-stream"))
    for number in range(1, 4):
        writer.write(token(f"t{number} ", number))
    writer.write(LAST)


class Script:
    """An engine that does what a test says. `calls`: the bodies it was asked for; `hung_up`: lines its client closed."""

    def __init__(self, answering: Answering = plain) -> None:
        self.answering = answering
        self.calls: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.heads: list[bytes] = []
        self.open = self.came = 0
        self.hung_up = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.came += 1
        self._writers.add(writer)
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = int(request.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                raw = await reader.readexactly(length)
                self.heads.append(request)
                self.raw.append(raw)
                self.calls.append(json.loads(raw))
                await self.answering(self, self.calls[-1], writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()


@dataclass
class Instance:
    """How the agent treats one instance: where it is, what waking it takes, or why it can't."""

    address: str
    secret: str = "sek"
    woke_from: str = "awake"
    wake: Callable[[Notify], Awaitable[None]] | None = None
    failure: BastideError | None = None


class Agent:
    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.acquired: list[str] = []
        self.told: list[tuple[str, Body]] = []
        self.links: list[UnixLink] = []
        self.came = asyncio.Event()

    async def asked(self, link: Any, verb: str, body: Body, notify: Notify) -> Body:
        if verb != "acquire":
            self.told.append((verb, body))
            return {}
        self.acquired.append(body["instance"])
        instance = self.instances[body["instance"]]
        if instance.wake is not None:
            await instance.wake(notify)
        if instance.failure is not None:
            raise instance.failure
        return {
            "address": instance.address,
            "secret": instance.secret,
            "woke_from": instance.woke_from,
            "wake_s": 0.05,
            "pid": 1,
        }

    def arrived(self, link: UnixLink) -> None:
        self.links.append(link)
        self.came.set()

    async def revoke(self, instance: str, only_if_idle_s: float | None = None) -> Body:
        return await self.links[-1].call("revoke", {"instance": instance, "only_if_idle_s": only_if_idle_s})


class Control:
    def __init__(self) -> None:
        self.table = RoutingTable()
        self.budget_pico = 0
        self.granted: dict[str, int] = {}
        self.slices: list[Body] = []
        self.loads: list[Body] = []
        self.links: list[UnixLink] = []
        self.came = asyncio.Event()

    async def asked(self, link: Any, verb: str, body: Body, notify: Notify) -> Body:
        if verb == "slice":
            self.slices.append(body)
            left = self.budget_pico - sum(self.granted.values())
            given = min(left, body["ask_pico"])
            self.granted[body["incarnation"]] = self.granted.get(body["incarnation"], 0) + max(0, given)
            return {"granted_pico": self.granted[body["incarnation"]]}
        if verb == "load":
            self.loads.append(body)
        return {}

    def arrived(self, link: UnixLink) -> None:
        self.links.append(link)
        self.push(link)
        self.came.set()

    def push(self, link: UnixLink) -> None:
        link.tell("routes", msgspec.to_builtins(self.table))


@dataclass
class Town:
    port: int
    directory: Path
    agent: Agent
    control: Control
    engines: list[Script]
    settings: GatewaySettings
    stop: asyncio.Event
    control_server: asyncio.Server | None = None
    running: asyncio.Task[None] | None = None
    events: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def change(self, **changes: Any) -> None:
        """Push a table with these parts replaced."""
        table = self.control.table
        self.control.table = replace(table, revision=table.revision + 1, **changes)
        for link in self.control.links:
            self.control.push(link)

    def ledger(self) -> list[Any]:
        reader = FileJournalReader(self.directory / "journal")
        return [entry for journal in reader.journals() for _, entry in reader.read(journal, 0)]

    def settlements(self) -> list[Settlement]:
        return [entry for entry in self.ledger() if isinstance(entry, Settlement)]

    def reservations(self) -> list[Reservation]:
        return [entry for entry in self.ledger() if isinstance(entry, Reservation)]

    def progress(self) -> list[Progress]:
        return [entry for entry in self.ledger() if isinstance(entry, Progress)]

    async def until(self, condition: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait for something that another task brings about."""
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  the condition is on files and sockets, which tell nobody
                await asyncio.sleep(0.005)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, data: bytes, half_close: bool = False) -> bytes:
        """Send bytes, read until the other end closes."""
        reader, writer = await self.dial()
        writer.write(data)
        if half_close:
            writer.write_eof()
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    async def post(self, body: object, path: str = "/v1/chat/completions", key: str = KEY) -> tuple[int, bytes, bytes]:
        """Status, head and body of one request on its own line."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return split(await self.raw(request(data, path, key)))


def request(
    body: bytes, path: str = "/v1/chat/completions", key: str = KEY, closes: bool = True, extra: str = ""
) -> bytes:
    ending = "Connection: close\r\n" if closes else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n{extra}{ending}\r\n"
    ).encode() + body


def split(answer: bytes) -> tuple[int, bytes, bytes]:
    top, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in top.lower():
        body = unchunk(body)
    return int(top.split(b" ", 2)[1]), top, body


def unchunk(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert data == b"\r\n", data
            break
        out, data = out + data[:length], data[length + 2 :]
    return out


CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
STREAM = CHAT | {"stream": True}


@contextlib.asynccontextmanager
async def town(
    tmp_path: Path,
    engines: list[Script] | None = None,
    limits: GatewayLimits | None = None,
    key_limits: Limits | None = None,
    service: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Town]:
    """A worker that serves the model `chat` by one service of these scripted engines, for the key KEY."""
    engines = [Script()] if engines is None else engines
    (tmp_path / "s").mkdir(exist_ok=True)
    paths = {name: str(tmp_path / "s" / name) for name in ("control", "agent", "http", "table")}
    agent, control = Agent(), Control()
    refs = []
    for index, engine in enumerate(engines):
        name = f"default.chat.1.{index}"
        await engine.start(str(tmp_path / "s" / f"e{index}"))
        agent.instances[name] = Instance(str(tmp_path / "s" / f"e{index}"))
        refs.append(InstanceRef(name, paths["agent"]))
    control.table = RoutingTable(
        1,
        (ServiceRoute("default", "chat", 1, price=PRICE, instances=tuple(refs), created_at_s=5.0, **(service or {})),),
        (ModelRoute("default", "chat", (("chat", 1),)),),
        (KeyGrant("k1", hash_key(KEY), "default", limits=key_limits or Limits()),),
    )
    agent_server = await serve(paths["agent"], agent.asked, agent.arrived)
    control_server = await serve(paths["control"], control.asked, control.arrived)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    made = GatewaySettings(
        **(
            {
                "worker": "gateway-0", "incarnation": "life1", "rank": 0, "count": 1,
                "listen_fd": listener.fileno(), "control_link": paths["control"],
                "control_http": paths["http"], "table_cache": paths["table"],
                "limits": limits or GatewayLimits(), "drain_s": 1.0, "tell_s": 0.05,
            } | settings
        )
    )  # fmt: skip
    stop = asyncio.Event()
    journal = FileJournalWriter(tmp_path / "journal", made.incarnation)
    running = asyncio.create_task(worker.serve(made, journal, connect, stop))
    here = Town(listener.getsockname()[1], tmp_path, agent, control, engines, made, stop, control_server, running)
    try:
        reading = asyncio.create_task(here.until(lambda: bool(control.loads)))
        await asyncio.wait((reading, running), return_when=asyncio.FIRST_COMPLETED)
        reading.result()
        yield here
    finally:
        stop.set()
        await running
        listener.close()
        for engine in engines:
            await engine.stop()
        agent_server.close()
        control_server.close()
        for link in agent.links + control.links:
            await link.close()
