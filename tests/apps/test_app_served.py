"""Deployed apps over HTTP: reached, streamed, upgraded, kept apart from strangers, asleep and awake again."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets
from app_town import FASTAPI, SMALL, Town
from house import until

from bastide.domain.errors import BastideError, Conflict

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="session")
def small(town: Town) -> str:
    end = town.deploy(
        "small", {"main.py": SMALL}, health={"path": "/health", "interval": "1s"}, domains=["small.example.org"]
    )
    assert not end["failed"], end
    return "small"


@pytest.fixture(scope="session")
def fast(town: Town) -> str:
    end = town.deploy("fast", {"main.py": FASTAPI, "requirements.txt": "fastapi\nuvicorn\nwebsockets\n"}, public=True)
    assert not end["failed"], end
    return "fast"


# --- reached ---------------------------------------------------------------------------------------------------------


def test_by_prefix_that_is_taken_off_and_passed_on(town: Town, small: str) -> None:
    told = town.json(small, "/a/b?c=d", headers={"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Prefix": "/lie"})
    assert told["path"] == "/a/b?c=d" and told["headers"]["x-forwarded-prefix"] == "/apps/default/small"
    assert told["headers"]["x-forwarded-for"] == "127.0.0.1" and told["headers"]["x-forwarded-proto"] == "http"
    assert "x-bastide-key" not in told["headers"]


def test_without_its_slash_it_is_a_directory(town: Town, small: str) -> None:
    status, headers, _ = town.ask(small, "?x=1")
    assert status == 308 and headers["location"] == "/apps/default/small/?x=1"


@pytest.mark.parametrize("host", ["small.default.localhost", "SMALL.default.localhost:8787", "small.example.org"])
def test_by_host(town: Town, small: str, host: str) -> None:
    told = town.json(small, "/healthz", prefix=False, headers={"Host": host})
    assert (
        told["path"] == "/healthz" and told["headers"]["host"] == host and "x-forwarded-prefix" not in told["headers"]
    )


def test_no_such_app(town: Town, small: str) -> None:
    assert town.ask("none", "/")[0] == 404


def test_a_private_app_asks_for_a_key_of_its_project(town: Town, small: str) -> None:
    client = town.house.client
    client.create_project("elsewhere")
    stranger = type(client)(client.url, client.key, "elsewhere").create_key(name="x")["key"]
    assert town.ask(small, key=None)[0] == 401 and town.ask(small, key="bst_wrong")[0] == 401
    assert town.ask(small, key=stranger)[0] == 403
    own = client.create_key(name="y")["key"]
    told = town.json(small, key=None, headers={"Authorization": f"Bearer {own}"})
    assert "authorization" not in told["headers"], "a key of ours is not for the app"
    told = town.json(small, key=own, headers={"Authorization": "Basic its-own"})
    assert told["headers"]["authorization"] == "Basic its-own"


def test_a_public_app_asks_nobody(town: Town, fast: str) -> None:
    told = town.json(fast, key=None, headers={"Authorization": "Bearer of-the-app"})
    assert told["app"] == "fastapi" and told["headers"]["authorization"] == "Bearer of-the-app"


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_any_method_with_a_body(town: Town, small: str, method: str) -> None:
    assert town.json(small, "/x", method=method, body=b"y" * 100_000) == {"count": 100_000}


def test_a_head_has_no_body(town: Town, small: str) -> None:
    status, headers, body = town.ask(small, "/", "HEAD")
    assert status == 200 and headers["content-length"] == "10" and body == b""


def test_more_than_any_buffer_goes_either_way(town: Town, small: str) -> None:
    """Larger than what a request to a model may be: nothing keeps it whole."""
    pieces = (b"y" * 1_000_000 for _ in range(48))
    told = town.json(small, "/x", method="POST", body=pieces, headers={"Content-Length": "48000000"})
    assert told == {"count": 48_000_000}
    status, _, body = town.ask(small, "/large")
    assert status == 200 and len(body) == 48_000_000


def test_an_app_that_reads_nothing_holds_its_client_back(town: Town, small: str) -> None:
    """What it can't take waits with the client, not in our memory; and the rest goes on meanwhile."""
    with socket.create_connection((town.host, town.port)) as line:
        line.setblocking(False)
        key = town.house.key
        head = f"POST /apps/default/small/stuck HTTP/1.1\r\nHost: x\r\nX-Bastide-Key: {key}\r\nContent-Length: 1000000000\r\n\r\n"
        line.send(head.encode())
        sent = 0
        while select.select([], [line], [], 0.5)[1]:
            sent += line.send(b"z" * 1_000_000)
        assert sent < 100_000_000
        assert town.json(small)["mark"] == "first"
    # A client that is held back is not seen to leave until the app gives up on it: by then nothing is in flight.
    until(lambda: _may_rest(town, small))
    assert town.json(small)["mark"] == "first"


