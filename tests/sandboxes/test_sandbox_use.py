"""What agents do with sandboxes, on every tier that holds here: run, stream, spawn, files, code, ports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import websockets
from house import BASTIDE, House, until

from bastide import AsyncSandbox, Sandbox
from bastide.domain.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from bastide.sdk import Snapshot


def bastide(town: House, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BASTIDE_DATA": str(town.data)}
    return subprocess.run([BASTIDE, *words], capture_output=True, text=True, env=environment, timeout=60)


def test_exec_tells_both_outputs_and_the_status(kept: Sandbox) -> None:
    result = kept.exec("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == ("out\n", "err\n", 3, False)
    assert result.duration > 0


def test_exec_takes_words_as_they_are(kept: Sandbox) -> None:
    assert kept.exec(("printf", "%s|", "a b", "$HOME", "*")).stdout == "a b|$HOME|*|"


def test_exec_has_cwd_env_and_stdin(kept: Sandbox) -> None:
    result = kept.exec("pwd; echo $WORD; cat", cwd="/tmp", env={"WORD": "spoken"}, stdin="given\n")
    assert result.stdout == "/tmp\nspoken\ngiven\n"


def test_exec_streams_as_it_comes(kept: Sandbox) -> None:
    seen: list[str] = []
    result = kept.exec("for i in 1 2 3; do echo $i; sleep 0.05; done", on_stdout=seen.append)
    assert "".join(seen) == result.stdout == "1\n2\n3\n"
    assert len(seen) >= 2


def test_exec_ends_what_takes_too_long_with_all_it_started(kept: Sandbox) -> None:
    result = kept.exec("sleep 1000 & echo started; sleep 1000", timeout=0.4)
    assert result.timed_out
    assert result.stdout == "started\n"
    assert "sleep 1000" not in kept.exec("ps ax 2>/dev/null || cat /proc/*/cmdline | tr '\\0' ' '").stdout.replace(
        "ps ax", ""
    ).replace("cat /proc", "")


def test_exec_does_not_wait_for_what_it_leaves_behind(kept: Sandbox) -> None:
    result = kept.exec("sleep 30 & echo done")
    assert result.stdout == "done\n"
    assert result.duration < 10
    kept.exec("pkill sleep || kill $(pgrep sleep) || true")


def test_exec_carries_much_output_whole(kept: Sandbox) -> None:
    result = kept.exec("head -c 5000000 /dev/zero | tr '\\0' 'x'")
    assert len(result.stdout) == 5_000_000


def test_a_program_that_is_not_there_is_named(kept: Sandbox) -> None:
    with pytest.raises(NotFound, match="no-such-program"):
        kept.exec(("no-such-program",))


def test_json_for_those_without_our_client(kept: Sandbox, town: House) -> None:
    asked = urllib.request.Request(
        f"{town.url}/api/v1/sandboxes/{kept.id}/exec",
        data=json.dumps({"command": "echo hi"}).encode(),
        headers={"authorization": f"Bearer {town.key}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(asked) as answer:
        told = json.load(answer)
    assert (told["stdout"], told["exit_code"]) == ("hi\n", 0)


def test_hanging_up_ends_what_was_asked_for(kept: Sandbox, town: House) -> None:
    host, _, port = town.url.partition("://")[2].rpartition(":")
    body = json.dumps({"command": "sleep 4321"}).encode()
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /api/v1/sandboxes/{kept.id}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {town.key}\r\n"
        line.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while "4321" not in kept.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout.replace("cat", ""):
            pass
    deadline = time.monotonic() + 20
    while "sleep 4321" in kept.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout:
        assert time.monotonic() < deadline, "it runs on though nobody waits for it"


def test_spawned_processes_can_be_left_and_found_again(kept: Sandbox) -> None:
    process = kept.spawn("read line; echo got $line; read line; echo then $line", tag="talker")
    process.stdin("one\n")
    again = Sandbox.connect(kept.id, kept._client).process(process.number)
    again.stdin("two\n", end=True)
    result = again.wait()
    assert result.stdout == "got one\nthen two\n"
    assert result.exit_code == 0
    about = next(one for one in kept.processes() if one["process"] == process.number)
    assert (about["tag"], about["running"], about["exit_code"]) == ("talker", False, 0)


def test_spawned_processes_take_signals(kept: Sandbox) -> None:
    process = kept.spawn("trap 'echo caught; exit 7' TERM; echo ready; while true; do sleep 0.05; done")
    while "ready" not in process.output().stdout:
        pass
    process.kill("SIGTERM")
    result = process.wait()
    assert (result.stdout, result.exit_code) == ("ready\ncaught\n", 7)


def test_a_terminal_is_one(kept: Sandbox) -> None:
    terminal = kept.pty(cols=91, rows=33, command="/bin/sh -i")
    terminal.stdin("stty size; test -t 0 && echo is a tty; exit\n")
    said = terminal.wait().stdout
    assert "33 91" in said
    assert "is a tty" in said


def test_files_there_and_back(kept: Sandbox, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    kept.files.write("deep/er/data.bin", data, mode=0o750)
    assert kept.files.read("deep/er/data.bin") == data
    assert kept.files.read("deep/er/data.bin", offset=10, length=5) == data[10:15]
    about = kept.files.stat("deep/er/data.bin")
    assert (about.kind, about.size_bytes, about.mode) == ("file", len(data), 0o750)
    kept.files.write("deep/er/data.bin", b"more", append=True)
    assert kept.files.stat("deep/er/data.bin").size_bytes == len(data) + 4
    kept.files.move("deep/er/data.bin", "deep/moved")
    assert [entry.name for entry in kept.files.list("deep", depth=3)] == ["er", "moved"]
    kept.files.remove("deep")
    assert not kept.files.exists("deep")
    with pytest.raises(NotFound):
        kept.files.read("deep/moved")
    with pytest.raises(Conflict):
        kept.files.read("/tmp")


def test_large_files_go_in_parts(kept: Sandbox) -> None:
    data = os.urandom(1 << 20) * 20
    kept.files.write("/tmp/large", data)
    assert kept.exec("sha256sum < /tmp/large").stdout.split()[0] == __import__("hashlib").sha256(data).hexdigest()
    assert not kept.files.exists("/tmp/large.bastide-part")
    kept.files.remove("/tmp/large")


def test_trees_there_and_back(kept: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "project"
    (source / "src").mkdir(parents=True)
    (source / "src" / "main.py").write_text("print('hello')")
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    kept.files.upload(source)
    assert kept.exec("cd project && python3 src/main.py && test -x run").stdout == "hello\n"
    kept.exec("echo made > project/src/made.txt")
    kept.files.download("project", tmp_path / "back")
    assert (tmp_path / "back" / "project" / "src" / "made.txt").read_text() == "made\n"
    kept.files.remove("project")


def test_watching_tells_changes(kept: Sandbox) -> None:
    kept.files.mkdir("/tmp/watched")
    news = kept.files.watch("/tmp/watched")
    assert next(news)["kind"] == "watching"
    kept.exec("echo x > /tmp/watched/new")
    kinds = {(next(news)["kind"]) for _ in range(2)}
    assert "created" in kinds
    kept.files.remove("/tmp/watched")


def test_code_remembers_and_shows(kept: Sandbox) -> None:
    assert kept.run_code("x = 20\nprint('set')").stdout == "set\n"
    shown = kept.run_code("x + 22")
    assert (shown.text, shown.ok) == ("42", True)
    failed = kept.run_code("1/0")
    assert not failed.ok
    assert failed.error is not None and failed.error["name"] == "ZeroDivisionError"
    assert kept.run_code("x").text == "20"
    rich = kept.run_code("class Page:\n    def _repr_html_(self): return '<b>hi</b>'\nPage()")
    assert {"kind": "text/html", "text": "<b>hi</b>"} in rich.results
    assert kept.run_code("import os; os.system('echo from a child')").stdout.startswith("from a child")
    assert kept.run_code("while True: pass", timeout=0.5).timed_out
    assert kept.run_code("'x' in globals()").text == "False"  # a killed context begins anew


def test_half_a_character_does_not_put_answers_out_of_step(kept: Sandbox) -> None:
    kept.run_code("print('\\ud800')")
    assert kept.run_code("1 + 1").text == "2" and kept.run_code("3 + 3").text == "6"
    ended = kept.run_code("import os; os._exit(1)")
    assert not ended.ok and ended.error is not None and "begins anew" in ended.error["value"]
    assert kept.run_code("4 + 4").text == "8"


def test_text_that_is_no_text_is_refused(kept: Sandbox, town: House) -> None:
    for call in (
        lambda: kept.spawn("true", tag="\ud800"),
        lambda: kept.exec("cat", stdin="\ud800"),
        lambda: Sandbox.create(metadata={"a": "\ud800"}, client=town.client),
    ):
        with pytest.raises(InvalidRequest, match="half a character"):
            call()
    assert kept.exec("echo on").stdout == "on\n"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"metadata": {"k" * 257: "v"}}, "at most 64 entries, of names up to 256 and values up to 4096 characters"),
        ({"metadata": {"k": "v" * 4097}}, "at most 64 entries"),
        ({"metadata": {str(number): "v" for number in range(65)}}, "at most 64 entries"),
        ({"cpu": 0.001}, "0.01"),
        ({"cpu": 1e-9}, "0.01"),
    ],
)
def test_what_would_not_be_held_to_is_refused(town: House, wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Sandbox.create(client=town.client, **wanted)


def test_urls_lead_to_ports_until_they_expire(kept: Sandbox, town: House) -> None:
    server = kept.spawn("cd /tmp && echo served > page && exec python3 -u -m http.server 8123 --bind 127.0.0.1")
    address = kept.url(8123)
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"{address}page") as answer:
                assert answer.read() == b"served\n"
            break
        except urllib.error.HTTPError as error:
            assert error.code == 503  # it does not listen yet
    else:
        pytest.fail("the server inside never answered")
    swapped = "b" if "/s/a" in address else "a"
    forged = re.sub(r"/s/.", f"/s/{swapped}", address)
    for wrong in (forged, f"{address[:-2]}{'b' if address[-2] != 'b' else 'c'}/", f"{town.url}/s/nonsense/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wrong)
        assert refused.value.code == 403
    server.kill()


ECHO = """
import asyncio, websockets
async def echo(line):
    async for text in line: await line.send("echo " + text)
