"""Doors: signed addresses that lead to a port inside a sandbox. One request a connection; WebSockets pass as they are.

The token in the path is the permission; nothing of it, and no key of ours, is told to the inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from bastide.domain.errors import BastideError, InvalidRequest
from bastide.egress.proxy import pour
from bastide.sandboxes.house import House

HEAD_BYTES_MAX = 65536
HEAD_S_MAX = 30.0
PREFIX = "/s/"
OWN = "/o/"  # the same where the address is a host name of its own: nothing is taken off


class Doors:
    def __init__(self, house: House) -> None:
        self._house = house

    async def came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from the gateway."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S_MAX)
            await self._through(head, reader, writer)
        except BastideError as error:
            body = json.dumps(error.wire()).encode()
            head = f"HTTP/1.1 {error.status} Error\r\nContent-Type: application/json\r\n".encode()
            with contextlib.suppress(OSError):
                writer.write(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _through(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rewritten, token = rewrite(head)
        sandbox, port = self._house.tokens.open(token)
        live = self._house.of(None, sandbox)
        async with self._house.using(live):
            line = await self._house.ask(live, {"op": "connect", "port": port})
            try:
                await line.answer()
                inside, outside = line.streams()
                outside.write(rewritten)
                await outside.drain()
                said = asyncio.ensure_future(pour(reader, outside))
                try:
                    await pour(inside, writer)  # once the inside has ended, what the client may still say goes nowhere
                finally:
                    said.cancel()
                    await asyncio.gather(said, return_exceptions=True)
            finally:
                line.close()


def rewrite(head: bytes) -> tuple[bytes, str]:
    """The head as the program inside shall see it, and the token it came with. Raises InvalidRequest."""
    lines = head.rstrip(b"\r\n").split(b"\r\n")
    try:
        method, target, _ = lines[0].decode("latin-1").split(" ")
    except ValueError:
        raise InvalidRequest("this is no HTTP request") from None
    if not target.startswith((PREFIX, OWN)):
        raise InvalidRequest("this address leads nowhere")
    token, _, rest = target[len(PREFIX) :].partition("/")
    token, question, query = token.partition("?")
    path = "/" + rest if not question else f"/?{query}"
    upgrades = any(line.lower().startswith(b"upgrade:") for line in lines[1:])
    dropped = (b"x-bastide-", b"x-forwarded-prefix:", *(() if upgrades else (b"connection:",)))
    kept = [line for line in lines[1:] if not line.lower().startswith(dropped)]
    if target.startswith(PREFIX):
        kept.append(b"X-Forwarded-Prefix: " + f"{PREFIX}{token}".encode())
    if not upgrades:
        kept.append(b"Connection: close")
    first = f"{method} {path} HTTP/1.1".encode("latin-1")
    return b"\r\n".join([first, *kept]) + b"\r\n\r\n", token
