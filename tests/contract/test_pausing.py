"""The contract of tiers that save processes, on each that can here: what comes back is what was, behind the walls that were."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bastide.adapters.isolation.folders import interpreter
from bastide.adapters.isolation.tree import descendants
from bastide.adapters.runtime.boxed import Boxes
from bastide.adapters.runtime.http import ask
from bastide.adapters.runtime.process import ProcessRuntime
from bastide.domain.errors import BastideError, StateLost
from bastide.domain.instances import LaunchSpec, Serving
from bastide.domain.isolation import Box, Limits, Mount, Scratch, Tier
from bastide.domain.lifecycle import Rung
from bastide.engines.port import Ask
from bastide.inside import DIRECTORY, SHOWN_AT, arguments
from bastide.wiring.isolation import dissolve, isolations
from bastide.wiring.places import Places

INSTANCE = "default.kept.1.0"
# Memory, threads, an orphan that is its own session, files in memory, one that is deleted but open, a pipe, a connection to itself.
SUBJECT = r"""
import http.server, json, os, socket, subprocess, sys, threading
token, count = os.urandom(16).hex(), 0
blob = os.urandom(4_000_000)
os.makedirs("/tmp/deep/er", mode=0o750); os.symlink("kept", "/tmp/deep/link")
open("/tmp/deep/kept", "w").write(token); os.chmod("/tmp/deep/kept", 0o640)
open("/scratch/kept", "w").write(token); open("/dev/shm/kept", "w").write(token)
gone = open("/tmp/gone", "w+"); os.unlink("/tmp/gone"); gone.write(token); gone.flush()
there, back = os.pipe(); os.write(back, token.encode())
turns = threading.Semaphore(0)
orphan = int(subprocess.run(["/bin/sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, text=True).stdout)
while open(f"/proc/{orphan}/comm").read() != "sleep\n": pass
for _ in range(8):  # their numbers are higher than any process's
    threading.Thread(target=lambda: [turns.acquire() for _ in iter(int, 1)], daemon=True).start()
print("subject began", flush=True)
WALLS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups")
def walls(pid):
    lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status").read().splitlines())
    return {name: lines[name].split() for name in WALLS if name in lines}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        gone.seek(0)
        if self.path == "/double":  # an orphan that ends: somebody must bury it
            subprocess.run(["/bin/sh", "-c", "setsid true & "], stdin=subprocess.DEVNULL)
        zombies = [n for n in os.listdir("/proc") if n.isdigit() and open(f"/proc/{n}/stat").read().rpartition(")")[2].split()[0] == "Z"]
        told = {
            "count": count, "token": token, "blob": hash(blob), "pid": os.getpid(), "parent": os.getppid(), "threads": threading.active_count(),
            "files": [open(name).read() for name in ("/tmp/deep/kept", "/tmp/deep/link", "/scratch/kept", "/dev/shm/kept")],
            "mode": [os.stat(name).st_mode for name in ("/tmp/deep/kept", "/tmp/deep/er")], "gone": gone.read(),
            "orphan": open(f"/proc/{orphan}/comm").read(), "walls": walls("self"), "agent": walls(os.getppid()), "zombies": len(zombies),
            "network": [l.split(":")[0].strip() for l in open("/proc/net/dev").read().splitlines()[2:]], "host": socket.gethostname(),
            "read_only": not os.access("/usr", os.W_OK), "secret": os.environ.get("SECRET"), "cwd": os.getcwd(),
        }
        print("subject answered", count, flush=True)
        body = json.dumps(told).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""
LOOK_S_MAX = 20.0
Test = Callable[["Bench"], Awaitable[None]]


def until(condition: Callable[[], object]) -> None:
    """Look until it is so; on a thread, for the loop goes on meanwhile."""
    deadline = time.monotonic() + LOOK_S_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.001)


class Bench:
    """A runtime with one box of a tier that saves."""

    def __init__(self, runtime: ProcessRuntime, boxes: Boxes, places: Places, tier: Tier) -> None:
        self.runtime, self.boxes, self.places, self.tier = runtime, boxes, places, tier
        self.log = places.data / "kept.log"

    def launch(self) -> LaunchSpec:
        program, needs = interpreter()
        box = Box(
            name="app-kept",
            tier=self.tier,
            arguments=arguments((program,)),
            environment=(("PATH", "/usr/bin:/bin"), ("HOME", "/home/user")),
            mounts=(*(Mount(need, need) for need in needs), Mount(str(DIRECTORY), SHOWN_AT)),
            scratch=(Scratch("/scratch", 1 << 20),),
            limits=Limits(),
            listens=("agent", "app"),
            hostname="kept",
        )
        serving = Serving((program, "-I", "-S", "-c", SUBJECT), "/tmp", 8080, (("SECRET", "told in confidence"),))
        state = str(self.places.isolation / "apps" / "kept" / box.name)
        return LaunchSpec(
            INSTANCE,
            "app",
            "",
            "",
            log=str(self.log),
            state_directory=state,
            box=box,
            serving=serving,
            start_s_max=30.0,
        )

    async def start(self) -> LaunchSpec:
        launch = self.launch()
        await self.runtime.start(launch, lambda text, fraction: None)
        return launch

    async def told(self, path: str = "/") -> dict[str, Any]:
        status, body = await ask(self.runtime.address(INSTANCE), "", Ask("GET", path), 10.0)
        assert status == 200
        found: dict[str, Any] = json.loads(body)
        return found

    async def logged(self, line: str) -> None:
        """It still says what it says; the keeper hears it a moment later."""
        await asyncio.to_thread(until, lambda: line in self.log.read_text().splitlines())

    def spaces(self) -> dict[str, str]:
        """Of which kinds the namespaces of the app are another's than ours, by the host's own eyes."""
        launch, identity = self.launch(), self.runtime.identity(INSTANCE)
        assert launch.box is not None and identity is not None
        box, isolation = self.boxes.of(launch)
        kinds = ("user", "pid", "mnt", "net", "ipc", "uts")
        ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
        for last in reversed(isolation.pids(box, identity.pid)):
            with contextlib.suppress(OSError):  # what it had run may just have ended
                theirs = [os.readlink(f"/proc/{last}/ns/{kind}") for kind in kinds]
                return {kind: "ours" if a == b else "own" for kind, a, b in zip(kinds, ours, theirs, strict=True)}
        raise AssertionError("nobody is in it")

    def guest_works(self, of: str) -> bool:
        """Whether the program that saves, or brings back, is seen at it, below us: others on this machine may be at it too."""
        word = {"saving": (b"dump", b"checkpoint"), "bringing back": (b"restore",)}[of]
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[0] in (b"criu", b"/runsc", b"runsc") and any(one in words for one in word):
                    return True
        return False

    async def nothing_left(self) -> None:
        await self.boxes.cleared()
        bundles = self.places.isolation / "apps" / "bundles"
        assert not bundles.exists() or not list(bundles.iterdir())
        assert not list(Path("/sys/fs/cgroup").glob(f"*/bastide/{self.places.private_name}-apps/app-*"))
        assert not [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.places.data) in line]


@asynccontextmanager
async def bench(tier: Tier, folder: Path) -> AsyncIterator[Bench]:
    places = Places(folder)
    found = isolations(places, "apps")[0]
    if not getattr(found.get(tier), "pauses", False):
        pytest.skip(f"the {tier.value} tier saves no processes here")
    boxes = Boxes(lambda: found)
    runtime = ProcessRuntime(str(folder / "keeper"), {}, boxes)
    try:
        yield Bench(runtime, boxes, places, tier)
    finally:
        await runtime.close(end_engines=True)
        dissolve(places, "apps")


@pytest.fixture(params=[Tier.NAMESPACE, Tier.GVISOR], ids=lambda tier: str(tier.value))
def on(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def main() -> None:
            async with bench(request.param, tmp_path) as made:
                await test(made)

        asyncio.run(main())

    return run


def test_what_comes_back_is_what_was_behind_the_walls_that_were(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        launch = await b.start()
        before, spaces = await b.told(), b.spaces()
        for count in range(2, 5):
            await b.runtime.sink(INSTANCE, Rung.DEEP)
            assert b.runtime.identity(INSTANCE) is None and b.runtime.keeps(launch)
            kept = Path(launch.state_directory)
            assert kept.stat().st_mode & 0o077 == 0, "it holds memory: for its owner alone"
            await b.nothing_left()
            await b.runtime.start(launch, lambda text, fraction: None)
            assert not kept.exists(), "awake again, nothing of its memory stays"
            after = await b.told("/double" if count == 2 else "/")
            assert after == {**before, "count": count} | {"zombies": after["zombies"]}
            assert b.spaces() == spaces
            await b.logged(f"subject answered {count}")
        assert (await b.told())["zombies"] == 0
        await b.runtime.stop(INSTANCE, 2.0)
        await b.nothing_left()

    on(test)


def test_what_is_torn_is_said_to_be_lost_and_leaves_nothing(on: Callable[[Test], None]) -> None:
    async def test(b: Bench) -> None:
        launch = await b.start()
        token = (await b.told())["token"]
        await b.runtime.sink(INSTANCE, Rung.DEEP)
        for file in Path(launch.state_directory, "image").iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(StateLost):
            await b.runtime.start(launch, lambda text, fraction: None)
        await b.nothing_left()
        assert not Path(launch.state_directory).exists()
        await b.runtime.start(launch, lambda text, fraction: None)
        told = await b.told()
        assert told["count"] == 1 and told["token"] != token

    on(test)


@pytest.mark.parametrize("of", ["saving", "bringing back"])
def test_an_end_in_the_midst_of_it_leaves_nothing(on: Callable[[Test], None], of: str) -> None:
    """The keeper is told to quit while processes are written down, or brought back."""

    async def test(b: Bench) -> None:
        launch = await b.start()
        if of == "bringing back":
            await b.runtime.sink(INSTANCE, Rung.DEEP)
        doing: asyncio.Task[Any] = asyncio.create_task(
            b.runtime.sink(INSTANCE, Rung.DEEP)
            if of == "saving"
            else b.runtime.start(launch, lambda text, fraction: None)
        )
        await asyncio.to_thread(until, lambda: doing.done() or b.guest_works(of))
        doing.cancel()
        await b.runtime.close(end_engines=True)
        with contextlib.suppress(BastideError, OSError, asyncio.CancelledError):
            await doing
        await b.nothing_left()

    on(test)


def test_a_start_that_nobody_waits_for_any_more_leaves_nothing(on: Callable[[Test], None]) -> None:
    """The keeper has begun it, and whoever asked for it is gone before that is heard."""

    async def test(b: Bench) -> None:
        ask, begun = b.runtime._keeper.ask, asyncio.Event()

        async def unheard(operation: str, *asked: Any, **rest: Any) -> Any:
            answer = await ask(operation, *asked, **rest)
            if operation == "start":
                begun.set()
                await asyncio.Event().wait()
            return answer

        b.runtime._keeper.ask = unheard  # type: ignore[method-assign]
        doing = asyncio.create_task(b.start())
        await begun.wait()
        doing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doing
        b.runtime._keeper.ask = ask  # type: ignore[method-assign]
        await b.nothing_left()
        await b.start()
        assert (await b.told())["count"] == 1

    on(test)