async def main():
    async with websockets.serve(echo, "127.0.0.1", 8124): await asyncio.Future()
asyncio.run(main())
"""
# Says that its connection may be used again, and tells whatever else comes over it.
STAYS = """
import socket
listener = socket.create_server(("127.0.0.1", 8125)); said = b""
while True:
    line, _ = listener.accept(); said = b""
    while data := line.recv(65536):
        said += data
        if said.endswith(b"\\r\\n\\r\\n"):
            body = b"%d heads, %s" % (said.count(b" HTTP/1.1"), b"NAME")
            line.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: keep-alive\\r\\n\\r\\n" % len(body) + body)
"""


def test_websockets_pass_through_addresses(kept: Sandbox, town: House) -> None:
    packages = str(Path(websockets.__file__).parent)
    kept.files.upload(packages, "/tmp")
    server = kept.spawn(("python3", "-c", ECHO), env={"PYTHONPATH": "/tmp"})
    address = kept.url(8124).replace("http://", "ws://")

    async def talk() -> str:
        async with websockets.connect(address) as line:
            await line.send("hello")
            return str(await line.recv())

    until(lambda: _listens(kept, 8124))
    assert asyncio.run(talk()) == "echo hello"
    server.kill()


def test_an_address_of_its_own_origin(kept: Sandbox, town: House) -> None:
    """A host name: nothing is taken off the path, and paths of Bastide's own mean nothing there."""
    kept.files.write("/tmp/own/v1/models", "mine")
    kept.files.write("/tmp/own/healthz", "mine too")
    server = kept.spawn("cd /tmp/own && exec python3 -u -m http.server 8126 --bind 127.0.0.1")
    until(lambda: _listens(kept, 8126))
    parts = urllib.parse.urlsplit(kept.url(8126, own_origin=True))
    assert (
        parts.hostname is not None and parts.hostname.startswith("s-") and len(parts.hostname.partition(".")[0]) <= 63
    )
    for path, said in (("/v1/models", b"mine"), ("/healthz", b"mine too")):
        asked = urllib.request.Request(town.url + path, headers={"Host": parts.netloc})
        with urllib.request.urlopen(asked) as answer:
            assert answer.read() == said
    with pytest.raises(urllib.error.HTTPError) as refused:
        forged = parts.netloc.replace("s-", "s-a", 1)
        urllib.request.urlopen(urllib.request.Request(town.url + "/", headers={"Host": forged}))
    assert refused.value.code == 403
    server.kill()


