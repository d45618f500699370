"""The proxy of one box: HTTP and CONNECT in, connections out that policy has judged. It never looks beyond first bytes.

Names are resolved here, once, for each connection, and exactly the judged address is connected to; what a TLS hello or a
plain request then says must agree with it. A change of the rules ends open connections that they no longer allow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from urllib.parse import urlsplit

from bastide.egress import first_bytes
from bastide.egress.judged import Dial, Judged, Open, Resolve
from bastide.policy.egress import BASTIDE_NAME, Rule, judge, literal, named

HEAD_BYTES_MAX = 32768
CONNECT_S_MAX = 10.0
HEAD_S_MAX = 30.0
CONNECTIONS_MAX = 256
POUR_BYTES = 1 << 16


async def resolve(name: str, port: int) -> tuple[str, ...]:
    """The host's own resolver: every address, in its order."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class Refused(Exception):
    """Said to the program inside as a plain answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Proxy(Judged):
    """See Judged for what it is given."""

    def __init__(
        self,
        rules: tuple[Rule, ...],
        bastide: tuple[str, int] | None,
        find: Resolve = resolve,
        dial: Dial | None = None,
    ) -> None:
        super().__init__(rules, bastide, find, dial)
        self._server: asyncio.Server | None = None
        self.allowed_total = 0

    async def listen(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._server = await asyncio.start_unix_server(self._came, path, limit=HEAD_BYTES_MAX)
        os.chmod(path, 0o666)  # the box is another user; the directory is shown to it alone

    def change(self, rules: tuple[Rule, ...]) -> int:
        """Judge by these from now on; ends open connections they do not allow, and returns how many."""
        self.rules = rules
        return self._end_refused()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._end_tasks()

    # --- one connection --------------------------------------------------------------------------------------------

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) > CONNECTIONS_MAX:
                raise Refused(503, "this box has too many connections open")
            await self._serve(reader, writer, task)
        except Refused as refused:
            self.refused_total += 1
            body = f"{refused.reason}\n".encode()
            head = f"HTTP/1.1 {refused.status} Refused\r\nContent-Type: text/plain; charset=utf-8\r\n"
            head += f"Content-Length: {len(body)}\r\nX-Bastide-Egress: refused\r\nConnection: close\r\n\r\n"
            with contextlib.suppress(OSError):
                writer.write(head.encode() + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S_MAX)
        try:
            method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        except ValueError:
            raise Refused(400, "this is an HTTP proxy") from None
        if not version.startswith("HTTP/1."):
            raise Refused(505, "this proxy speaks HTTP/1.1")
        if method == "CONNECT":
            host, port = _host_and_port(target, 443)
            out = await self._out(host, port)
            try:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await self._pass(reader, writer, out, b"", Open(host, out[2], port, task), tunnel=True)
            finally:
                out[1].close()
            return
        parts = urlsplit(target)
        if parts.scheme != "http" or not parts.hostname:
            raise Refused(400, "ask this proxy with CONNECT, or with an absolute http:// address")
        try:
            port = parts.port or 80
        except ValueError:
            raise Refused(400, "no such port") from None
        said = first_bytes.http_host(head)
        if said is not None and said != parts.hostname.lower():
            raise Refused(403, f"the request is for {parts.hostname}, but its Host says {said}")
        out = await self._out(parts.hostname, port)
        try:
            first = _forwarded(head, method, parts.path or "/", parts.query, parts.netloc.rpartition("@")[2])
            one = Open(parts.hostname.lower(), out[2], port, task)
            await self._pass(reader, writer, out, first, one, tunnel=False)
        finally:
            out[1].close()

    async def _out(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """A connection that policy allows, with its address. Raises Refused."""
        name = host.lower().rstrip(".")
        if name == BASTIDE_NAME:
            if self._bastide is None or not named(self.rules, name, port):
                raise Refused(403, f"{name}:{port} is not allowed from here; allow it with egress 'bastide'")
            addresses: tuple[str, ...] = (self._bastide[0],)
            port = self._bastide[1]
        else:
            resolved: tuple[str, ...] = ()
            if literal(host) is None and named(self.rules, name, port):
                resolved = await self._find(name, port)
            verdict = judge(self.rules, host, port, resolved)
            if not verdict.allowed:
                raise Refused(403, f"egress is not allowed: {verdict.reason}")
            addresses = verdict.addresses
        failure = "no address answered"
        for address in addresses:
            try:
                reader, writer = await asyncio.wait_for(self._dial(address, port), CONNECT_S_MAX)
            except (OSError, TimeoutError) as error:
                failure = str(error) or "it did not answer in time"
                continue
            self.allowed_total += 1
            return reader, writer, address
        raise Refused(502, f"{host}:{port} can't be reached: {failure}")

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        out: tuple[asyncio.StreamReader, asyncio.StreamWriter, str],
        first: bytes,
        one: Open,
        *,
        tunnel: bool,
    ) -> None:
        self._open.add(one)
        try:
            if not self._still(one):
                return  # the rules changed while it was being opened
            if first:
                out[1].write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(pour(out[0], writer))
                group.create_task(self._pour_out(reader, out[1], one, tunnel))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(one)

    async def _pour_out(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, one: Open, tunnel: bool
    ) -> None:
        """What the box says; in a tunnel its first bytes must agree with where it was allowed to go."""
        if tunnel and literal(one.host) is None and one.host != BASTIDE_NAME:
            seen = b""
            while True:
                data = await reader.read(POUR_BYTES)
                if not data:
                    break
                seen += data
                try:
                    disagrees = _disagrees(seen, one.host.lower().rstrip("."))
                except first_bytes.Incomplete:
                    continue
                if disagrees:
                    self.refused_total += 1
                    raise OSError(disagrees)
                break
            writer.write(seen)
            await writer.drain()
        await pour(reader, writer)


def _disagrees(seen: bytes, name: str) -> str | None:
    """Why what a tunnel begins with does not fit the name it was opened for. Raises first_bytes.Incomplete."""
    if first_bytes.is_tls(seen):
        said = first_bytes.server_name(seen)
        return None if said == name else f"opened for {name}, but its TLS hello names {said}"
    if first_bytes.is_http(seen):
        if b"\r\n\r\n" not in seen and len(seen) < HEAD_BYTES_MAX:
            raise first_bytes.Incomplete
        said = first_bytes.http_host(seen.partition(b"\r\n\r\n")[0])
        return None if said in (None, name) else f"opened for {name}, but its Host says {said}"
    return None


async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(POUR_BYTES):
        target.write(data)
        await target.drain()
    with contextlib.suppress(OSError, NotImplementedError):
        target.write_eof()


def _host_and_port(target: str, default: int) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not host or target.endswith("]"):
        host, port = target, str(default)
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise Refused(400, "no such port")
    return host.strip("[]"), int(port)


def _forwarded(head: bytes, method: str, path: str, query: str, authority: str) -> bytes:
    """The request as its server expects it: origin form, one request a connection, nothing meant for a proxy."""
    lines = [f"{method} {path}{'?' + query if query else ''} HTTP/1.1".encode(), b"Host: " + authority.encode()]
    dropped = (b"host:", b"connection:", b"keep-alive:", b"upgrade:", b"te:")
    for line in head.split(b"\r\n")[1:]:
        lower = line.lower()
        if line and not lower.startswith(b"proxy-") and not lower.startswith(dropped):
            lines.append(line)
    lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"
