"""Everything at once, from many threads, on the same sandboxes: no call fails but by name, and nothing is left over."""

from __future__ import annotations

import collections
import contextlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from house import House
from test_sandbox_kill import THOROUGH, holds, left_over

from bastide import Sandbox
from bastide.domain.errors import BastideError, Unsupported


def test_a_storm_of_calls(tmp_path: Path) -> None:
    house = House(tmp_path / "house", "--memory", "1GiB", "--sandbox-memory", "16GiB").start()
    errors: collections.Counter[str] = collections.Counter()
    done: collections.Counter[str] = collections.Counter()
    try:
        holds(house, "gvisor")
        shared = [
            Sandbox.create(client=house.client, tier=tier, timeout=600) for tier in ("namespace", "gvisor", "gvisor")
        ]
        until_s = time.monotonic() + (40 if THOROUGH else 6)

        def make(chance: random.Random) -> None:
            with Sandbox.create(client=house.client, tier=chance.choice(["namespace", "gvisor"])) as fresh:
                assert fresh.exec("echo hi").stdout == "hi\n"

        def fork(sandbox: Sandbox) -> None:
            for one in sandbox.fork(1):
                assert one.exec("echo forked").stdout == "forked\n"
                one.kill()

        def kill_in_use() -> None:
            doomed = Sandbox.create(client=house.client, tier="namespace")
            killer = threading.Thread(target=doomed.kill)
            killer.start()
            with contextlib.suppress(BastideError):
                doomed.exec("sleep 60")
            killer.join()

        def write_and_read(sandbox: Sandbox, number: int) -> None:
            sandbox.files.write(f"file-{number}", b"x" * 10_000)
            assert sandbox.files.read(f"file-{number}") == b"x" * 10_000

        def work(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < until_s:
                sandbox = chance.choice(shared)
                acts: dict[str, Callable[[], object]] = {
                    "exec": lambda s=sandbox: s.exec("echo hi").stdout == "hi\n" or errors.update(["exec said else"]),
                    "code": lambda s=sandbox: s.run_code("1 + 1", context=str(number)),
                    "files": lambda s=sandbox: write_and_read(s, number),
                    "pause": sandbox.pause,
                    "fork": lambda s=sandbox: fork(s),
                    "egress": lambda s=sandbox: s.set_egress(chance.choice([[], ["example.org"]])),
                    "lifetime": lambda s=sandbox: s.set_timeout(600),
                    "too long": lambda s=sandbox: s.exec("sleep 60", timeout=0.1),
                    "make": lambda: make(chance),
                    "kill": kill_in_use,
                }
                name = chance.choice(list(acts))
                try:
                    acts[name]()
                    done[name] += 1
                except Unsupported:
                    assert sandbox.about["tier"] == "namespace"
                except Exception as error:
                    errors[f"{name}: {type(error).__name__}: {error}"] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors.most_common(5)
        assert sum(done.values()) > 20
        for sandbox in shared:
            assert sandbox.exec("echo alive").stdout == "alive\n"
            sandbox.kill()
        assert Sandbox.list(client=house.client) == ()
    finally:
        house.end()
    assert left_over(house) == {"processes": [], "groups": [], "mounts": [], "files": []}


def test_saving_waits_for_calls_and_says_so(tmp_path: Path) -> None:
    house = House(tmp_path / "house", "--memory", "1GiB").start()
    try:
        holds(house, "gvisor")
        with Sandbox.create(client=house.client, tier="gvisor", timeout=600) as sandbox:
            results = []
            running = threading.Thread(target=lambda: results.append(sandbox.exec("sleep 1; echo whole").stdout))
            running.start()
            while not sandbox.processes() and sandbox.metrics()["processes"] < 2:
                pass
            sandbox.snapshot("waits")
            running.join()
            assert results == ["whole\n"]
            longer = threading.Thread(target=lambda: results.append(sandbox.exec("sleep 8; echo also").stdout))
            longer.start()
            while sandbox.exec("pgrep -f 'sleep 8' || true").stdout == "":
                pass
            with pytest.raises(BastideError, match="under way"):
                sandbox.pause()
            longer.join()
            assert results[1] == "also\n"
    finally:
        house.end()


def test_cold_ones_are_ready_when_they_say_so(tmp_path: Path) -> None:
    """With no spares, a question meets an agent that has only just begun to listen."""
    house = House(tmp_path / "house", "--memory", "1GiB", "--sandbox-spares", "0").start()
    try:
        holds(house, "namespace")
        for _ in range(200 if THOROUGH else 30):
            with Sandbox.create(client=house.client, tier="namespace") as sandbox:
                assert sandbox.exec("echo ready").stdout == "ready\n"
    finally:
        house.end()
