"""The worker as a whole: outside servers, control's pages, its cached table, kill -9 and its successor, TLS."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import ssl
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from town import CHAT, LAST, PRICE, STREAM, Script, chunk, head, request, split, token, town, unchunk, whole

from bastide.adapters.journal.file import FileJournalReader
from bastide.domain.ledger import Outcome, Progress, Reservation, Settlement, Tokens, recover
from bastide.domain.routes import OutsideTarget


async def _with_usage(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    if not body.get("stream"):
        writer.write(whole())
        return
    piece = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}], "usage": None}
    usage = {
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    writer.write(head(kind="text/event-stream"))
    for event in (piece, usage):
        writer.write(chunk(b"data: " + msgspec.json.encode(event) + b"\r\n\r\n"))
    writer.write(chunk(b"data: [DONE]\r\n\r\n") + b"0\r\n\r\n")


@pytest.mark.parametrize("asks_usage", [False, True])
def test_an_outside_server(tmp_path: Path, asks_usage: bool) -> None:
    async def main() -> None:
        outside = Script(_with_usage)
        server = await asyncio.start_server(outside._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with town(tmp_path) as here:
            service = here.control.table.services[0]
            target = OutsideTarget(f"http://127.0.0.1:{port}/far/v1", "their-model", "their-key")
            here.change(services=(replace(service, instances=(), outside=target),))
            await here.until(lambda: "default/chat" not in here.control.loads[-1]["services"])
            status, _, body = await here.post(CHAT)
            assert status == 200, body
            body_sent = STREAM | ({"stream_options": {"include_usage": True}} if asks_usage else {})
            status, _, body = await here.post(body_sent)
            assert status == 200 and (b'"prompt_tokens":9' in body) == asks_usage
            assert outside.calls[0]["model"] == outside.calls[1]["model"] == "their-model"
            assert outside.calls[1]["stream_options"]["include_usage"] is True
            assert outside.heads[0].startswith(b"POST /far/v1/chat/completions ")
            assert b"Authorization: Bearer their-key" in outside.heads[0]
            await here.until(lambda: len(here.settlements()) == 2)
            assert [settled.tokens for settled in here.settlements()] == [Tokens(7, 2, 3), Tokens(9, 4, 1)]
            cached = Path(here.settings.table_cache)
            await here.until(cached.exists)
            assert stat.S_IMODE(cached.stat().st_mode) == 0o600
            await here.until(lambda: b"their-model" in cached.read_bytes())
            assert b"their-key" not in cached.read_bytes()
        server.close()

    asyncio.run(main())


def test_controls_pages_are_spliced(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def pages(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                seen.append(asked)
                if b"/stream" in asked:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                    )
                else:
                    writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
        except asyncio.IncompleteReadError:
            writer.close()

    async def main() -> None:
        async with town(tmp_path) as here:
            server = await asyncio.start_unix_server(pages, here.settings.control_http)
            asked = (
                b"GET /api/v1/stream?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer z\r\nConnection: close\r\n\r\n"
            )
            status, top, body = split(await here.raw(asked))
            assert status == 200 and body == b"hello" and b"X-Own: 1".lower() in top.lower()
            assert b"/api/v1/stream?a=b" in seen[0] and b"authorization: Bearer z" in seen[0]
            status, _, body = split(await here.raw(request(b"{}", "/api/v1/services")))
            assert (status, body) == (201, b"ok")
            server.close()

    asyncio.run(main())


def test_a_worker_starts_by_its_cached_table_while_control_is_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            await here.until(Path(here.settings.table_cache).exists)
            listener = socket.create_server(("127.0.0.1", 0))
            settings = replace(
                here.settings, incarnation="life2", listen_fd=listener.fileno(), control_link=str(tmp_path / "nobody")
            )
            child = await _spawn(settings, tmp_path, listener)
            try:
                other = replace_port(here, listener)
                status, _, _ = await other.post(CHAT)
                assert status == 200
            finally:
                child.terminate()
                await asyncio.wait_for(child.wait(), 10)
                listener.close()
            assert child.returncode == 0

    asyncio.run(main())


def replace_port(here: Any, listener: socket.socket) -> Any:
    return replace(here, port=listener.getsockname()[1])


async def _spawn(settings: Any, tmp_path: Path, listener: socket.socket) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).parent / "worker_child.py"), msgspec.json.encode(settings).decode(),
        str(tmp_path / "journal"), pass_fds=(listener.fileno(),),
    )  # fmt: skip


def test_a_killed_worker_loses_no_count_and_its_successor_answers_who_queued(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if len(script.calls) > 1:
            writer.write(head(kind="text/event-stream") + token("b", 1) + LAST)
            return
        writer.write(head(kind="text/event-stream") + token("a", 1))
        await gate.wait()

    async def main() -> None:
        async with town(tmp_path, engines=[Script(slow)]) as here:
            listener = socket.create_server(("127.0.0.1", 0))
            settings = replace(here.settings, incarnation="life2", listen_fd=listener.fileno())
            first = await _spawn(settings, tmp_path, listener)
            other = replace_port(here, listener)
            reader, writer = await other.dial()
            writer.write(request(msgspec.json.encode(STREAM)))
            await reader.readuntil(b'"a"')
            os.kill(first.pid, signal.SIGKILL)
            await first.wait()
            writer.close()
            journals = FileJournalReader(tmp_path / "journal")
            entries = [entry for _, entry in journals.read("life2", 0)]
            assert [type(entry) for entry in entries] == [Reservation, Progress]
            assert not journals.is_live("life2")
            reservation, progress = entries
            assert isinstance(reservation, Reservation) and isinstance(progress, Progress)
            settled = recover(reservation, progress, 1.0)
            assert settled.tokens == Tokens(7, 2, 1) and settled.outcome is Outcome.RECOVERED
            # While no worker runs, a connect waits in the backlog that the supervisor holds.
            reader, writer = await other.dial()
            writer.write(request(msgspec.json.encode(STREAM)))
            second = await _spawn(replace(settings, incarnation="life3"), tmp_path, listener)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert unchunk(answer.partition(b"\r\n\r\n")[2]).endswith(b"data: [DONE]\n\n")
            writer.close()
            second.terminate()
            await asyncio.wait_for(second.wait(), 10)
            listener.close()
            gate.set()
            last = [entry for _, entry in journals.read("life3", 0)][-1]
            assert isinstance(last, Settlement) and last.cost_pico == 5 * PRICE.input_pico_per_token + 20 + 3000

    asyncio.run(main())


def _certificate(directory: Path) -> tuple[str, str]:
    """A certificate for localhost, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = directory / "certificate", directory / "secret"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return str(certificate), str(secret)


