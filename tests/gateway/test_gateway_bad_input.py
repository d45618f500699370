"""Everything a client can do wrong, on a raw socket: a clean answer, never a crash, a leak or a smuggled request."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from town import CHAT, KEY, STREAM, Script, head, request, split, token, town

from bastide.gateway.settings import GatewayLimits

OK = msgspec.json.encode(CHAT)
AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + AUTH


def code(body: bytes) -> str:
    return str(msgspec.json.decode(body)["error"]["code"])


def nested(depth: int) -> bytes:
    return b'{"model":"chat","messages":[' + b"[" * depth + b"]" * depth + b"]}"


def changed(**parts: Any) -> bytes:
    return msgspec.json.encode({name: value for name, value in (CHAT | parts).items() if value is not ...})


BODIES = {
    "not JSON": (b"hello", 400, "invalid_request"),
    "empty": (b"", 400, "invalid_request"),
    "cut JSON": (OK[:-3], 400, "invalid_request"),
    "an array": (b"[]", 400, "invalid_request"),
    "nesting bomb": (nested(200_000), 400, "invalid_request"),
    "not UTF-8": (OK.replace(b"hi", b"\xff\xfe"), 400, "invalid_request"),
    "no model": (changed(model=...), 400, "invalid_request"),
    "model of a wrong type": (changed(model=5), 400, "invalid_request"),
    "unknown model": (changed(model="other"), 404, "model_not_found"),
    "no messages": (changed(messages=...), 400, "invalid_request"),
    "empty messages": (changed(messages=[]), 400, "invalid_request"),
    "messages of a wrong type": (changed(messages="hi"), 400, "invalid_request"),
    "negative max_tokens": (changed(max_tokens=-1), 400, "invalid_request"),
    "max_tokens of text": (changed(max_tokens="many"), 400, "invalid_request"),
    "max_tokens beyond all bounds": (changed(max_tokens=10**30), 400, "invalid_request"),
    "n of nought": (changed(n=0), 400, "invalid_request"),
    "n beyond all bounds": (changed(n=10**6), 400, "invalid_request"),
    "stream of a wrong type": (changed(stream="yes"), 400, "invalid_request"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies(tmp_path: Path, name: str) -> None:
    body, status, expected = BODIES[name]

    async def main() -> None:
        async with town(tmp_path) as here:
            got, _, answer = split(await here.raw(request(body)))
            assert (got, code(answer)) == (status, expected), answer
            assert here.engines[0].calls == [] and here.ledger() == []

    asyncio.run(main())


CL = f"Content-Length: {len(OK)}\r\n".encode()
HEADS = {
    "no key": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + CL + b"\r\n" + OK, 401),
    "wrong key": (request(OK, key="bst_no"), 401),
    "another scheme": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eA==\r\n" + CL + b"\r\n" + OK, 401),
    "no key on metrics": (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 401),
    "control away": (b"GET /api/v1/services HTTP/1.1\r\nHost: x\r\n\r\n", 503),
    "body too long by its word": (POST + b"Content-Length: 99999999\r\n\r\n", 413),
    "both lengths": (POST + CL + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "length twice": (POST + CL + CL + b"\r\n" + OK, 400),
    "two lengths in one": (POST + CL[:-2] + b", 5\r\n\r\n" + OK, 400),
    "signed length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "negative length": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "hex length": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "endless length": (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
    "unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "coding in a list": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "coding twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding with a tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "bad chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "signed chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size with space": (POST + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 400),
    "chunk longer than told": (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", 400),
    "endless chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n", 400),
    "folded header": (POST + b"X-A: b\r\n c\r\n" + CL + b"\r\n" + OK, 400),
    "space before colon": (POST + b"Content-Length : 5\r\n\r\nhello", 400),
    "bare LF": (POST.replace(b"\r\n", b"\n") + b"\n", 400),
    "bare LF after one header": (POST + b"X-A: b\nX-C: d\r\n\r\n", 400),
    "bare CR": (POST + b"X-A: b\rX-C: d\r\n\r\n", 400),
    "nul in a value": (POST + b"X-A: b\x00c\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no colon": (POST + b"nonsense\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/3.7": (b"GET /healthz HTTP/3.7\r\nHost: x\r\n\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "noise": (bytes(range(256)), 400),
    "unknown method": (b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HEAD": (b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    "OPTIONS": (b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH + b"\r\n", 405),
    "GET where POST belongs": (b"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH + b"\r\n", 405),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 401),
    "no key on an unknown path": (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
    "no key on the root": (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
    "no key on the document": (b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
    "unknown path": (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH + b"\r\n", 404),
    "unknown path of ours": (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH + b"\r\n", 404),
    "path that climbs": (b"GET /api/v1/../../etc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 503),
    "many headers": (POST + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n", 431),
    "one long header": (POST + b"X: " + b"y" * 40000, 431),
    "one long target": (b"GET /" + b"y" * 40000, 431),
    "unknown expectation": (POST + CL + b"Expect: 200-maybe\r\n\r\n" + OK, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_bad_heads(tmp_path: Path, name: str) -> None:
    data, status = HEADS[name]

    async def main() -> None:
        async with town(tmp_path) as here:
            reader, writer = await here.dial()
            # A second request behind the bad one must never be answered as one of its own.
            writer.write(data)
            top = await reader.readuntil(b"\r\n\r\n")
            assert int(top.split(b" ", 2)[1]) == status, top
            assert top.startswith(b"HTTP/1.1 ")
            if status in (400, 413, 431):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                rest = await reader.read()
                assert b"HTTP/1.1 " not in rest
            writer.close()
            assert here.engines[0].calls == []
            assert (await here.post(CHAT))[0] == 200

    asyncio.run(main())


def test_a_long_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, limits=GatewayLimits(body_bytes_max=1000)) as here:
            assert split(await here.raw(request(b"x" * 2000)))[0] == 413
            chunks = b"".join(b"1f4\r\n" + b"x" * 500 + b"\r\n" for _ in range(4))
            assert split(await here.raw(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks))[0] == 413

    asyncio.run(main())


def test_slow_clients_are_told_and_closed(tmp_path: Path) -> None:
    async def main() -> None:
        limits = GatewayLimits(header_s_max=0.2, body_s_max=0.2, idle_s_max=0.2)
        async with town(tmp_path, limits=limits) as here:
            for data in (b"GET /healthz HT", POST, POST + CL + b"\r\n" + OK[:5]):
                status, _, answer = split(await here.raw(data))
                assert status == 408 and code(answer) == "request_timeout"
            assert await here.raw(b"") == b""

    asyncio.run(main())


def test_a_client_that_drips_does_not_buy_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, limits=GatewayLimits(header_s_max=0.3)) as here:
            reader, writer = await here.dial()
            answer = asyncio.create_task(reader.read())
            for byte in POST * 3:
                if answer.done():
                    break
                writer.write(bytes([byte]))
                await asyncio.wait((answer,), timeout=0.02)
            assert b" 408 " in await asyncio.wait_for(answer, 3)
            writer.close()

    asyncio.run(main())


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            asks = [
                request(OK, closes=False),
                b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
                request(b"{}", closes=False),
                request(msgspec.json.encode(STREAM), closes=False),
                b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            ]
            answer = await here.raw(b"".join(asks))
            found = [answer.index(word) for word in (b"hello", b'"ok"', b"invalid_request", b"[DONE]", b'"ready"')]
            assert found == sorted(found)
            assert answer.count(b"HTTP/1.1 ") == 5

    asyncio.run(main())


def test_a_flood_of_pipelined_requests_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            answer = await here.raw(request(OK, closes=False) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
            assert answer.count(b"HTTP/1.1 ") <= 66

    asyncio.run(main())


def test_chunked_bodies_continue_old_versions_and_absolute_targets(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            chunked = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunked += b"5;x=y\r\n" + OK[:5] + b"\r\n" + b"%x\r\n" % (len(OK) - 5) + OK[5:] + b"\r\n0\r\nX-T: u\r\n\r\n"
            assert split(await here.raw(chunked))[0] == 200
            reader, writer = await here.dial()
            writer.write(POST + CL + b"Expect: 100-continue\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(OK)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            writer.close()
            refused = await here.raw(POST.replace(KEY.encode(), b"bst_no") + CL + b"Expect: 100-continue\r\n\r\n")
            assert b" 401 " in refused and b"100 Continue" not in refused
            old = await here.raw(POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Content-Length: %d\r\n\r\n" % len(OK) + OK)
            assert b"hello" in old
            stream = msgspec.json.encode(STREAM)
            old = await here.raw(
                POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Content-Length: %d\r\n\r\n" % len(stream) + stream
            )
            assert b"chunked" not in old and old.endswith(b"data: [DONE]\n\n")
            absolute = b"GET http://x/healthz?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert split(await here.raw(absolute))[0] == 200
            with_body = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
            assert split(await here.raw(with_body))[0] == 200
            upgrade = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            assert split(await here.raw(upgrade))[0] == 200

    asyncio.run(main())


def test_too_many_connections_are_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, limits=GatewayLimits(connections_max=2)) as here:
            lines = [await here.dial() for _ in range(2)]
            for reader, writer in lines:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
            assert b" 503 " in await here.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            for _, writer in lines:
                writer.close()

    asyncio.run(main())


def test_a_thousand_clients_that_leave_at_every_stage_leave_nothing(tmp_path: Path) -> None:
    draw = random.Random(11)

    async def some(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(head(kind="text/event-stream") + token("a", 1) + token("b", 2))  # and never an end

    async def main() -> None:
        stream = request(msgspec.json.encode(STREAM), closes=False)
        async with town(tmp_path, engines=[Script(some)]) as here:
            before = len(os.listdir("/proc/self/fd"))

            async def leave() -> None:
                reader, writer = await here.dial()
                writer.write(stream[: draw.randrange(len(stream) + 40)])
                if draw.random() < 0.5:
                    await writer.drain()
                if draw.random() < 0.3:
                    await asyncio.wait((asyncio.ensure_future(reader.read(10)),), timeout=0.01)
                if draw.random() < 0.5:
                    writer.transport.abort()
                writer.close()

            for _ in range(20):
                await asyncio.gather(*(leave() for _ in range(50)))
            await here.until(lambda: here.engines[0].open == 0)
            await here.until(lambda: here.control.loads[-1]["services"]["default/chat"]["in_flight"] == 0)
            await here.until(lambda: here.control.loads[-1]["services"]["default/chat"]["queued"] == 0)
            await here.until(lambda: len(os.listdir("/proc/self/fd")) <= before + 3)
            opened = {entry.event_id for entry in here.reservations()}
            assert opened and opened == {entry.event_id for entry in here.settlements()}
            assert (await here.agent.revoke("default.chat.1.0"))["released"]

    asyncio.run(main())
