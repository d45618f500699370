"""A Bastide to measure: started as a user starts it, on loopback, in a directory of its own, ended whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bastide.adapters.link.unix import connect
from bastide.domain.errors import BastideError
from bastide.sdk.client import Client
from bastide.wiring.places import Places
from bastide.wiring.running import probe, read_running
from benchmarks.instruments import Stream

START_S_MAX = 60.0
STOP_S_MAX = 60.0
COMMAND = (sys.executable, "-m", "bastide.wiring.main")


class House:
    """One running Bastide."""

    def __init__(self, data: Path, supervisor: subprocess.Popen[bytes]) -> None:
        self.data, self.supervisor = data, supervisor
        self.places = Places(data)
        self.client = Client.discover(data)

    def deploy(self, text: str) -> list[float]:
        """Declare, and wait until every service is ready. Raises RuntimeError with the reason of the first that failed.

        Returns when each was seen to be ready, in seconds from the beginning.
        """
        began_s = time.perf_counter()
        ready_s: dict[str, float] = {}
        names = [service["name"] for service in self.client.deploy(text)["services"]]
        last: dict[str, Any] = {}
        for line in self.client.progress(names):
            last[line["name"]] = line
            if line["phase"] not in ("deploying", "pending"):
                ready_s.setdefault(line["name"], time.perf_counter() - began_s)
        for line in last.values():
            if line["failed"] or not line["done"]:
                raise RuntimeError(f"{line['name']} was not deployed: {line['reason']}")
        return sorted(ready_s.values())

    def line(self) -> Stream:
        """A new connection to the gateway."""
        parts = urlsplit(self.client.url)
        return Stream((str(parts.hostname), int(parts.port or 0)), self.client.key)

    def engine(self, instance: str) -> Stream:
        """A new connection to an awake instance's own socket: the engine alone. The agent tells its secret."""
        answer = asyncio.run(self._acquire(instance))
        return Stream(answer["address"], answer["secret"])

    async def _acquire(self, instance: str) -> dict[str, Any]:
        async def ignore(*_: Any) -> dict[str, Any]:
            return {}

        link = await connect(self.places.agent_socket, {"role": "benchmark"}, ignore)
        reading = asyncio.create_task(link.run())
        try:
            return await link.call("acquire", {"instance": instance})
        finally:
            await link.close()
            await reading

    def instance(self, service: str) -> dict[str, Any]:
        """The first instance of a service, as `ps` shows it."""
        found: dict[str, Any] = self.client.service(service)["instances"][0]
        return found

    def awake_pid(self, service: str) -> int:
        """The process of its first instance, once the report on it has come (reports may be a moment late)."""
        while True:
            seen = self.instance(service)
            if seen["phase"] == "awake" and seen["pid"]:
                return int(seen["pid"])
            time.sleep(0.01)

    def sleep(self, service: str, rung: str) -> dict[str, Any]:
        """Put it to sleep; where it is just being checked, ask again."""
        for _ in range(200):
            try:
                answer: dict[str, Any] = self.client.sleep(service, rung)
                return answer
            except BastideError as error:
                trouble = error
                time.sleep(0.05)
        raise trouble

    def put_off(self, service: str) -> dict[str, Any]:
        """To `off`, which nobody can ask for: its process is killed while it is frozen, so that nothing is kept."""
        answer = self.sleep(service, "frozen")
        os.kill(int(self.instance(service)["pid"]), signal.SIGKILL)
        while self.instance(service)["phase"] != "off":
            time.sleep(0.01)
        answer["instances"][0]["held_bytes"] = 0
        return answer

    def processes(self) -> dict[str, int]:
        """Process ids of everything that is Bastide itself and no engine, by role."""
        running = read_running(self.places)
        assert running is not None
        found = {"supervisor": self.supervisor.pid}
        found |= {entry["role"]: entry["pid"] for entry in running["processes"]}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                # Engines are forks of the keeper with its very command line; the keeper is the agent's child.
                if self.places.keeper_socket.encode() in words and int(stat[1]) == found["agent"]:
                    found["keeper"] = int(folder.name)
        return found

    def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run the command line as a user does."""
        environment = os.environ | {"BASTIDE_DATA": str(self.data)}
        return subprocess.run([*COMMAND, *words], env=environment, capture_output=True, check=True)


@contextlib.contextmanager
def house(work: Path, memory: str = "8GiB", *more: str) -> Iterator[House]:
    """`memory`: the device's budget. `more`: further arguments of `bastide up`."""
    data = Path(tempfile.mkdtemp(prefix="house-", dir=work))
    with (work / "up.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [*COMMAND, "up", "--data", str(data), "--listen", "127.0.0.1:0", "--memory", memory, *more],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_S_MAX
        while True:
            if supervisor.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Bastide did not start; see {work / 'up.log'}")
            with contextlib.suppress(BastideError, OSError):
                found = House(data, supervisor)
                if probe(found.client.url, "/readyz") and found.client.services()["node"]["here"]:
                    break
            time.sleep(0.05)
        yield found
    finally:
        supervisor.send_signal(signal.SIGTERM)
        try:
            supervisor.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
