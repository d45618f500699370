"""Kill -9 between any two steps: nothing that was acknowledged is lost, and nothing is left over."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import House, alive, until

from bastide import Sandbox
from bastide.domain.errors import BastideError, NotFound, Unsupported
from bastide.wiring.places import Places

THOROUGH = bool(os.environ.get("BASTIDE_THOROUGH"))  # `make test-isolation`


def moments(*after_s: float) -> tuple[float, ...]:
    """When to kill: a few in `make test`, all of them in `make test-isolation`."""
    return after_s if THOROUGH else after_s[:2]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "house", "--memory", "1GiB", "--sandbox-memory", "8GiB", "--sandbox-spares", "1").start()
    yield made
    made.end()


def holds(house: House, tier: str) -> None:
    for report in house.client.transport.ask("GET", "/api/v1/templates")["tiers"]:
        if report["tier"] == tier and not report["holds"]:
            pytest.skip(f"the {tier} tier does not hold on this machine: {report['detail']}")


def sandboxes_process(house: House) -> int:
    """The process that serves sandboxes, once it runs."""
    while True:
        for entry in json.loads((house.data / "running.json").read_text())["processes"]:
            if entry["role"] == "sandboxes" and Path(f"/proc/{entry['pid']}").exists():
                return int(entry["pid"])
        threading.Event().wait(0.01)


def kill_sandboxes(house: House) -> None:
    """kill -9, and wait until it is gone: the next one takes up what it left."""
    pid = sandboxes_process(house)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


def patiently(call: Callable[[], object], limit_s: float = 30.0) -> object:
    """While the next process starts, calls may break off: asked again, as a client would."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return call()
        except NotFound:
            raise
        except BastideError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.05)


def left_over(house: House) -> dict[str, list[str]]:
    """What of boxes is on this machine: processes that name this Bastide's directories, groups, mounts, files."""
    name = hashlib.sha256(str(house.data).encode()).hexdigest()[:12]
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            groups = (folder / "cgroup").read_text()
        except OSError:
            continue
        if name in groups:
            processes.append(folder.name)
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/bastide/*{name}*/*") if path.is_dir()]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(house.data) in line]
    bundles = house.data / "isolation" / "sandboxes" / "bundles"
    files = [path.name for path in bundles.iterdir()] if bundles.exists() else []
    sockets = Places(house.data).sockets
    files += [path.name for path in (*(sockets / "s").glob("*"), *(sockets / "e" / "s").glob("*"))]
    return {"processes": processes, "groups": groups, "mounts": mounts, "files": files}


def test_a_sandbox_lives_on_when_what_serves_it_is_killed(house: House) -> None:
    holds(house, "namespace")
    sandbox = Sandbox.create(client=house.client, tier="namespace", timeout=600, env={"WORD": "kept"})
    sandbox.files.write("note", "before")
    process = sandbox.spawn("i=0; while true; do i=$((i+1)); echo $i > ~/count; sleep 0.02; done")
    kill_sandboxes(house)
    assert patiently(lambda: sandbox.files.read("note")) == b"before"
    assert sandbox.exec("echo $WORD").stdout == "kept\n"
    first = int(sandbox.files.read("count") or b"0")
    assert int(sandbox.exec("sleep 0.2; cat ~/count").stdout) > first
    assert sandbox.process(process.number).number == process.number
    sandbox.kill()
    with pytest.raises(NotFound):
        sandbox.refresh()