def _may_rest(town: Town, name: str) -> bool:
    """Asked of the gateway itself: what its node was told last may be a second old."""
    try:
        town.house.client.sleep(name, "deep")
    except Conflict:
        return False
    return True


def test_an_answer_before_the_body_has_come_ends_the_line(town: Town, small: str) -> None:
    with socket.create_connection((town.host, town.port)) as line:
        key = town.house.key
        head = f"POST /apps/default/small/early HTTP/1.1\r\nHost: x\r\nX-Bastide-Key: {key}\r\nContent-Length: 1000000\r\n\r\n"
        line.sendall(head.encode() + b"part")
        told = b""
        while piece := line.recv(65536):
            told += piece
    assert told.startswith(b"HTTP/1.1 403") and b"connection: close" in told


def test_two_requests_on_one_line(town: Town, small: str) -> None:
    with socket.create_connection((town.host, town.port)) as line:
        head = f"Host: x\r\nX-Bastide-Key: {town.house.key}\r\n"
        first = f"POST /apps/default/small/a HTTP/1.1\r\n{head}Content-Length: 3\r\n\r\nabc"
        second = f"GET /apps/default/small/b HTTP/1.1\r\n{head}Connection: close\r\n\r\n"
        line.sendall((first + second).encode())
        told = b""
        while piece := line.recv(65536):
            told += piece
    assert told.count(b"HTTP/1.1 200") == 2 and b'"count": 3' in told and b'"path": "/b"' in told


def test_events_come_as_they_are_made_and_a_client_that_leaves_is_noticed(town: Town, fast: str) -> None:
    with socket.create_connection((town.host, town.port)) as line:
        line.sendall(b"GET /apps/default/fast/sse HTTP/1.1\r\nHost: x\r\n\r\n")
        told = b""
        while b"data: 3\n\n" not in told:
            told += line.recv(65536)
        assert b"text/event-stream" in told and b"data: 900\n\n" not in told
    until(lambda: town.json(fast, "/gone") == ["left"])


# --- other protocols -------------------------------------------------------------------------------------------------


def test_a_websocket_is_a_tunnel_that_keeps_its_app_awake(town: Town, fast: str) -> None:
    async def talk() -> None:
        address = f"ws://{town.host}:{town.port}/apps/default/fast/ws"
        async with websockets.connect(address) as line:
            for size in (1, 100, 200_000):
                await line.send("x" * size)
                assert await line.recv() == "echo " + "x" * size
            with pytest.raises(Conflict, match="in flight"):
                await asyncio.to_thread(town.house.client.sleep, "fast", "frozen")
            await line.send("still here")
            assert await line.recv() == "echo still here"

    asyncio.run(talk())
    until(lambda: _slept(town, "fast"))


def _slept(town: Town, name: str) -> bool:
    with contextlib.suppress(Conflict):
        town.house.client.sleep(name, "frozen")
        return True
    return False


