"""The packet tier of egress: a network namespace with no way out, and this side of it. Needs root; any TCP program works.

Inside, every address leads to us. Names are answered by us, for those that rules allow; a connection goes on only to an
address that we just answered for such a name (pinned), with a TLS hello that names it, or that a network of the rules
holds. Only ports that the rules name are there at all; nothing else is, in any protocol.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from bastide.domain.errors import InvalidRequest, Unsupported
from bastide.egress import first_bytes, names
from bastide.egress.judged import Dial, Judged, Open, Resolve
from bastide.egress.proxy import CONNECT_S_MAX, CONNECTIONS_MAX, POUR_BYTES, pour, resolve
from bastide.policy.egress import BASTIDE_NAME, WEB_PORTS, Rule, judge, named

NETNS = Path(__file__).with_name("netns.py")
PIN_S = 60.0  # how long an address that was answered may be connected to by its name
FIRST_BYTES_S_MAX = 5.0  # for a client that waits for its server to speak first
PORTS_MAX = 64
IP_PKTINFO = 8


def ports_of(rules: tuple[Rule, ...]) -> frozenset[int]:
    """Every port that is to be there. Raises InvalidRequest for a network without one: all of them can't be."""
    found: set[int] = set()
    for rule in rules:
        if rule.ports is None and rule.network is not None:
            raise InvalidRequest(
                f"egress {rule.text!r}: the packet tier needs a port, such as {rule.text}:5432", param="egress"
            )
        found |= rule.ports if rule.ports is not None else WEB_PORTS
    if len(found) > PORTS_MAX:
        raise InvalidRequest(f"egress names more than {PORTS_MAX} ports", param="egress")
    return frozenset(found)


class Wall(Judged):
    """One box's. See Judged for what it is given."""

    def __init__(
        self,
        rules: tuple[Rule, ...],
        bastide: tuple[str, int] | None,
        find: Resolve = resolve,
        dial: Dial | None = None,
    ) -> None:
        super().__init__(rules, bastide, find, dial)
        self._pins: dict[str, dict[str, float]] = {}  # address -> name -> until when
        self._namespace = -1
        self._names: socket.socket | None = None
        self._servers: dict[int, asyncio.Server] = {}

    @property
    def namespace(self) -> str:
        """Where a box enters it."""
        return f"/proc/{os.getpid()}/fd/{self._namespace}"

    async def build(self, inside: int | None = None) -> None:
        """Make it, or take it up again around the living process `inside`. Raises Unsupported where it can't be made."""
        await self._listen(ports_of(self.rules), f"/proc/{inside}/ns/net" if inside is not None else "")

    async def change(self, rules: tuple[Rule, ...]) -> int:
        """Judge by these from now on; ends what they do not allow, and returns how many connections that were."""
        wanted = ports_of(rules)
        self.rules = rules
        for port in set(self._servers) - wanted:
            self._servers.pop(port).close()
        if missing := wanted - set(self._servers):
            await self._listen(frozenset(missing), self.namespace)
        return self._end_refused()

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        await self._end_tasks()
        self._stop_names()
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1

    # --- sockets in there ------------------------------------------------------------------------------------------

    async def _listen(self, ports: frozenset[int], namespace: str) -> None:
        self._stop_names()
        found = await asyncio.to_thread(_sockets, ports, namespace)
        if self._namespace >= 0:
            os.close(self._namespace)
        self._namespace = found[0]
        self._names = socket.socket(fileno=found[1])
        self._names.setblocking(False)
        self._names.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        asyncio.get_running_loop().add_reader(self._names, self._asked)
        for port, number in zip(sorted(ports), found[2:], strict=True):
            listener = socket.socket(fileno=number)
            self._servers[port] = await asyncio.start_server(self._came, sock=listener)

    def _stop_names(self) -> None:
        if self._names is not None:
            asyncio.get_running_loop().remove_reader(self._names)
            self._names.close()
            self._names = None

    # --- names -----------------------------------------------------------------------------------------------------

    def _asked(self) -> None:
        assert self._names is not None
        with contextlib.suppress(BlockingIOError, OSError):
            packet, control, _, where = self._names.recvmsg(names.QUESTION_BYTES_MAX + 1, socket.CMSG_SPACE(12))
            if len(self._tasks) < CONNECTIONS_MAX:
                self._spawn(self._tell(packet, where, _from_there(control), self._names))

    def _spawn(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(
        self, packet: bytes, where: object, control: list[tuple[int, int, bytes]], line: socket.socket
    ) -> None:
        try:
            name, kind = names.question(packet)
        except (ValueError, UnicodeDecodeError):
            said = names.answer(packet, names.FORMAT_ERROR)
        else:
            said = await self._answer(packet, name, kind)
        with contextlib.suppress(OSError):
            line.sendmsg([said], control, 0, where)  # type: ignore[arg-type]

    async def _answer(self, packet: bytes, name: str, kind: int) -> bytes:
        ports = [port for port in self._servers if named(self.rules, name, port)]
        if not ports:
            self.refused_total += 1
            return names.answer(packet, names.REFUSED)
        if kind != names.A:
            return names.answer(packet, names.NO_ERROR)
        if name == BASTIDE_NAME:
            addresses: tuple[str, ...] = ("198.18.0.1",) if self._bastide else ()
        else:
            resolved = await self._find(name, ports[0])
            good = {a for port in ports for a in judge(self.rules, name, port, resolved).addresses if ":" not in a}
            addresses = tuple(address for address in resolved if address in good)
        now_s = time.monotonic()
        for address in addresses:
            self._pins.setdefault(address, {})[name] = now_s + PIN_S
        return names.answer(packet, names.NO_ERROR if addresses else names.NO_SUCH_NAME, addresses[:16], int(PIN_S / 2))

    def _pinned(self, address: str, port: int) -> tuple[str, ...]:
        """Names that this address was just answered for, and that may be reached at this port."""
        now_s = time.monotonic()
        kept = {name: until_s for name, until_s in self._pins.get(address, {}).items() if until_s > now_s}
        self._pins[address] = kept
        if not kept:
            self._pins.pop(address, None)
        return tuple(
            name
            for name in kept
            if named(self.rules, name, port)
            and (name == BASTIDE_NAME or judge(self.rules, name, port, (address,)).allowed)
        )

    # --- connections -----------------------------------------------------------------------------------------------

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        meant = writer.get_extra_info("sockname")
        try:
            if len(self._tasks) <= CONNECTIONS_MAX:
                await self._pass(reader, writer, str(meant[0]), int(meant[1]), task)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str,
        port: int,
        task: asyncio.Task[None],
    ) -> None:
        by_network = judge(self.rules, address, port, ()).allowed
        pinned = () if by_network else self._pinned(address, port)
        if not by_network and not pinned:
            self.refused_total += 1
            writer.transport.abort()  # as if nobody were there
            return
        name, first = ("", b"") if by_network else await self._agreed(reader, pinned)
        target, target_port = address, port
        if name == BASTIDE_NAME and self._bastide is not None:
            target, target_port = self._bastide
        there, out = await asyncio.wait_for(self._dial(target, target_port), CONNECT_S_MAX)
        one = Open(name or address, address, port, task)
        self._open.add(one)
        try:
            if not self._still(one):
                return
            out.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(pour(there, writer))
                group.create_task(pour(reader, out))
        except* OSError:
            pass
        finally:
            self._open.discard(one)
            out.close()

    async def _agreed(self, reader: asyncio.StreamReader, pinned: tuple[str, ...]) -> tuple[str, bytes]:
        """The name that the first bytes agree with, and those bytes. Raises OSError where they name another."""
        seen = b""
        try:
            async with asyncio.timeout(FIRST_BYTES_S_MAX):
                while data := await reader.read(POUR_BYTES):
                    seen += data
                    try:
                        said = _said(seen)
                    except first_bytes.Incomplete:
                        continue
                    if said is None:
                        return pinned[0], seen
                    if said in pinned:
                        return said, seen
                    self.refused_total += 1
                    raise OSError(f"it was found as {', '.join(pinned)}, but what it says names {said or 'nobody'}")
        except TimeoutError:
            pass  # its server speaks first
        return pinned[0], seen


