"""Deep sleep where the tier can save processes: an app goes on with its memory, its key and its volumes, or starts anew, never half."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_town import Town
from escapes import ATTEMPTS
from house import until
from test_app_kill import keeper_of

from bastide.adapters.isolation.tree import children, descendants
from bastide.domain.isolation import Tier
from bastide.wiring.isolation import examined
from bastide.wiring.places import Places

COUNTER = """
import http.server, json, os, urllib.request
count = 0
blob = os.urandom(8_000_000)
import hashlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        told = {"count": count, "sum": hashlib.sha256(blob).hexdigest(), "token": os.environ.get("API_TOKEN"), "key": os.environ["BASTIDE_API_KEY"]}
        if self.path == "/models":
            asked = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/models", headers={"Authorization": "Bearer " + os.environ["BASTIDE_API_KEY"]})
            told["models"] = urllib.request.urlopen(asked).status
        body = json.dumps(told).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the host's that anybody may read, if they can see it."""
    file = tmp_path_factory.mktemp("canary") / "canary"
    file.write_text("canary")
    for folder in (file, *file.parents[:4]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    return file


def deployed(town: Town, name: str, tier: str, **spec: object) -> None:
    if tier == "namespace" and not keeps_namespace():
        pytest.skip("the namespace tier can't save processes here: CRIU does not hold")
    end = town.deploy(name, {"main.py": COUNTER}, isolation=tier, **spec)
    if end["failed"]:
        assert "does not hold on this machine" in end["reason"], end
        pytest.skip("the gvisor tier does not hold here")


def some(count: int, *words: str) -> tuple[str, ...]:
    """So many in `make test`, all of them in `make test-isolation`."""
    return words if os.environ.get("BASTIDE_THOROUGH") else words[:count]


@functools.cache
def keeps_namespace() -> bool:
    """Whether CRIU was proven here; found out once."""
    return next(report for report in examined() if report.tier is Tier.NAMESPACE).pauses


@pytest.fixture(params=["namespace", "gvisor"])
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def kept(town: Town) -> list[Path]:
    return list((town.house.data / "isolation/apps/kept").glob("*/whole"))


def why_awake(town: Town, name: str) -> str:
    """What is told of its newest wake."""
    found = [one for one in town.house.client.why(name)["decisions"] if one["what"] == "awake"]
    return str(max(found, key=lambda one: one["at"])["reason"])


def test_it_goes_on_where_it_left_off(town: Town, tier: str) -> None:
    name = f"counter-{tier}"
    deployed(town, name, tier)
    first = town.json(name)
    for round_ in range(3):
        town.house.client.sleep(name, "deep")
        assert kept(town), "its processes are on disk"
        seen = town.json(name, "/models" if round_ == 1 else "/")
        assert seen["count"] == first["count"] + round_ + 1 and seen["sum"] == first["sum"]
        assert seen["key"] == first["key"] and seen.get("models", 200) == 200
        assert not kept(town), "awake again, nothing of its memory stays on disk"
    until(lambda: "brought back with its processes" in why_awake(town, name))


def test_a_changed_secret_makes_it_start_anew(town: Town, tier: str) -> None:
    name = f"secretive-{tier}"
    town.house.client.set_secret("api-token", "before")
    deployed(town, name, tier, secrets=["api-token"])
    first = town.json(name)
    town.house.client.sleep(name, "deep")
    town.house.client.set_secret("api-token", "after")
    seen = town.json(name)
    assert seen["token"] == "after" and seen["count"] == 1 and seen["key"] != first["key"] and not kept(town)
    until(lambda: "started anew, for what it was told no longer holds" in why_awake(town, name))


def test_a_removed_secret_refuses_its_start(town: Town, tier: str) -> None:
    """As a cold start would be refused: it does not go on with what it may no longer know."""
    name = f"deprived-{tier}"
    town.house.client.set_secret("lent-token", "before")
    deployed(town, name, tier, secrets=["lent-token"])
    town.house.client.sleep(name, "deep")
    assert kept(town)
    town.house.client.remove_secret("lent-token")
    status, _, body = town.ask(name)
    assert status == 503 and b"secret 'lent-token' is not set" in body, (status, body)
    assert not kept(town), "what still holds the old value is gone"


def damage(image: Path, how: str) -> None:
    """Of what is kept: a file cut short, the largest alone, one gone, or one of the same length that holds something else."""
    files = sorted(image.iterdir(), key=lambda file: file.stat().st_size)
    if how == "all cut":
        for file in files:
            os.truncate(file, min(1000, file.stat().st_size))
    elif how == "memory cut":
        os.truncate(files[-1], 100)
    elif how == "gone":
        files[0].unlink()
    elif how == "changed":
        some_of_it = files[len(files) // 2]
        some_of_it.write_bytes(bytes(byte ^ 0x55 for byte in some_of_it.read_bytes()))
    else:  # its length alone is compared: it is memory
        files[-1].write_bytes(b"\x55" * files[-1].stat().st_size)


@pytest.mark.parametrize("how", some(2, "memory cut", "memory spoilt", "all cut", "gone", "changed"))
def test_what_can_t_be_brought_back_starts_anew(town: Town, tier: str, how: str) -> None:
    name = f"torn-{tier}"
    deployed(town, name, tier)
    first = town.json(name)
    town.house.client.sleep(name, "deep")
    damage(kept(town)[0].parent / "image", how)
    seen = town.json(name)
    assert seen["count"] == 1 and seen["sum"] != first["sum"] and not kept(town)
    until(lambda: "started anew (" in why_awake(town, name))
    assert "no longer holds" not in why_awake(town, name)


@pytest.fixture
def counted(rough_town: Town, tier: str) -> Iterator[Town]:
    deployed(rough_town, "counter", tier)
    yield rough_town


def restarted(town: Town, what: str) -> None:
    if what == "agent":
        town.house.kill(town.house.pid("agent"))
    elif what == "bastide":
        town.house.end()
        town.house.start()
    else:  # as a machine that is switched off does it: nobody is told
        assert town.house.process is not None
        town.house.kill(town.house.process.pid)
        town.house.start()


def answered(town: Town, name: str) -> dict[str, Any]:
    """Once somebody answers again."""
    found: list[dict[str, Any]] = []

    def asks() -> bool:
        with contextlib.suppress(OSError, AssertionError, http.client.HTTPException):
            found.append(town.json(name))
        return bool(found)

    until(asks)
    return found[0]


@pytest.mark.parametrize("what", some(1, "bastide, killed", "agent", "bastide"))
def test_it_goes_on_after_a_restart(counted: Town, what: str) -> None:
    first = counted.json("counter")
    counted.house.client.sleep("counter", "deep")
    restarted(counted, what)
    seen = answered(counted, "counter")
    assert (seen["count"], seen["sum"], seen["key"]) == (2, first["sum"], first["key"]) and not kept(counted)
    assert counted.json("counter", "/models")["models"] == 200, "its key still holds"
    counted.house.client.sleep("counter", "deep")  # and once more, with what is known of what it was told
    restarted(counted, what)
    assert answered(counted, "counter")["count"] == 4


@pytest.mark.parametrize("change", some(2, "secret", "image", "boot", "taken", "undeclared"))
def test_after_a_restart_only_what_is_the_same_goes_on(rough_town: Town, tier: str, change: str) -> None:
    town, house = rough_town, rough_town.house
    house.client.set_secret("api-token", "before")
    deployed(town, "counter", tier, secrets=["api-token"])
    first = town.json("counter")
    house.client.sleep("counter", "deep")
    folder = kept(town)[0].parent
    if change == "secret":
        house.client.set_secret("api-token", "after")
    house.end()
    assert kept(town), "a stopped Bastide leaves it where it is"
    assert b"before" not in (folder / "whole").read_bytes(), "what it was told is there as digests alone"
    if change == "image":
        largest = max(folder.joinpath("image").iterdir(), key=lambda file: file.stat().st_size)
        os.truncate(largest, largest.stat().st_size - 1)
    elif change == "boot":
        about = json.loads((folder / "whole").read_text())
        (folder / "whole").write_text(json.dumps({**about, "boot": "another"}))
    elif change == "taken":
        (folder / "taken").touch()
    elif change == "undeclared":
        folder.rename(folder.with_name("app-of-nobody"))
    house.start()
    if change != "secret":
        assert not list(folder.parent.iterdir()), "what can't be believed is gone at once"
    seen = answered(town, "counter")
    assert seen["count"] == 1 and seen["sum"] != first["sum"] and seen["key"] != first["key"] and not kept(town)
    assert seen["token"] == ("after" if change == "secret" else "before")
    if change != "undeclared":  # of that one nothing is known
        until(lambda: "started anew" in why_awake(town, "counter"))


PROBE = """
import http.server, json, os, subprocess, sys
WALLS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        lines = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        self.answer(json.dumps({name: lines[name].split() for name in WALLS if name in lines}))
    def do_POST(self):
        code = self.rfile.read(int(self.headers["content-length"])).decode()
        ran = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        self.answer(json.dumps({"said": ran.stdout}))
    def answer(self, text):
        body = text.encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def host_sees(town: Town, name: str) -> dict[str, list[str]]:
    """The walls of an app's process by the host's own eyes: namespaces that are not ours, and what the kernel says of it."""
    own = Places(town.house.data).private_name
    groups = list(Path("/sys/fs/cgroup").glob(f"*/bastide/{own}-apps/app-*/cgroup.procs"))
    told: dict[str, list[str]] = {}
    for pid in {int(line) for folder in groups for line in folder.read_text().split()}:
        with contextlib.suppress(OSError):
            if f"BASTIDE_SERVICE={name}".encode() not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                continue
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            told = {word: status[word].split() for word in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Uid", "Gid")}
            told["spaces"] = [
                kind for kind in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
                if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
            ]  # fmt: skip
            told["groups"] = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return told


def test_walls_stand_in_a_box_that_was_brought_back(town: Town, canary: Path) -> None:
    """The escape suite of sandboxes, run by an app of the namespace tier after its deep sleep."""
    name = "walls"
    if not keeps_namespace():
        pytest.skip("the namespace tier can't save processes here: CRIU does not hold")
    assert not town.deploy(name, {"main.py": PROBE}, isolation="namespace", resources={"memory": "512MiB"})["failed"]
    before, outside = town.json(name), host_sees(town, name)
    assert before["Seccomp"] == ["2"] and before["NoNewPrivs"] == ["1"] and outside["Seccomp"] == ["2"]
    town.house.client.sleep(name, "deep")
    assert kept(town)
    assert town.json(name) == before and host_sees(town, name) == outside
    assert not kept(town)
    for attempt in ATTEMPTS:
        program = attempt.program.replace("CANARY", str(canary)).replace("HOST_PID", str(os.getpid()))
        program = program.replace("DATA", str(town.house.data)).replace(", 8787", "")  # its own way to the gateway
        said = town.json(name, method="POST", body=program.encode())["said"]
        assert "GOT" not in said, f"{attempt.name}: {said}"
        assert "TRIED" in said, f"the attempt did not run: {said}"


@pytest.mark.parametrize(("word", "begun"), [("dump", 1), ("restore", 1), ("restore", 2)])
def test_a_guest_killed_at_its_work_means_a_cold_start(town: Town, word: str, begun: int) -> None:
    """`begun`: how many of it there are by then. A second one is a process that it is bringing back: that waits for it."""
    name = f"killed-{word}-{begun}"
    if not keeps_namespace():
        pytest.skip("the namespace tier can't save processes here: CRIU does not hold")
    assert not town.deploy(name, {"main.py": COUNTER.replace("8_000_000", "120_000_000")})["failed"]
    first = town.json(name)
    keeper = keeper_of(int(town.house.instance(name)["pid"]))
    killed = threading.Event()
    killer = threading.Thread(target=_kill_criu, args=(keeper, children(keeper), word, begun, killed))
    killer.start()
    try:
        town.house.client.sleep(name, "deep")
        assert bool(kept(town)) == (word == "restore")
        if word == "dump":
            until(lambda: _slept_unkept(town, name))  # decisions are written down a moment later
        seen = town.json(name)
    finally:
        killed.set()
        killer.join()
    assert seen["count"] == 1 and seen["sum"] != first["sum"] and not kept(town)
    assert not list((town.house.data / "isolation/apps/bundles").glob("*/image/*")), "nothing of its memory stays"


def _slept_unkept(town: Town, name: str) -> bool:
    slept = [one["reason"] for one in town.house.client.why(name)["decisions"] if one["what"] == "sleep deep"]
    return any("could not be kept, so it will start anew" in reason for reason in slept)


def _kill_criu(keeper: int, before: list[int], word: str, begun: int, over: threading.Event) -> None:
    """The CRIU that is seen at this work below what its keeper has begun since: few enough to be looked at all the time."""
    while not over.is_set():
        new = [child for child in children(keeper) if child not in before]
        seen = [pid for child in new for pid in descendants(child) if _is_criu(pid, word)]
        if len(seen) >= begun:
            with contextlib.suppress(OSError):
                os.kill(seen[0], signal.SIGKILL)
            return


def _is_criu(pid: int, word: str) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[0] == b"criu" and word.encode() in words
    return False