def test_tls_whole_streamed_and_refused(tmp_path: Path) -> None:
    async def main() -> None:
        certificate, secret = _certificate(tmp_path)
        context = ssl.create_default_context(cafile=certificate)
        async with town(tmp_path, tls_certificate=certificate, tls_key=secret) as here:
            for body, said in ((CHAT, b"hello"), (STREAM, b"[DONE]"), ({}, b"invalid_request")):
                reader, writer = await asyncio.open_connection("localhost", here.port, ssl=context)
                writer.write(request(msgspec.json.encode(body)))
                assert said in await reader.read()
                writer.close()
            reader, writer = await asyncio.open_connection("localhost", here.port, ssl=context)
            writer.write(b"nonsense\r\n\r\n")
            assert b" 400 " in await reader.read()
            writer.close()
            assert b"HTTP/1.1 200" not in await here.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

    asyncio.run(main())


def test_a_full_disk_refuses_before_anything_is_forwarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            real = os.write

            def full(file: int, data: bytes) -> int:
                if data.startswith(b'["reservation"'):
                    raise OSError(28, "No space left on device")
                return real(file, data)

            monkeypatch.setattr(os, "write", full)
            status, _, body = await here.post(CHAT)
            assert status == 503 and b"No space left" in body and here.engines[0].calls == []
            monkeypatch.setattr(os, "write", real)
            assert (await here.post(CHAT))[0] == 200

    asyncio.run(main())
