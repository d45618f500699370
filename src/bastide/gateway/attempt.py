"""One try at one upstream: send, splice, count, and say how it ended.

Owns the upstream connection while it lasts. It knows whether a failure may be tried elsewhere; the exchange decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from bastide.domain.errors import BastideError, EngineGarbage, EngineLost, InvalidRequest, RateLimited
from bastide.domain.ledger import Tokens
from bastide.domain.routes import ServiceRoute
from bastide.gateway import calls
from bastide.gateway.answer import Answer
from bastide.gateway.calls import Call
from bastide.gateway.choices import ChoicesMeter, Gatherer
from bastide.gateway.counting import EngineMeter, Garbage, Meter, OutsideMeter, whole_answer_tokens
from bastide.gateway.fleet import Slot
from bastide.gateway.settings import GatewayLimits
from bastide.gateway.upstream import Endpoint, Pool, Upstream, post_head

_PROGRESS_EVERY_S = 0.5


class Failed(Exception):
    """The try failed. `may_move`: another instance may succeed; `blames_engine`: this one should be looked at."""

    def __init__(self, error: BastideError, may_move: bool, blames_engine: bool) -> None:
        super().__init__(error.message)
        self.error, self.may_move, self.blames_engine = error, may_move, blames_engine


@dataclass(slots=True)
class Plan:
    """Where to send what, and how to count what comes back."""

    name: str
    endpoint: Endpoint
    head: bytes
    body: bytes
    meter: Meter | None
    gatherer: Gatherer | None = None

    @staticmethod
    def engine(slot: Slot, call: Call) -> Plan:
        """For an engine of ours. Failed where the lease went in this very moment."""
        lease = slot.lease
        if lease is None:
            raise Failed(EngineLost(f"{slot.instance} went away"), may_move=True, blames_engine=False)
        body = calls.for_engine(call)
        head = lease.head(call.path) + b"%d\r\n\r\n" % len(body)
        if call.streams:
            meter: Meter = EngineMeter(call) if call.answers == 1 else ChoicesMeter(call)
            return Plan(slot.instance, lease.endpoint, head, body, meter)
        gatherer = Gatherer(call) if call.answers > 1 and not call.is_embedding else None
        return Plan(slot.instance, lease.endpoint, head, body, None, gatherer)

    @staticmethod
    def outside(service: ServiceRoute, call: Call) -> Plan:
        """For a server that Bastide does not run."""
        target = service.outside
        assert target is not None
        endpoint = Endpoint.parse(target.url)
        base = target.url.split("://", 1)[-1].partition("/")[2].rstrip("/")
        path = ("/" + base if base else "/v1") + call.path.removeprefix("/v1")
        default = 443 if endpoint.tls else 80
        host = endpoint.host if endpoint.port == default else f"{endpoint.host}:{endpoint.port}"
        body = calls.for_outside(call, target.model)
        head = post_head(path, host, target.key) + b"%d\r\n\r\n" % len(body)
        return Plan("", endpoint, head, body, OutsideMeter(call) if call.streams else None)


class Attempt:
    __slots__ = ("_answer", "_bytes", "_call", "_done", "_limits", "_pieces", "_plan", "_pool",
                 "_retry_after", "_status", "_told_at", "_upstream", "_whole_tokens", "counted", "deadline")  # fmt: skip

    def __init__(self, pool: Pool, limits: GatewayLimits, answer: Answer, call: Call, plan: Plan) -> None:
        self._pool, self._limits, self._answer, self._call, self._plan = pool, limits, answer, call, plan
        self._upstream: Upstream | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._retry_after: float | None = None
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._whole_tokens = Tokens()
        self._told_at = 0.0
        self.deadline = time.monotonic() + limits.answer_s_max
        self.counted: Callable[[Tokens], None] | None = None  # told the running count, at once and then twice a second

    async def run(self) -> None:
        """Ends when the answer is complete and sent. Raises Failed."""
        plan = self._plan
        upstream = self._pool.take(plan.endpoint)
        fresh = upstream is None
        self._pool.watch(self)
        try:
            while True:
                if upstream is None:
                    upstream = await self._open()
                self._upstream = upstream
                self._answer.listen(self)
                upstream.send(plan.head, plan.body, self)
                try:
                    await self._done
                    return
                except Failed:
                    if fresh or upstream.heard:
                        raise
                    # A pooled connection that the engine had just closed: nothing was read, so nothing was done.
                    fresh, upstream = True, None
                    self._done = asyncio.get_running_loop().create_future()
        finally:
            self._pool.unwatch(self)
            self._answer.listen(None)

    async def _open(self) -> Upstream:
        try:
            return await self._pool.open(self._plan.endpoint)
        except (OSError, ValueError) as error:
            name = self._plan.name or "the outside server"
            raise Failed(EngineLost(f"{name} can't be reached: {error}", retry_after_s=2.0), True, True) from None

    def stop(self) -> None:
        """Close the line: the engine stops working for it."""
        # A cancelled wait has cancelled its future too, so only an answer that ended well keeps its line.
        if self._upstream is not None and (self._done.cancelled() or not self._done.done()):
            self._upstream.close()

    def tokens(self) -> Tokens:
        """What was counted until now."""
        if self._plan.meter is not None:
            return self._plan.meter.tokens()
        if self._plan.gatherer is not None:
            return self._plan.gatherer.meter.tokens()
        return self._whole_tokens

    # Waiting: the client takes no more for now

    def pause(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # Sink: what the upstream answers

    def got_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        if status == 200:
            return
        for name, value in headers:
            if name == b"retry-after" and value.isdigit():
                self._retry_after = float(value[:6])

    def got_body(self, data: bytes) -> None:
        meter = self._plan.meter
        if self._status != 200 or (meter is None and self._plan.gatherer is None):
            self._bytes += len(data)
            if self._bytes > self._limits.answer_bytes_max:
                self._fail(EngineGarbage(f"the answer is over {self._limits.answer_bytes_max} bytes"), False, False)
                return
            self._pieces.append(data)
            return
        try:
            if meter is None:
                assert self._plan.gatherer is not None
                self._plan.gatherer.feed(data)
            elif out := meter.feed(data):
                self._forward(out, meter)
        except (Garbage, msgspec.MsgspecError, KeyError, TypeError) as error:
            self._fail(EngineGarbage(f"the engine's stream can't be read: {error}", retry_after_s=2.0), True, True)

    def ended(self) -> None:
        if self._done.done():
            return
        if self._status != 200:
            self._refused()
            return
        meter, gatherer = self._plan.meter, self._plan.gatherer
        if meter is not None:
            if rest := meter.rest():
                self._answer.content(rest)
            if not self._answer.has_content:
                self._fail(EngineLost("the engine ended its stream before it said anything"), True, True)
                return
            self._answer.end()
        else:
            try:
                body = gatherer.answer() if gatherer is not None else b"".join(self._pieces)
                if gatherer is None:
                    self._whole_tokens = whole_answer_tokens(body)
            except Garbage as error:
                self._fail(EngineGarbage(str(error), retry_after_s=2.0), True, True)
                return
            self._answer.whole(200, body)
        self._done.set_result(None)

    def full(self) -> None:
        """What it sends was handed over whole."""

    def ready(self) -> None: ...

    def lost(self, reason: str, garbage: bool) -> None:
        name = self._plan.name or "the outside server"
        kind = EngineGarbage if garbage else EngineLost
        stale = self._upstream is not None and not self._upstream.heard and self._upstream.requests > 1
        self._fail(kind(f"{name} broke off: {reason}", retry_after_s=2.0), True, not stale)

    def _forward(self, out: bytes, meter: Meter) -> None:
        answer = self._answer
        if not meter.started and not answer.has_head:
            return
        if out.startswith((b'data: {"error"', b"error:")) and not answer.has_content:
            self._fail(EngineLost("the engine failed before it said anything", retry_after_s=2.0), True, False)
            return
        now = time.monotonic()
        if now - self._told_at >= _PROGRESS_EVERY_S and self.counted is not None:
            # Before the client sees it: a worker killed in between must not have given away what nobody counted.
            self._told_at = now
            self.counted(meter.tokens())
        answer.content(out)
        if answer.is_congested and self._upstream is not None:
            self._upstream.pause()

    def _refused(self) -> None:
        """The upstream answered with an error: the caller's fault goes to the caller, its own may be tried elsewhere."""
        body, status = b"".join(self._pieces), self._status
        try:
            told = msgspec.json.decode(body)
            error = told.get("error", told) if isinstance(told, dict) else told
            message = str(error.get("message", error) if isinstance(error, dict) else error)[:2000]
            param = error.get("param") if isinstance(error, dict) else None
        except (msgspec.MsgspecError, RecursionError):
            message, param = f"it answered with status {status}", None
        if status in (401, 403, 404):
            # Our own secret or the address is wrong: nothing the caller could change.
            self._fail(EngineLost(f"the engine refused the gateway: {message}", retry_after_s=2.0), True, True)
        elif status == 429:
            self._fail(RateLimited(message, retry_after_s=self._retry_after or 1.0), False, False)
        elif 400 <= status < 500:
            self._fail(InvalidRequest(message, param=param if isinstance(param, str) else None), False, False)
        elif status in (500, 501):
            # llama.cpp says 500 for prompts its template can't take: that it failed is true everywhere.
            self._fail(EngineGarbage(f"the engine could not answer: {message}"), False, False)
        else:
            self._fail(EngineLost(message, retry_after_s=self._retry_after or 2.0), True, True)

    def late(self) -> None:
        """It took longer than any answer may."""
        self._fail(EngineLost(f"no end after {self._limits.answer_s_max:g} s", retry_after_s=5.0), False, True)

    def _fail(self, error: BastideError, may_move: bool, blames_engine: bool) -> None:
        if not self._done.done():
            if self._upstream is not None:
                self._upstream.close()
            self._done.set_exception(Failed(error, may_move, blames_engine))