def test_a_connection_to_one_sandbox_never_carries_another_s_request(make: Callable[..., Sandbox], tier: str) -> None:
    """What a program inside says of keeping connections is not believed: the next request may be for somebody else."""
    one, other = make(tier=tier), make(tier=tier)
    for box, name in ((one, "one"), (other, "other")):
        box.spawn(("python3", "-c", STAYS.replace("NAME", name)))
        until(lambda box=box: _listens(box, 8125))
    for _ in range(3):
        for box, name in ((one, "one"), (other, "other")):
            with urllib.request.urlopen(box.url(8125)) as answer:
                assert answer.read().decode() == f"1 heads, {name}"


def _listens(box: Sandbox, port: int) -> bool:
    try:
        with urllib.request.urlopen(box.url(port)):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (503, 502)


def test_metadata_finds_and_limits_show(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    one = make(tier=tier, metadata={"run": f"7-{tier}"}, memory="256MiB", cpu=0.5)
    assert [found.id for found in Sandbox.list({"run": f"7-{tier}"}, town.client)] == [one.id]
    assert one.about["limits"]["memory_bytes"] == 256 << 20
    assert one.metrics()["memory_bytes"] > 0


def test_a_lifetime_ends_by_itself_and_can_be_made_longer(make: Callable[..., Sandbox], tier: str) -> None:
    one = make(tier=tier, timeout=1.0)
    other = make(tier=tier, timeout=1.0)
    other.set_timeout(300)
    with pytest.raises(Unavailable):
        one.exec("sleep 60")  # in use or not, its lifetime is what was asked for
    with pytest.raises(NotFound):
        one.refresh()
    assert other.exec("echo alive").stdout == "alive\n"


def test_what_is_wrong_is_said(make: Callable[..., Sandbox], kept: Sandbox) -> None:
    for options, what in (
        ({"template": "cobol"}, "template"),
        ({"timeout": 0.1}, "timeout"),
        ({"memory": "lots"}, "memory"),
        ({"memory": "1MiB"}, "64MiB"),
        ({"egress": ["not a name"]}, "egress"),
        ({"egress": ["127.0.0.1"]}, "never"),
        ({"tier": "vm"}, "tier"),
        ({"env": {"A=B": "x"}}, "env"),
    ):
        with pytest.raises((InvalidRequest, NotFound), match=what):
            make(**options)
    with pytest.raises(InvalidRequest):
        kept.exec("")
        kept.exec(())


def test_sandboxes_of_another_project_are_not_there(town: House, kept: Sandbox) -> None:
    town.client.create_project("elsewhere") if "elsewhere" not in str(town.client.projects()) else None
    key = type(town.client)(town.url, town.key, "elsewhere").create_key(name="x", can_deploy=True)["key"]
    stranger = type(town.client)(town.url, key)
    with pytest.raises(NotFound):
        Sandbox.connect(kept.id, stranger)
    assert Sandbox.list(client=stranger) == ()


def test_asyncio_has_the_same(town: House, tier: str) -> None:
    async def work() -> None:
        async with await AsyncSandbox.create(client=town.client, tier=tier) as sandbox:
            results = await asyncio.gather(*(sandbox.exec(f"echo {number}") for number in range(5)))
            assert [result.stdout for result in results] == [f"{number}\n" for number in range(5)]
            await sandbox.files.write("a", "b")
            assert await sandbox.files.read("a") == b"b"
            process = await sandbox.spawn("cat")
            await process.stdin("x", end=True)
            assert (await process.wait()).stdout == "x"

    asyncio.run(work())


def test_keys_open_sandboxes_only_where_they_may(town: House, tier: str) -> None:
    line = type(town.client)
    plain = line(town.url, town.client.create_key(name="plain")["key"])
    with pytest.raises(Forbidden, match="can-use-sandboxes"):
        Sandbox.create(client=plain, tier=tier)
    allowed = line(town.url, town.client.create_key(name="boxes", can_use_sandboxes=True)["key"])
    with Sandbox.create(client=allowed, tier=tier) as sandbox:
        assert sandbox.exec("echo mine").stdout == "mine\n"
        with pytest.raises(Forbidden):
            allowed.deploy("services: {}")
    with pytest.raises(Unauthenticated):
        Sandbox.create(client=line(town.url, "bst_nobody"), tier=tier)


def test_snapshots_are_listed_and_removed(town: House, pausing_tier: str, make: Callable[..., Sandbox]) -> None:
    kept = make(tier=pausing_tier).snapshot("by name")
    assert kept.id in {one.id for one in Snapshot.list(town.client)}
    shown = bastide(town, "sandbox", "snapshots")
    assert kept.template in shown.stdout and "by name" in shown.stdout
    assert bastide(town, "sandbox", "snapshots", "--rm", "sn-none").returncode == 3
    assert bastide(town, "sandbox", "snapshots", "--rm", kept.id).returncode == 0
    assert kept.id not in {one.id for one in Snapshot.list(town.client)}


def test_whoever_asks_for_one_that_ended_is_told_why(town: House, tier: str, make: Callable[..., Sandbox]) -> None:
    one = make(tier=tier)
    one.kill()
    with pytest.raises(NotFound, match="told to end"):
        Sandbox.connect(one.id, town.client)
    with pytest.raises(NotFound, match="there is no sandbox"):
        Sandbox.connect("sb-never", town.client)
    with pytest.raises(InvalidRequest, match="empty"):
        Sandbox.connect("", town.client)


def test_too_many_words_are_refused_with_what_to_do(kept: Sandbox) -> None:
    with pytest.raises(InvalidRequest, match="standard input"):
        kept.exec(("/bin/echo", "x" * 200_000))


def test_a_file_of_a_megabyte_goes_in_as_standard_input(kept: Sandbox) -> None:
    assert kept.exec("wc -c", stdin="x" * (1 << 20)).stdout.strip() == str(1 << 20)


def test_much_input_passes_through_both_ways_at_once(kept: Sandbox) -> None:
    data = os.urandom(1 << 20) * 10
    said = bytearray()
    result = kept.exec("cat", stdin=data, timeout=60, on_bytes=lambda number, piece: said.extend(piece))
    assert (result.exit_code, bytes(said) == data) == (0, True)


def test_input_that_nobody_reads_stops_neither_the_clock_nor_the_end(kept: Sandbox) -> None:
    ended = kept.exec("sleep 1000", stdin="x" * (5 << 20), timeout=0.5)
    assert (ended.timed_out, ended.exit_code) == (True, 137)
    assert kept.exec("head -c 3; exit 4", stdin="y" * (5 << 20)).stdout == "yyy"
    code = f"import time; x = {'z' * (1 << 20)!r}; time.sleep(1000)"
    assert kept.run_code(code, context="long", timeout=2.0).timed_out


def test_hanging_up_with_input_still_to_come_ends_what_was_asked_for(kept: Sandbox, town: House) -> None:
    host, _, port = town.url.partition("://")[2].rpartition(":")
    body = json.dumps({"command": "sleep 5432", "stdin": "x" * (8 << 20)}).encode()
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /api/v1/sandboxes/{kept.id}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {town.key}\r\n"
        line.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: "sleep 5432" in running(kept))
    until(lambda: "sleep 5432" not in running(kept))


