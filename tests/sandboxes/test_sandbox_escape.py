"""Escape attempts, run for real inside our own sandboxes, on every tier that holds here; and what limits do to bombs.

Each attempt is a small Python program that prints what it got hold of. The table below is also what docs/isolation.md
is made from: what was tried, in words.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from escapes import ATTEMPTS, Attempt
from house import House

from bastide import Sandbox
from bastide.domain.errors import BastideError, InvalidRequest, NotFound


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of the host's that anybody may read, if they can see it."""
    file = tmp_path_factory.mktemp("canary") / "canary"
    file.write_text(f"canary-{secrets.token_hex(8)}")
    for folder in (file, *file.parents[:4]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    yield file


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name.replace(" ", "-"))
def test_attempt_gets_nothing(attempt: Attempt, kept: Sandbox, tier: str, canary: Path, town: House) -> None:
    if tier in attempt.allowed_in:
        pytest.skip(f"{attempt.name}: {attempt.allowed_in[tier]}")
    program = attempt.program.replace("CANARY", str(canary)).replace("HOST_PID", str(os.getpid()))
    program = program.replace("DATA", str(town.data))
    result = kept.exec(("python3", "-c", program), timeout=30)
    assert "GOT" not in result.stdout, f"{attempt.name}: {result.stdout}"
    assert "TRIED" in result.stdout, f"the attempt did not run: {result.stderr}"


def test_two_sandboxes_see_nothing_of_each_other(make: Callable[..., Sandbox], tier: str) -> None:
    one, other = make(tier=tier), make(tier=tier)
    one.files.write("/tmp/mine", "secret-of-one")
    one.spawn("exec -a findme sleep 300")
    assert not other.files.exists("/tmp/mine")
    assert "findme" not in other.exec("cat /proc/*/cmdline | tr '\\0' ' '").stdout
    listening = one.spawn("python3 -m http.server 8999 --bind 127.0.0.1")
    said = other.exec(("python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8999), 1)"))
    assert said.exit_code != 0
    listening.kill()


def test_environment_is_in_no_process_list_log_or_record(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    secret = f"secret-{secrets.token_hex(12)}"
    sandbox = make(tier=tier, env={"TOKEN": secret})
    assert sandbox.exec("echo $TOKEN").stdout.strip() == secret
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert secret.encode() not in process.read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    for file in town.data.rglob("*"):
        if file.is_file() and file.stat().st_size < 50_000_000:
            assert secret.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("name", ["../../../../escape", "/escape", "a/../../../escape"])
def test_archives_stay_where_they_are_laid(kept: Sandbox, name: str) -> None:
    batch = BytesIO()
    with tarfile.open(fileobj=batch, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, BytesIO(b"evil"))
    kept.files.mkdir("/tmp/laid")
    with contextlib.suppress(InvalidRequest):
        kept._client.transport.give("PUT", f"{kept._path}/tree", {"path": "/tmp/laid"}, batch.getvalue())
    assert not kept.files.exists("/escape")
    assert not kept.files.exists("/tmp/escape")
    assert not Path("/escape").exists()
    kept.files.remove("/tmp/laid")


def test_links_lead_nowhere_outside(kept: Sandbox, canary: Path) -> None:
    kept.exec(f"ln -sf {canary} /tmp/link; ln -sfn / /tmp/root; ln -sf /proc/1/root /tmp/proc-root; true")
    for path in ("/tmp/link", f"/tmp/root{canary}", f"/tmp/proc-root{canary}", f"../../../../../..{canary}"):
        with pytest.raises((NotFound, InvalidRequest)):
            kept.files.read(path)
    with pytest.raises(BastideError):
        kept.files.write("/tmp/root/usr/bin/evil", "x")
    assert not Path("/usr/bin/evil").exists()


def test_a_socket_replaced_by_a_link_is_not_followed(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    """The way from the host in leads to the box's own socket or nowhere: never to another of the host's."""
    if tier != "gvisor":
        pytest.skip("in the namespace tier the socket lies outside: there is nothing to replace")
    sandbox = make(tier=tier)
    control = town.data / "sockets" / "control"
    code = f"cd /run/bastide/sockets && rm -f agent && ln -s {control} agent; ls -l"
    with contextlib.suppress(BastideError):
        sandbox.exec(code)
    with pytest.raises(BastideError):
        sandbox.exec("true")
    assert town.client.services() is not None


def test_fork_bomb_ends_at_its_limit(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    sandbox = make(tier=tier, processes=128, memory="512MiB")
    with_limit = sandbox.about["limits"]["processes"]
    if with_limit == "unlimited":
        pytest.skip("no control group for processes is ours here")
    began = time.monotonic()
    with contextlib.suppress(BastideError):
        sandbox.exec("bomb() { bomb | bomb & }; bomb; sleep 1", timeout=8)
    assert time.monotonic() - began < 30
    _well(town)


def test_memory_bomb_ends_itself_alone(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    sandbox = make(tier=tier, memory="192MiB")
    try:
        result = sandbox.exec(
            ("python3", "-c", "x = bytearray(2 << 30); x[::4096] = b'1' * len(x[::4096])"), timeout=30
        )
        assert result.exit_code != 0
    except BastideError:
        pass  # in gVisor its kernel may be what the host's kernel ends: the sandbox is gone, nothing else
    _well(town)


def test_a_disk_that_is_full_is_full_inside_only(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    sandbox = make(tier=tier, disk="16MiB", memory="512MiB")
    result = sandbox.exec("dd if=/dev/zero of=$HOME/fill bs=1M count=64 2>&1; ls -l $HOME/fill")
    assert "No space left" in result.stdout
    assert sandbox.files.stat("~/fill").size_bytes <= 16 << 20
    with pytest.raises(InvalidRequest, match="disk is full"):
        sandbox.files.write("~/more", b"x" * 1_000_000)
    _well(town)


def test_descriptors_run_out_inside_only(kept: Sandbox, town: House) -> None:
    code = "import os\nfds=[]\ntry:\n    while True: fds.append(os.open('/dev/null', 0))\nexcept OSError as e: print(len(fds) < 100000, e)"
    assert kept.exec(("python3", "-c", code)).stdout.startswith("True")
    assert kept.exec("echo still").stdout == "still\n"


def test_a_flood_of_output_does_not_fill_the_host(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    sandbox = make(tier=tier)
    flood = sandbox.spawn("yes floodfloodflood")
    sandbox.exec("sleep 1.5; echo 'to the log' > /proc/1/fd/2 2>/dev/null; true")
    flood.kill()
    assert len(flood.wait().stdout) <= 2 << 20
    logged = sum(file.stat().st_size for file in (town.data / "logs").iterdir())
    assert logged < 4 << 20


def test_a_storm_of_zombies_is_reaped(kept: Sandbox) -> None:
    times = 200 if os.environ.get("BASTIDE_THOROUGH") else 50  # gVisor takes 50 ms for each
    code = f"import os\nfor _ in range({times}):\n    if os.fork() == 0:\n        if os.fork() == 0: os._exit(0)\n        os._exit(0)\n    os.wait()"
    kept.exec(("python3", "-c", code))
    states = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    assert int(kept.exec(states).stdout) < 10


def _well(town: House) -> None:
    """The host is: Bastide answers, and another sandbox does."""
    with Sandbox.create(client=town.client, tier="namespace") as other:
        assert other.exec("echo well").stdout == "well\n"
    assert socket.gethostname()