def test_a_websocket_to_nowhere_is_refused_as_http(town: Town, fast: str) -> None:
    async def talk() -> None:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://{town.host}:{town.port}/apps/default/fast/none")
        assert refused.value.response.status_code == 403

    asyncio.run(talk())


# --- asleep ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", ["frozen", "light", "deep"])
def test_asleep_on_every_rung_and_awake_by_a_request(town: Town, small: str, rung: str) -> None:
    before = town.json(small)["pid"]
    try:
        town.house.client.sleep(small, rung)
    except Conflict as error:
        pytest.skip(f"the {rung} rung does not hold here: {error.message[:80]}")
    status, headers, body = town.ask(small)
    assert status == 200 and headers["x-bastide-wake"] == rung and "wake;dur=" in headers["server-timing"]
    assert json.loads(body)["pid"] == before or rung == "deep"


def test_many_at_once_wake_it_once(town: Town, small: str) -> None:
    town.house.client.sleep(small)

    async def all_of() -> list[object]:
        return await asyncio.gather(*(asyncio.to_thread(town.json, small, "/slow") for _ in range(8)))

    marks = asyncio.run(all_of())
    assert len({answer["pid"] for answer in marks}) == 1  # type: ignore[index]


def test_an_unwell_app_is_restarted(town: Town) -> None:
    end = town.deploy(
        "sickly", {"main.py": SMALL}, health={"path": "/health", "interval": "1s", "failures": 2}, sleep="off"
    )
    assert not end["failed"], end
    life = town.json("sickly")["pid"], town.house.instance("sickly")["pid"]
    assert _run(town, "sickly", ["touch", "/tmp/sick"])[0] == 0
    why = town.house.client.why
    until(lambda: any("not well 2 times" in decision["reason"] for decision in why("sickly")["decisions"]))
    assert town.json("sickly", "/health")["mark"] == "first"
    assert town.house.instance("sickly")["pid"] != life[1]


def test_an_app_that_ends_is_started_for_the_next_request(town: Town, small: str) -> None:
    assert town.ask(small, "/exit")[0] == 502
    until(lambda: town.ask(small)[0] == 200)


# --- what it is given ------------------------------------------------------------------------------------------------


def test_secrets_and_its_key_are_told_to_the_app_alone(town: Town) -> None:
    secret = "hunter2-" + "s" * 20
    town.house.client.set_secret("api-token", secret)
    end = town.deploy(
        "confided", {"main.py": SMALL}, secrets=["api-token"], env={"PLAIN": "yes"}, config_files={"app.toml": "x = 1"}
    )
    assert not end["failed"], end
    told = town.json("confided", "/env")
    assert told["API_TOKEN"] == secret and told["PLAIN"] == "yes" and told["BASTIDE_SERVICE"] == "confided"
    assert town.json("confided", "/config") == {"text": "x = 1"}
    key = told["BASTIDE_API_KEY"]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = cmdline.read_bytes()
            assert secret.encode() not in text and key.encode() not in text, cmdline
    for file in town.house.data.rglob("*"):
        if file.is_file() and not file.name.startswith("bastide.db"):
            assert secret.encode() not in file.read_bytes() and key.encode() not in file.read_bytes(), file
    code = (
        "import json,os,urllib.request as u;"
        "r=u.Request(os.environ['OPENAI_BASE_URL']+'/models',headers={'Authorization':'Bearer '+os.environ['BASTIDE_API_KEY']});"
        "print(u.urlopen(r).status)"
    )
    assert _run(town, "confided", ["python", "-c", code]) == (0, b"200\n")
    town.house.client.sleep("confided")
    until(lambda: _models_status(town, key) == 401)  # its process is gone, and so is its key
    assert town.json("confided", "/env")["BASTIDE_API_KEY"] != key


def _models_status(town: Town, key: str) -> int:
    return town.ask("", "/v1/models", key=None, headers={"Authorization": f"Bearer {key}"}, prefix=False)[0]