def running(box: Sandbox) -> str:
    return box.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


def test_a_spawned_process_takes_much_input_and_a_terminal_too(kept: Sandbox) -> None:
    process = kept.spawn("wc -c")
    process.stdin(b"\0" * (5 << 20), end=True)
    assert process.wait().stdout.strip() == str(5 << 20)
    terminal = kept.pty(command="stty -echo; echo ready; wc -l")
    until(lambda: "ready" in terminal.output().stdout)
    terminal.stdin(("line of text\n" * 80 + "\n") * 1000, end=True)
    assert "81000" in terminal.wait().stdout


def test_one_that_never_reads_can_be_killed_while_it_is_given_input(kept: Sandbox) -> None:
    process = kept.spawn("sleep 1000")
    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(process.stdin, b"x" * (3 << 20))
        until(lambda: any(one["process"] == process.number for one in kept.processes()))
        process.kill()
        giving.result(timeout=30)
    assert process.wait().exit_code == 137


def test_a_relative_directory_is_below_home(kept: Sandbox) -> None:
    kept.files.write("nearby/one.txt", "here")
    assert kept.exec("pwd; cat one.txt", cwd="nearby").stdout == "/home/user/nearby\nhere"
    assert kept.spawn("cat one.txt", cwd="nearby").wait().stdout == "here"
    with pytest.raises(NotFound, match=r"can't run there.*'/home/user/absent'"):
        kept.exec("true", cwd="absent")
    with pytest.raises(NotFound, match="HOME"):
        kept.exec("true", env={"HOME": "/absent"})


