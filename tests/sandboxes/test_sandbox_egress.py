"""Egress, from inside: each rule of policy/egress.py against real programs, on every tier that holds here."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

from bastide import Sandbox

CONNECT = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 3128), 5)
s.sendall(("CONNECT %s HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % sys.argv[1]).encode())
print(s.recv(400).decode(errors="replace").replace("\\r\\n", "|"))
"""


class Page(http.server.BaseHTTPRequestHandler):
    """Says who was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.headers['Host']} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def own_address() -> str:
    """An address of this machine that is not loopback. Nothing is sent."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
        try:
            line.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback, so nothing can be allowed here")
        return str(line.getsockname()[0])


@pytest.fixture(scope="module")
def page() -> Iterator[tuple[str, int]]:
    """A web server on this machine's own private address: what an on-prem database is to an app."""
    address = own_address()
    server = http.server.ThreadingHTTPServer((address, 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield address, server.server_address[1]
    server.shutdown()


def fetch(sandbox: Sandbox, url: str) -> str:
    return sandbox.exec(("curl", "-sS", "-m", "5", url)).stdout


def test_nothing_leaves_by_default(kept: Sandbox, page: tuple[str, int]) -> None:
    said = fetch(kept, f"http://{page[0]}:{page[1]}/")
    assert "may leave" in said
    code = f"import socket; socket.create_connection(({page[0]!r}, {page[1]}), 2)"
    direct = kept.exec(("python3", "-c", code))
    assert direct.exit_code != 0
    assert "OSError" in direct.stderr or "TimeoutError" in direct.stderr, direct.stderr


def test_no_name_is_resolved_inside(kept: Sandbox) -> None:
    code = "import socket; print(socket.getaddrinfo('example.org', 80))"
    assert kept.exec(("python3", "-c", code), timeout=15).exit_code != 0
    raw = "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('9.9.9.9', 53))"
    assert kept.exec(("python3", "-c", raw), timeout=15).exit_code != 0


def test_a_network_that_is_allowed_can_be_reached_and_no_other(
    make: Callable[..., Sandbox], tier: str, page: tuple[str, int]
) -> None:
    address, port = page
    sandbox = make(tier=tier, egress=[f"{address}/32:{port}"])
    assert fetch(sandbox, f"http://{address}:{port}/x") == f"{address}:{port} /x\n"
    assert "not allowed" in fetch(sandbox, f"http://{address}:{port + 1}/")
    assert "not allowed" in fetch(sandbox, "http://192.0.2.7/")
    for host in ("127.0.0.1:80", "localhost:80", "169.254.169.254:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "0.0.0.0:80",
                 "2130706433:80", "0x7f.1:80", "10.0.0.1:443", "[fd00::1]:443", "metadata.google.internal:80"):  # fmt: skip
        said = sandbox.exec(("python3", "-c", CONNECT, host)).stdout
        assert " 403 " in said, (host, said)


def test_a_host_header_that_disagrees_is_refused(
    make: Callable[..., Sandbox], tier: str, page: tuple[str, int]
) -> None:
    sandbox = make(tier=tier, egress=[f"{page[0]}/32"])
    said = sandbox.exec(("curl", "-sS", "-m", "5", "-H", "Host: other.example", f"http://{page[0]}:{page[1]}/")).stdout
    assert "Host says other.example" in said


def test_rules_change_at_once_for_open_connections(
    make: Callable[..., Sandbox], tier: str, page: tuple[str, int]
) -> None:
    address, port = page
    sandbox = make(tier=tier)
    assert "may leave" in fetch(sandbox, f"http://{address}:{port}/")
    sandbox.set_egress([f"{address}/32"])
    assert fetch(sandbox, f"http://{address}:{port}/y") == f"{address}:{port} /y\n"
    holder = sandbox.spawn((
        "python3", "-c",
        "import socket\n"
        "s = socket.create_connection(('127.0.0.1', 3128))\n"
        f"s.sendall(b'CONNECT {address}:{port} HTTP/1.1\\r\\n\\r\\n')\n"
        "print(s.recv(100)[:12].decode(), flush=True)\n"
        "print('closed' if not s.recv(100) else 'open', flush=True)\n",
    ))  # fmt: skip
    while "200" not in holder.output().stdout:
        pass
    sandbox.set_egress([])
    try:
        assert "closed" in holder.wait().stdout
    except AssertionError:
        assert "ConnectionReset" in holder.output().stderr
    assert "not allowed" in fetch(sandbox, f"http://{address}:{port}/")


def test_the_api_is_reached_by_its_own_name_only_where_allowed(make: Callable[..., Sandbox], tier: str) -> None:
    assert "may leave" in fetch(make(tier=tier), "http://bastide.internal/healthz")
    allowed = make(tier=tier, egress=["bastide"])
    assert fetch(allowed, "http://bastide.internal/healthz") == '{"status":"ok"}'
    assert "no API key was given" in fetch(allowed, "http://bastide.internal/v1/models")


def test_tls_must_name_the_host_it_was_opened_for() -> None:
    """The proxy itself, with a resolver and a dialler of the test's own: no name of the real world is needed."""
    import asyncio

    from bastide.egress.proxy import Proxy
    from bastide.policy.egress import parse

    async def work(folder: str) -> None:
        reached: list[str] = []

        async def find(name: str, port: int) -> tuple[str, ...]:
            return ("93.184.216.34",) if name == "good.example" else ("10.1.2.3",)

        async def dial(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reached.append(address)
            return await asyncio.open_connection(*echo)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        echo = server.sockets[0].getsockname()
        proxy = Proxy(parse(("good.example", "*.sub.example"), {}), None, find, dial)
        await proxy.listen(f"{folder}/proxy")

        async def tunnel(target: str, said: bytes) -> tuple[bytes, bytes]:
            reader, writer = await asyncio.open_unix_connection(f"{folder}/proxy")
            writer.write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head:
                return head, b""
            writer.write(said)
            answer = await reader.read(65536)
            writer.close()
            return head, answer

        try:
            hello = client_hello("good.example")
            assert (await tunnel("good.example:443", hello))[1] == hello
            assert (await tunnel("good.example:443", client_hello("front.example")))[1] == b""
            assert (await tunnel("good.example:443", client_hello(None)))[1] == b""
            assert b" 403 " in (await tunnel("good.example:22", b""))[0]
            assert b" 403 " in (await tunnel("bad.example:443", b""))[0]
            reached.clear()
            head, _ = await tunnel("x.sub.example:443", hello)
            assert b" 403 " in head and reached == []  # it led to a private address: rebinding
            head, answer = await tunnel("good.example:80", b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n")
            assert answer == b""
        finally:
            await proxy.close()
            server.close()

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(work(folder))


def client_hello(name: str | None) -> bytes:
    """What a real TLS client says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    line = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        line.do_handshake()
    return outgoing.read()
