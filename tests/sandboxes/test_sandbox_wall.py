"""The packet tier of egress, from inside: programs that know no proxy. Needs root, as the tier does."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from house import House
from test_sandbox_egress import client_hello, own_address
from test_sandbox_kill import kill_sandboxes, patiently

from bastide import Sandbox
from bastide.domain.errors import Conflict, InvalidRequest, Unsupported

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the packet tier of egress needs root")


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[str, int]]:
    """A server on this machine's own private address that speaks first, as a database does, then says what it heard."""
    listener = socket.create_server((own_address(), 0))

    def serve() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(line,), daemon=True).start()

    def answer(line: socket.socket) -> None:
        line.sendall(b"hello\n")
        while data := line.recv(65536):
            line.sendall(data)
        line.close()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()
    listener.close()


SPEAK = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
print(s.recv(6).decode().strip(), flush=True)
s.sendall(b"spoken")
print(s.recv(6).decode(), flush=True)
"""
TRY = """
import socket, sys
for where in sys.argv[1:]:
    host, _, port = where.rpartition(":")
    try:
        s = socket.create_connection((host.strip("[]"), int(port)), 2)
        s.settimeout(2)
        s.sendall(b"x")
        print("GOT" if s.recv(1) else "cut", where)
    except OSError as error:
        print("refused", where, error)