def _from_there(control: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """So that an answer comes from the very address that was asked: who asks listens to no other (ip(7), IP_PKTINFO)."""
    for level, kind, data in control:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= 12:
            asked = data[8:12]
            return [(socket.IPPROTO_IP, IP_PKTINFO, b"\0\0\0\0" + asked + asked)]
    return []


def _said(seen: bytes) -> str | None:
    """The name in the first bytes; "" for a TLS hello without one, None where such bytes name nothing."""
    if first_bytes.is_tls(seen):
        return first_bytes.server_name(seen) or ""
    if first_bytes.is_http(seen):
        if b"\r\n\r\n" not in seen and len(seen) < POUR_BYTES:
            raise first_bytes.Incomplete
        return first_bytes.http_host(seen.partition(b"\r\n\r\n")[0])
    return None


def _sockets(ports: frozenset[int], namespace: str) -> list[int]:
    """[namespace, names, one listener for each port in order] as descriptors, from a program run for it. Blocks."""
    if os.getuid() != 0:
        raise Unsupported("the packet tier of egress needs root; use the proxy tier")
    ours, theirs = socket.socketpair()
    words = [sys.executable, "-I", "-S", str(NETNS), str(theirs.fileno()), ",".join(map(str, sorted(ports)))]
    passed = [theirs.fileno()]
    entered = os.open(namespace, os.O_RDONLY) if namespace else -1
    if entered >= 0:
        words.append(str(entered))
        passed.append(entered)
    try:
        ran = subprocess.run(words, pass_fds=passed, capture_output=True, text=True, timeout=20, check=False)
        if ran.returncode != 0:
            raise Unsupported(f"no wall can be built here: {ran.stderr.strip().splitlines()[-1:] or ran.returncode}")
        _, control, _, _ = ours.recvmsg(16, socket.CMSG_SPACE(4 * (PORTS_MAX + 2)))
        numbers = array.array("i")
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
        return list(numbers)
    finally:
        ours.close()
        theirs.close()
        if entered >= 0:
            os.close(entered)