def _run(town: Town, name: str, argv: list[str]) -> tuple[int, bytes]:
    output, status = b"", -1
    for line in town.house.client.exec(name, argv):
        output += line.get("stdout", b"")
        status = line.get("exit_code", status)
    return status, output


def test_nothing_leads_out_but_the_door(town: Town, small: str) -> None:
    probe = "import socket; s=socket.socket(); s.settimeout(2); s.connect(('1.1.1.1', 53))"
    assert _run(town, small, ["python", "-c", probe])[0] != 0
    assert _run(town, small, ["sh", "-c", "echo x > /app/y"])[0] != 0
    assert _run(town, small, ["ls", str(town.house.data)])[0] != 0


@pytest.fixture(scope="module")
def neighbour() -> Iterator[tuple[str, int]]:
    """A web server on this machine's own address: what an on-prem database is to an app."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
        try:
            line.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback, so nothing can be allowed here")
        address = str(line.getsockname()[0])
    server = http.server.ThreadingHTTPServer((address, 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address, server.server_address[1]
    server.shutdown()


def test_what_is_allowed_is_reached_and_nothing_else(town: Town, neighbour: tuple[str, int]) -> None:
    address, port = neighbour
    end = town.deploy("outgoing", {"main.py": SMALL}, egress=[f"{address}/32:{port}"])
    assert not end["failed"], end
    fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).status)"
    assert _run(town, "outgoing", ["python", "-c", fetch, f"http://{address}:{port}/"]) == (0, b"200\n")
    assert _run(town, "outgoing", ["python", "-c", fetch, f"http://{address}:1/"])[0] != 0
    assert _run(town, "outgoing", ["python", "-c", fetch, "http://example.org/"])[0] != 0
    town.house.kill(town.house.pid("agent"))  # its way out is opened anew by the next
    until(lambda: _reaches(town, ["python", "-c", fetch, f"http://{address}:{port}/"]))


SPEAKS = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n"); print(s.recv(12).decode())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="the packet tier of egress needs root")
@pytest.mark.parametrize("tier", ["namespace", "gvisor"])
def test_any_client_reaches_what_is_allowed(town: Town, neighbour: tuple[str, int], tier: str) -> None:
    """A database's client knows no proxy."""
    address, port = neighbour
    name = f"database-{tier}"
    end = town.deploy(name, {"main.py": SMALL}, egress=[f"{address}:{port}"], egress_tier="packet", isolation=tier)
    if tier == "gvisor" and "does not hold" in end.get("reason", ""):
        pytest.skip("the gvisor tier does not hold here")
    assert not end["failed"], end
    speak = ["python", "-c", SPEAKS, address]
    assert _run(town, name, [*speak, str(port)]) == (0, b"HTTP/1.0 200\n")
    for refused in ([*speak, "22"], ["python", "-c", SPEAKS, "192.0.2.1", str(port)]):
        assert b"HTTP" not in _run(town, name, refused)[1], "refused, or taken and cut: nothing is said"
    assert town.json(name)["mark"] == "first", "and it is reached as any other"
    town.house.kill(town.house.pid("agent"))
    until(lambda: _answers(town, name, [*speak, str(port)], b"HTTP/1.0 200\n"))


def _answers(town: Town, name: str, argv: list[str], said: bytes) -> bool:
    with contextlib.suppress(BastideError):
        return _run(town, name, argv) == (0, said)
    return False


def _reaches(town: Town, argv: list[str]) -> bool:
    with contextlib.suppress(BastideError):
        return _run(town, "outgoing", argv) == (0, b"200\n")
    return False


def test_a_volume_outlives_generations(town: Town) -> None:
    spec = {"volumes": [{"name": "data", "path": "/data"}]}
    assert not town.deploy("keeper", {"main.py": SMALL}, **spec)["failed"]
    assert town.json("keeper", "/write") == {"kept": 1}
    assert not town.deploy("keeper", {"main.py": SMALL.replace("first", "second")}, rollout="immediate", **spec)[
        "failed"
    ]
    assert town.json("keeper")["mark"] == "second" and town.json("keeper", "/write") == {"kept": 2}


