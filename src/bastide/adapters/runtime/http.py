"""One HTTP request to an engine over its Unix socket: for probes, canaries and counters, never for users' requests."""

from __future__ import annotations

import asyncio
import contextlib

import httptools

from bastide.engines.port import Ask

ANSWER_BYTES_MAX = 4 * 2**20


class _Answer:
    def __init__(self) -> None:
        self.body = bytearray()
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


async def ask(socket: str, secret: str, request: Ask, timeout_s: float) -> tuple[int, bytes]:
    """Status and body. Raises OSError or TimeoutError where there is none, ValueError where it is garbage."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(
                f"{request.method} {request.path} HTTP/1.1\r\nHost: engine\r\nAuthorization: Bearer {secret}\r\n"
                f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(request.body)}\r\n\r\n".encode()
                + request.body
            )
            answer = _Answer()
            parser = httptools.HttpResponseParser(answer)
            while not answer.complete and (data := await reader.read(65536)):
                try:
                    parser.feed_data(data)
                except httptools.HttpParserError as error:
                    raise ValueError(f"not HTTP: {error}") from None
                if len(answer.body) > ANSWER_BYTES_MAX:
                    raise ValueError("the answer is too long")
            if not answer.complete:
                raise ConnectionError("the engine closed the line in the middle of its answer")
            return parser.get_status_code(), bytes(answer.body)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