def test_what_goes_on_writing_after_the_end_is_not_waited_for(kept: Sandbox) -> None:
    result = kept.exec("yes & echo $! > /tmp/yes", timeout=60)
    assert (result.exit_code, result.timed_out) == (0, False)
    kept.exec("kill $(cat /tmp/yes)")


def test_the_command_line_passes_bytes_as_they_are(kept: Sandbox, town: House) -> None:
    data = bytes(range(256)) * 4096
    environment = {**os.environ, "BASTIDE_DATA": str(town.data)}
    asked = [BASTIDE, "sandbox", "exec", kept.id, "--", "cat"]
    ran = subprocess.run(asked, input=data, capture_output=True, env=environment, timeout=60)
    assert (ran.returncode, ran.stdout == data, ran.stderr) == (0, True, b"")
    with pytest.raises(InvalidRequest, match="too long for one exec"):
        kept.exec("cat", stdin=b"x" * (25 << 20))


def test_a_terminal_with_input_that_nobody_reads_can_be_resized_and_ended(kept: Sandbox) -> None:
    terminal = kept.spawn(("sleep", "1000"))
    shown = kept.pty(command="stty raw; sleep 1000")
    until(lambda: shown.number in {one["process"] for one in kept.processes()})
    with ThreadPoolExecutor(4) as pool:
        giving = [pool.submit(one.stdin, b"x\n" * 1_000_000) for one in (terminal, shown)]
        for _ in range(50):
            shown.resize(100, 30)
        terminal.kill()
        shown.kill()
        for one in giving:
            one.result(timeout=30)