# --- other kinds -----------------------------------------------------------------------------------------------------


def test_anything_with_a_command(town: Town) -> None:
    end = town.deploy(
        "pages", {"index.html": "<h1>plain</h1>"}, command="exec python -m http.server $PORT", public=True
    )
    assert not end["failed"], end
    assert town.ask("pages", "/", key=None)[2] == b"<h1>plain</h1>"


def test_a_node_app(town: Town) -> None:
    import shutil

    if shutil.which("node") is None:
        pytest.skip("there is no Node.js on this machine")
    server = "require('http').createServer((q, s) => s.end('node ' + q.url)).listen(process.env.PORT, '127.0.0.1')"
    end = town.deploy("node", {"server.js": server, "package.json": '{"name": "x"}'}, public=True)
    assert not end["failed"], end
    assert town.ask("node", "/a", key=None)[2] == b"node /a"


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_more_at_once_wake_another_instance(town: Town) -> None:
    end = town.deploy("wide", {"main.py": SMALL}, replicas="0..2", target={"in_flight": 1})
    assert not end["failed"], end

    async def both() -> set[int]:
        answers = await asyncio.gather(*(asyncio.to_thread(town.json, "wide", "/slow") for _ in range(6)))
        return {instance["pid"] for instance in town.house.client.service("wide")["instances"] if answers}

    assert len(asyncio.run(both()) - {None}) == 2


def test_a_wait_is_bounded_in_time_and_number(town: Town) -> None:
    slow = "import time; time.sleep(1)\n" + SMALL
    told = {"/etc/slow.conf": "who can write there is started anew, which takes its second"}
    assert not town.deploy("slow", {"main.py": slow}, hold={"wait": "200ms", "queue": 1}, config_files=told)["failed"]
    town.house.client.sleep("slow")

    async def three() -> list[int]:
        return sorted(
            [status for status, _, _ in await asyncio.gather(*(asyncio.to_thread(town.ask, "slow") for _ in range(3)))]
        )

    assert asyncio.run(three()) == [429, 429, 503]
    until(lambda: town.ask("slow")[0] == 200)


def test_a_limit_on_memory_holds_or_is_refused(town: Town) -> None:
    greedy = "import os\nkept = []\n" + SMALL.replace(
        "class Handler", "def eat():\n    kept.append(b'x' * 300_000_000)\nclass Handler", 1
    )
    greedy = greedy.replace('if self.path == "/exit"', 'if self.path == "/eat": eat()\n        if self.path == "/exit"')
    end = town.deploy("greedy", {"main.py": greedy}, resources={"memory": "128MiB"})
    if end["failed"]:
        assert "can't be enforced here" in end["reason"]
        return
    assert town.json("greedy")["mark"] == "first"
    assert town.ask("greedy", "/eat")[0] == 502
    until(lambda: town.ask("greedy")[0] == 200)


def test_an_app_behind_a_kernel_of_its_own(town: Town) -> None:
    end = town.deploy("walled", {"main.py": SMALL}, isolation="gvisor", health={"path": "/health"})
    if end["failed"]:
        assert "does not hold on this machine" in end["reason"], end
        pytest.skip("the gvisor tier does not hold here")
    assert town.json("walled", "/x", method="POST", body=b"y" * 1_000_000) == {"count": 1_000_000}
    models = "import os,urllib.request as u;r=u.Request(os.environ['OPENAI_BASE_URL']+'/models',headers={'Authorization':'Bearer '+os.environ['BASTIDE_API_KEY']});print(u.urlopen(r).status)"
    assert _run(town, "walled", ["python", "-c", models]) == (0, b"200\n")
    for rung in ("frozen", "deep"):
        town.house.client.sleep("walled", rung)
        assert town.json("walled")["mark"] == "first"
