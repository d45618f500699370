"""The Bastide that the demo runs: started as a child, asked through its public doors, measured from /proc, ended whole.

Owns .demo/ (one demo at a time; what it holds is kept for the next run). Must never leave a process behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from bastide.domain.errors import BastideError
from bastide.sdk import Client
from bastide.wiring.places import Places

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
DATA = HOME / "data"
BASTIDE = Path(sys.executable).with_name("bastide")
ROOM = "100MiB"  # for models: of those that declare 40 MiB each, two fit
WAIT_S_MAX = 60.0
PR_SET_PDEATHSIG = 1


class Broken(Exception):
    """The story can't go on. The message says why, and what to do."""


class Town:
    """`with Town() as town`: a Bastide that runs until the end of the block."""

    def __init__(self) -> None:
        self._lock: IO[str] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_s = 0.0
        self.listen = os.environ.get("BASTIDE_LISTEN") or "127.0.0.1:0"
        # Whatever else the user's shell names, the demo talks to its own Bastide, and not through a proxy.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("BASTIDE_")}
        self.environment |= {"BASTIDE_DATA": str(DATA), "NO_COLOR": "1"}

    def __enter__(self) -> Town:
        HOME.mkdir(mode=0o700, exist_ok=True)
        self._lock = open(HOME / "lock", "a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Broken("a demo runs here already; use that one, or end it with Ctrl-C") from None
        # An earlier demo may have been killed a moment ago: its Bastide is told by the kernel, and is on its way out.
        self.until(lambda: not _is_locked(DATA / "lock"), "an earlier demo's Bastide does not end")
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._lock is not None:
            self._lock.close()

    def _start(self) -> None:
        command = [str(BASTIDE), "up", "--data", str(DATA), "--listen", self.listen, "--memory", ROOM]
        began = time.monotonic()
        with open(HOME / "up.log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends this one in order
                preexec_fn=_end_with_parent,
            )
        self.until(self._is_ready, "Bastide was not ready in time; see .demo/up.log")
        self.ready_s = time.monotonic() - began

    def _is_ready(self) -> bool:
        assert self.process is not None
        said = (HOME / "up.log").read_text(errors="replace")
        if self.process.poll() is not None:
            raise Broken(f"`bastide up` ended: {said.strip() or 'it said nothing'}")
        return "Bastide is ready" in said

    def end(self) -> float:
        """End it in order. Returns how long that took."""
        began = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        # A keeper whose agent was ended in its first moments waits for its lease; here nobody will come back for it.
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.until(lambda: not any(map(is_there, left)), f"processes do not end: {left}")
        return time.monotonic() - began

    # --- asking ----------------------------------------------------------------------------------------------------

    def client(self) -> Client:
        return Client.discover(DATA)

    def command(self, *arguments: str) -> list[str]:
        """What `bastide ARGUMENTS` prints. Raises Broken with its error where it fails."""
        done = subprocess.run(
            [str(BASTIDE), *arguments], env=self.environment, capture_output=True, text=True, check=False, cwd=ROOT
        )
        if done.returncode != 0:
            raise Broken(f"`bastide {' '.join(arguments)}` said: {(done.stderr or done.stdout).strip()}")
        return done.stdout.splitlines()

    def forget_earlier_runs(self) -> None:
        """Services and keys of an earlier demo go, so that the story begins at its beginning."""
        client = self.client()
        for service in client.services()["services"]:
            with contextlib.suppress(BastideError):
                client.remove(service["name"])
        self.until(lambda: not client.services()["services"], "services of an earlier demo do not go")
        for key in client.keys()["keys"]:
            if key["name"] == "demo" and key["state"] == "live":
                client.revoke_key(key["id"])

    def instances(self) -> dict[str, dict[str, Any]]:
        """The first instance of every service, by the service's name."""
        return {s["name"]: s["instances"][0] for s in self.client().services()["services"] if s["instances"]}

    def awake_pid(self, name: str) -> int:
        """The process of a service that is awake. What Bastide shows is a few milliseconds old, so it is awaited."""
        found: list[int] = []

        def is_shown() -> bool:
            instance = self.instances()[name]
            found[:] = [instance["pid"] or 0]
            return instance["phase"] == "awake" and resident_bytes(found[0]) > 0

        self.until(is_shown, f"{name} is not shown to be awake")
        return found[0]

    def rungs(self) -> list[dict[str, str]]:
        """What `bastide doctor` found of each rung."""
        findings = json.loads("\n".join(self.command("doctor", "--json")))["findings"]
        return [finding for finding in findings if finding["topic"] == "sleep"]

    # --- measuring -------------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Every process of this Bastide, and everything below them: engines and their keeper outlive whoever began them."""
        children: dict[int, list[int]] = {}
        waiting = [self.process.pid] if self.process is not None and self.process.poll() is None else []
        marks = (str(DATA).encode(), str(Places(DATA).sockets).encode())
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry.name))
                    command = (entry / "cmdline").read_bytes()
                    if b"bastide" in command and any(mark in command for mark in marks):
                        waiting.append(int(entry.name))
        found: dict[int, None] = {}
        while waiting:
            pid = waiting.pop()
            if pid not in found and is_there(pid):
                found[pid] = None
                waiting.extend(children.get(pid, ()))
        return list(found)

    def until(self, is_so: Any, otherwise: str) -> None:
        deadline = time.monotonic() + WAIT_S_MAX
        while not is_so():
            if time.monotonic() > deadline:
                raise Broken(otherwise)
            time.sleep(0.01)


def resident_bytes(pid: int | None) -> int:
    """What the kernel says a process holds in RAM (its RSS); 0 where it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def share_bytes(pid: int) -> int:
    """What a process holds, memory shared with others counted in parts (its PSS); 0 where it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def is_there(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _is_locked(path: Path) -> bool:
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    # Even a demo that is killed leaves nothing behind: the kernel then tells `bastide up` to end.
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