def test_a_terminal_that_its_program_has_closed_costs_nothing(kept: Sandbox) -> None:
    """Nobody will ever read what is given to it, and the kernel says so again and again."""
    program = "import os, signal, time; signal.signal(1, signal.SIG_IGN); print('up', flush=True)\nos.closerange(0, 3); time.sleep(1000)"
    terminal = kept.pty(command=f"exec python3 -c {shlex.quote(program)}")
    until(lambda: "up" in terminal.output().stdout)
    terminal.stdin("x\n" * 1_000_000)
    before = kept.metrics()["cpu_s"]
    time.sleep(1.0)  # what is looked at is the cost of a second in which nothing happens
    assert kept.metrics()["cpu_s"] - before < 0.5
    terminal.kill()


def test_input_is_given_though_whoever_gave_it_has_gone(kept: Sandbox) -> None:
    process = kept.spawn("read go; sleep 0; wc -c")
    process.stdin("go\n" + "x" * 900_000)
    process.stdin(end=True)
    assert process.wait().stdout.strip() == "900000"


def test_what_is_kept_of_the_output_of_many_stays_small(make: Callable[..., Sandbox], tier: str) -> None:
    box = make(tier=tier, memory="128MiB")
    last = [box.spawn("head -c 1048000 /dev/zero").wait() for _ in range(130)][-1]
    assert len(last.stdout) > 900_000 and box.metrics()["memory_bytes"] < 100 * 2**20
    trickle = box.spawn("i=0; while [ $i -lt 3000 ]; do printf x; i=$((i+1)); done")
    assert trickle.wait().stdout == "x" * 3000 == trickle.output().stdout


def test_a_duration_is_the_process_s_own(kept: Sandbox) -> None:
    def slowly(_number: int, _piece: bytes) -> None:
        time.sleep(0.03)  # a reader slower than what it reads

    began_s = time.monotonic()
    ended = kept.exec("yes", timeout=0.3, on_bytes=slowly)
    assert ended.timed_out and ended.duration < 1.0 < time.monotonic() - began_s