"""


def test_any_client_reaches_what_is_allowed_and_nothing_else(
    make: Callable[..., Sandbox], tier: str, echo: tuple[str, int], town: House
) -> None:
    address, port = echo
    sandbox = make(tier=tier, egress=[f"{address}:{port}"], egress_tier="packet")
    assert sandbox.exec(("python3", "-c", SPEAK, address, str(port))).stdout == "hello\nspoken\n"
    gateway = town.url.rpartition(":")[2]
    others = [f"{address}:22", f"127.0.0.1:{gateway}", f"{address}:{gateway}", "169.254.169.254:80", f"192.0.2.1:{port}",
              f"127.0.0.1:{port}", f"10.9.8.7:{port}", f"[::1]:{port}"]  # fmt: skip
    said = sandbox.exec(("python3", "-c", TRY, *others), timeout=60).stdout
    assert "GOT" not in said
    assert said.count("\n") == len(others)


def test_no_name_but_allowed_ones_is_answered(make: Callable[..., Sandbox], tier: str) -> None:
    sandbox = make(tier=tier, egress=["10.0.0.0/8:443"], egress_tier="packet")
    code = "import socket\ntry: print('GOT', socket.getaddrinfo('example.org', 443))\nexcept OSError as e: print('none', e)"
    assert sandbox.exec(("python3", "-c", code), timeout=20).stdout.startswith("none")
    raw = (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "s.sendto(b'x' * 30, ('9.9.9.9', 123))\n"
        "try: print('GOT', s.recv(10))\nexcept OSError as e: print('none')"
    )
    assert sandbox.exec(("python3", "-c", raw), timeout=20).stdout == "none\n"


def test_its_own_name_leads_to_bastide(make: Callable[..., Sandbox], tier: str) -> None:
    sandbox = make(tier=tier, egress=["bastide"], egress_tier="packet")
    assert sandbox.exec("curl -sS -m 5 http://bastide.internal/healthz").stdout == '{"status":"ok"}'


def test_rules_change_at_once(make: Callable[..., Sandbox], tier: str, echo: tuple[str, int]) -> None:
    address, port = echo
    sandbox = make(tier=tier, egress=["10.255.255.1:1"], egress_tier="packet")
    assert "GOT" not in sandbox.exec(("python3", "-c", TRY, f"{address}:{port}")).stdout
    sandbox.set_egress([f"{address}:{port}"])
    holder = sandbox.spawn(
        ("python3", "-c", SPEAK + "print('cut' if not s.recv(1) else 'open', flush=True)", address, str(port))
    )
    while "spoken" not in holder.output().stdout:
        pass
    sandbox.set_egress([])
    ended = holder.wait()
    assert "cut" in ended.stdout or "reset" in ended.stderr
    assert "GOT" not in sandbox.exec(("python3", "-c", TRY, f"{address}:{port}")).stdout


def test_what_can_not_be_is_refused(make: Callable[..., Sandbox], tier: str) -> None:
    with pytest.raises(InvalidRequest, match="needs a port"):
        make(tier=tier, egress=["10.0.0.0/8"], egress_tier="packet")
    sandbox = make(tier=tier)
    with pytest.raises((Conflict, InvalidRequest)):
        sandbox._client.transport.ask("PUT", f"{sandbox._path}/egress", None, {"allow": [], "tier": "packet"})


def test_one_that_can_not_be_saved_says_so(make: Callable[..., Sandbox], pausing_tier: str) -> None:
    sandbox = make(tier=pausing_tier, egress=["bastide"], egress_tier="packet")
    for call in (sandbox.pause, sandbox.snapshot, sandbox.fork):
        with pytest.raises(Unsupported, match="packet tier"):
            call()
    assert sandbox.exec("echo well").stdout == "well\n"


def test_the_inside_can_not_undo_it(make: Callable[..., Sandbox], tier: str) -> None:
    """Root inside, where there is one: no route, no interface, no rule can be changed."""
    sandbox = make(tier=tier, egress=["10.0.0.1:443"], egress_tier="packet")
    code = (
        "import fcntl, socket, struct\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "def attempt(what, doing):\n"
        "    try: doing(); print('GOT', what)\n"
        "    except OSError as e: print('refused', what)\n"
        "attempt('down', lambda: fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 0)))\n"
        "attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))\n"
        "attempt('packet', lambda: socket.socket(17, socket.SOCK_RAW, 3))\n"
        "attempt('address', lambda: fcntl.ioctl(s, 0x8916, struct.pack('16sH14s', b'lo', 2, b'')))\n"
    )
    assert "GOT" not in sandbox.exec(("python3", "-c", code)).stdout


def test_the_wall_stands_when_what_serves_it_is_killed(tmp_path: object, echo: tuple[str, int]) -> None:
    address, port = echo
    house = House(tmp_path / "house", "--memory", "1GiB").start()  # type: ignore[operator]
    try:
        sandbox = Sandbox.create(
            client=house.client, tier="namespace", egress=[f"{address}:{port}"], egress_tier="packet", timeout=600
        )
        assert sandbox.exec(("python3", "-c", SPEAK, address, str(port))).ok
        kill_sandboxes(house)
        patiently(sandbox.refresh)
        assert sandbox.exec(("python3", "-c", SPEAK, address, str(port))).stdout == "hello\nspoken\n"
        assert "GOT" not in sandbox.exec(("python3", "-c", TRY, f"{address}:22")).stdout
    finally:
        house.end()


def test_a_name_is_pinned_to_what_was_answered_and_must_be_meant() -> None:
    """The wall itself, in a namespace of its own, with a resolver and a dialler of the test's own."""
    import asyncio
    import ctypes

    from bastide.egress import names
    from bastide.egress.wall import Wall
    from bastide.policy.egress import parse

    async def work() -> None:
        async def find(name: str, port: int) -> tuple[str, ...]:
            return ("93.184.216.34",) if name == "good.example" else ("10.1.2.3",)

        async def dial(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(*there)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        there = server.sockets[0].getsockname()
        wall = Wall(parse(("good.example", "bad.example"), {}), None, find, dial)
        await wall.build()

        def inside(work: Callable[[], bytes]) -> bytes:
            """On a thread that lives in the wall's namespace."""
            found: list[bytes] = []

            def run() -> None:
                with open(wall.namespace) as file:
                    assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) == 0
                try:
                    found.append(work())
                except OSError as error:
                    found.append(type(error).__name__.encode())

            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            return found[0]

        def resolve(name: str) -> bytes:
            line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            line.settimeout(5)
            labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
            line.sendto(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\0\0\1\0\1", ("9.9.9.9", 53))
            return line.recv(512)

        def speak(said: bytes, address: str = "93.184.216.34", port: int = 443) -> bytes:
            line = socket.create_connection((address, port), 5)
            line.settimeout(5)
            line.sendall(said)
            return line.recv(65536)

        try:
            hello = client_hello("good.example")
            before = await asyncio.to_thread(inside, lambda: speak(hello))
            assert before != hello  # nobody has asked for the name: the address means nothing
            answer = await asyncio.to_thread(inside, lambda: resolve("good.example"))
            assert answer.endswith(bytes([93, 184, 216, 34])) and answer[3] & 15 == names.NO_ERROR
            assert await asyncio.to_thread(inside, lambda: speak(hello)) == hello
            assert await asyncio.to_thread(inside, lambda: speak(client_hello("front.example"))) != client_hello("x")
            assert wall.refused_total >= 2
            assert (await asyncio.to_thread(inside, lambda: resolve("bad.example")))[3] & 15 == names.NO_SUCH_NAME
            assert (await asyncio.to_thread(inside, lambda: resolve("other.example")))[3] & 15 == names.REFUSED
            assert await asyncio.to_thread(inside, lambda: speak(hello, "10.1.2.3")) != hello
            assert await asyncio.to_thread(inside, lambda: speak(hello, port=8443)) == b"ConnectionRefusedError"
        finally:
            await wall.close()
            server.close()

    asyncio.run(work())