@pytest.mark.parametrize("tier", ["namespace", "gvisor"])
def test_what_a_sandbox_is_to_know_is_known_whoever_asks_first(house: House, tier: str) -> None:
    """It is told with the first question: also where what serves it was killed before that, and where many ask at once."""
    holds(house, tier)
    sandbox = Sandbox.create(client=house.client, tier=tier, timeout=600, env={"WORD": "kept"})
    kill_sandboxes(house)
    assert patiently(lambda: sandbox.exec("echo $WORD").stdout) == "kept\n"
    other = Sandbox.create(client=house.client, tier=tier, timeout=600, env={"WORD": "known"})
    heard: list[str] = []
    asking = [threading.Thread(target=lambda: heard.append(other.exec("echo $WORD").stdout)) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert heard == ["known\n"] * 8


def frozen(house: House) -> list[str]:
    """Boxes that a control group has stopped."""
    name = hashlib.sha256(str(house.data).encode()).hexdigest()[:12]
    found = []
    for path in Path("/sys/fs/cgroup").glob(f"*/bastide/*{name}*/*/freezer.state"):
        found += [path.parent.name] if path.read_text().strip() == "FROZEN" else []
    for path in Path("/sys/fs/cgroup").glob(f"*{name}*/*/cgroup.freeze"):
        found += [path.parent.name] if path.read_text().strip() == "1" else []
    return found


@pytest.mark.parametrize("tier", ["namespace", "gvisor"])
def test_what_is_frozen_ends_at_once(house: House, tier: str) -> None:
    """On control groups of version 1 a frozen process does not die: a keeper that waited for it waited for ever."""
    holds(house, tier)
    sandbox = Sandbox.create(client=house.client, tier=tier, timeout=600)
    if not sandbox.metrics()["memory_bytes"] or not Path("/sys/fs/cgroup/freezer").exists():
        pytest.skip("no control group of version 1 freezes here")
    until(lambda: frozen(house))  # its spare
    began = time.monotonic()
    house.end()
    assert time.monotonic() - began < 10.0
    assert left_over(house) == {"processes": [], "groups": [], "mounts": [], "files": []}


def test_nothing_is_left_when_all_have_ended(tmp_path: Path) -> None:
    house = House(tmp_path / "house", "--memory", "1GiB", "--sandbox-spares", "2").start()
    try:
        made = [Sandbox.create(client=house.client, tier="namespace", timeout=600) for _ in range(3)]
        assert made[0].exec("true").ok
        for one in made[:2]:
            one.kill()
        kill_sandboxes(house)
        patiently(made[2].refresh)
    finally:
        house.end()
    assert left_over(house) == {"processes": [], "groups": [], "mounts": [], "files": []}


@pytest.mark.parametrize("tier", ["namespace", "gvisor"])
@pytest.mark.parametrize("after_s", moments(0.0, 0.01, 0.03, 0.1))
def test_killed_in_the_middle_of_a_create(house: House, tier: str, after_s: float) -> None:
    holds(house, tier)
    answers: list[object] = []

    def create() -> None:
        try:
            answers.append(Sandbox.create(client=house.client, tier=tier, timeout=600, disk="32MiB"))
        except BastideError as error:
            answers.append(error)

    thread = threading.Thread(target=create)
    thread.start()
    threading.Event().wait(after_s)
    kill_sandboxes(house)
    thread.join()
    there = {one.id for one in patiently(lambda: Sandbox.list(client=house.client))}  # type: ignore[attr-defined]
    if isinstance(answers[0], Sandbox):
        assert answers[0].id in there  # it was acknowledged, so it is there
        assert patiently(lambda: answers[0].exec("echo here")).stdout == "here\n"  # type: ignore[attr-defined]
    records = {file.stem for file in (house.data / "sandboxes" / "records").glob("*.json")}
    assert records == there
    for one in there:
        Sandbox.connect(one, house.client).kill()


@pytest.mark.parametrize("after_s", moments(0.0, 0.06, 0.2, 0.02, 0.12, 0.3))
def test_killed_in_the_middle_of_a_pause(house: House, after_s: float) -> None:
    holds(house, "gvisor")
    sandbox = Sandbox.create(client=house.client, tier="gvisor", timeout=600)
    sandbox.run_code("state = 'remembered'")
    sandbox.files.write("data", b"x" * 100_000)
    told = threading.Thread(target=lambda: _quietly(sandbox.pause))
    told.start()
    threading.Event().wait(after_s)
    kill_sandboxes(house)
    told.join()
    assert patiently(lambda: sandbox.run_code("state")).text == "'remembered'"  # type: ignore[attr-defined]
    assert sandbox.files.read("data") == b"x" * 100_000
    sandbox.kill()
    snapshots = house.data / "sandboxes" / "snapshots"
    assert list(snapshots.iterdir()) == []


@pytest.mark.parametrize("after_s", moments(0.05, 0.3, 0.0, 0.15, 0.5))
def test_killed_in_the_middle_of_a_resume(house: House, after_s: float) -> None:
    holds(house, "gvisor")
    sandbox = Sandbox.create(client=house.client, tier="gvisor", timeout=600)
    sandbox.run_code("state = 'remembered'")
    sandbox.pause()
    assert sandbox.metrics()["state"] == "paused"
    told = threading.Thread(target=lambda: _quietly(sandbox.resume))
    told.start()
    threading.Event().wait(after_s)
    kill_sandboxes(house)
    told.join()
    assert patiently(lambda: sandbox.run_code("state")).text == "'remembered'"  # type: ignore[attr-defined]
    sandbox.kill()


def test_a_snapshot_that_was_acknowledged_survives(house: House) -> None:
    holds(house, "gvisor")
    with Sandbox.create(client=house.client, tier="gvisor", timeout=600, env={"WORD": "inside"}) as sandbox:
        sandbox.run_code("numbers = list(range(1000))")
        snapshot = sandbox.snapshot("mine")
        sandbox.run_code("numbers = None")
        kill_sandboxes(house)
        patiently(sandbox.refresh)
    with Sandbox.create(snapshot.template, client=house.client, timeout=600) as again:
        assert again.run_code("sum(numbers)").text == "499500"
        assert again.exec("echo $WORD").stdout == "inside\n"
        forks = again.fork(2)
        assert [fork.run_code("sum(numbers)").text for fork in forks] == ["499500", "499500"]
        for fork in forks:
            fork.kill()


def test_pause_and_resume_many_times_keep_every_byte(house: House) -> None:
    holds(house, "gvisor")
    times = 50 if THOROUGH else 6
    with Sandbox.create(client=house.client, tier="gvisor", timeout=3600, memory="512MiB") as sandbox:
        sandbox.run_code(
            "import hashlib, os\nheld = bytearray(os.urandom(8 << 20))\n"
            "open('/tmp/file', 'wb').write(held)\nsum0 = hashlib.sha256(held).hexdigest()"
        )
        expected = sandbox.run_code("sum0").text
        for _ in range(times):
            sandbox.pause()
            assert sandbox.run_code("hashlib.sha256(held).hexdigest()").text == expected
        assert sandbox.exec("sha256sum < /tmp/file").stdout.split()[0] in (expected or "")


def test_what_a_tier_can_not_do_is_refused_by_name(house: House) -> None:
    holds(house, "namespace")
    with Sandbox.create(client=house.client, tier="namespace") as sandbox:
        for call in (sandbox.pause, sandbox.snapshot, sandbox.fork):
            with pytest.raises(Unsupported, match="namespace tier can't save"):
                call()


def test_sandboxes_that_can_be_saved_are_there_after_a_restart(house: House) -> None:
    holds(house, "gvisor")
    sandbox = Sandbox.create(client=house.client, tier="gvisor", timeout=3600)
    sandbox.run_code("state = 7")
    house.end()
    house.start()
    again = Sandbox.connect(sandbox.id, house.client)
    assert again.run_code("state").text == "7"
    again.kill()


def kill_all(house: House) -> None:
    """Every process of it at once, as a machine that runs out of memory would."""
    running = json.loads((house.data / "running.json").read_text())
    name = hashlib.sha256(str(house.data).encode()).hexdigest()[:12]
    keepers = subprocess.run(
        ["pgrep", "-f", f"keeper.py .*({name}|{house.data})"], capture_output=True, text=True
    ).stdout.split()
    for pid in [running["pid"], *(entry["pid"] for entry in running["processes"]), *map(int, keepers)]:
        os.kill(pid, signal.SIGKILL)
    assert house.process is not None
    house.process.wait()


def test_the_whole_house_killed_leaves_nothing_for_the_next(house: House) -> None:
    holds(house, "namespace")
    lost = Sandbox.create(client=house.client, tier="namespace", timeout=600)
    assert lost.exec("true").ok
    kill_all(house)
    house.start()
    assert patiently(lambda: Sandbox.list(client=house.client)) == ()
    with Sandbox.create(client=house.client, tier="namespace") as fresh:
        assert fresh.exec("echo fresh").stdout == "fresh\n"
    house.end()
    assert left_over(house)["processes"] == []
    assert left_over(house)["groups"] == []


def test_frozen_boxes_of_one_that_was_killed_and_forgotten_do_not_stay(house: House) -> None:
    """The next Bastide at the same place knows nothing of them, and may never make a box."""
    holds(house, "namespace")
    Sandbox.create(client=house.client, tier="namespace", timeout=600)
    if not Path("/sys/fs/cgroup/freezer").exists():
        pytest.skip("no control group of version 1 freezes here")
    until(lambda: frozen(house))  # its spare
    kill_all(house)
    assert frozen(house)
    shutil.rmtree(house.data)
    house.start()
    try:
        assert left_over(house)["groups"] == []
    finally:
        house.end()
    assert left_over(house) == {name: [] for name in left_over(house)}


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except BastideError as error:
        assert not re.search(r"Traceback", str(error))


def test_a_tier_that_is_gone_takes_nothing_else_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sandboxes wait until it is there again; all else goes on."""
    house = House(tmp_path / "house", "--memory", "1GiB", "--sandbox-spares", "0").start()
    try:
        holds(house, "gvisor")
        kept = Sandbox.create(client=house.client, tier="gvisor", timeout=600)
        kept.run_code("x = 41")
        house.end()
        monkeypatch.setenv("RUNSC_PATH", "/nowhere/runsc")
        house.start()
        assert [one.id for one in Sandbox.list(client=house.client)] == [kept.id]
        again = Sandbox.connect(kept.id, house.client)
        with pytest.raises(Unsupported, match="gvisor tier does not hold"):
            again.exec("true")
        assert Sandbox.create(client=house.client, tier="namespace", timeout=60).exec("true").ok
        house.end()
        monkeypatch.delenv("RUNSC_PATH")
        house.start()
        assert Sandbox.connect(kept.id, house.client).run_code("x + 1").text == "42"
    finally:
        house.end()
