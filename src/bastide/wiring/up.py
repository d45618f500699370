"""`bastide up`: one Bastide in the foreground. Starts its processes, restarts what dies, ends everything in order.

Holds the data directory's lock and the listening socket, so that connects queue while a killed worker is restarted.
It serves nothing itself and imports little: when it is killed, the others serve on until their lease is over, and the
next `bastide up` takes their place.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import msgspec

from bastide.domain.errors import Conflict, InvalidRequest, Unavailable
from bastide.wiring import leftovers
from bastide.wiring.launch import Launch
from bastide.wiring.listeners import hang_up, listen_at, open_door
from bastide.wiring.places import Places
from bastide.wiring.running import answers, end_keeper, last_line, probe, read_running, start_ticks

READY_S_MAX = 60.0
STOP_S_MAX = 15.0
RESTART_S_MIN = 0.1
RESTART_S_MAX = 5.0
STEADY_S = 30.0
HANG_UP_FROM_S = 1.0  # what dies again and again must not leave those waiting who asked it for something


@dataclass(slots=True)
class _Process:
    role: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    running: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    wait_s: float = RESTART_S_MIN
    restart_at_s: float = 0.0
    restarts: int = 0
    first_asked: tuple[socket.socket, ...] = ()  # started when somebody connects to one of these

    @property
    def is_due(self) -> bool:
        return self.running is None and not self.first_asked


@dataclass(slots=True)
class Supervisor:
    """`say` prints one line to whoever started it; `ready` is called once everything answers."""

    launch: Launch
    places: Places
    say: Callable[[str], None]
    ready: Callable[[Supervisor], None]
    _lock: IO[str] | None = None
    _listener: socket.socket | None = None
    _processes: list[_Process] = field(default_factory=list)
    _stop: bool = False
    _woken: int = -1
    _held: tuple[socket.socket, ...] = ()
    _door: socket.socket | None = None
    _unwritten: bool = False  # running.json is older than what runs

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Returns the exit status. Raises BastideError where it can't begin."""
        os.umask(0o077)
        self.places.make()
        self._take_lock()
        try:
            self._end_orphans()
            self._listen()
            self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, self._told)
            self._start_all()
            self._until_ready()
            if not self._stop:
                self.ready(self)
            self._watch()
            return 0
        finally:
            self._end()

    # --- beginning -------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        try:
            self._lock = open(self.places.lock, "a+")  # noqa: SIM115  held until the process ends
            os.chmod(self.places.lock, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = read_running(self.places)
            where = f" (process {running['pid']}, {running['url']})" if running else ""
            raise Conflict(
                f"a Bastide already runs on {self.places.data}{where}; use it, end it, or choose another --data"
            ) from None
        except OSError as error:
            raise Unavailable(f"{self.places.lock} can't be used: {error.strerror}") from None

    def _end_orphans(self) -> None:
        """Processes of a supervisor that was killed: ours replace them. Engines are adopted, not ended."""
        running = read_running(self.places)
        if running is not None:
            self._end_those(running)
        leftovers.clear(self.places)

    @staticmethod
    def _end_those(running: dict[str, Any]) -> None:
        left = [entry for entry in running.get("processes", []) if start_ticks(entry["pid"]) == entry["start_ticks"]]
        for entry in left:
            # These are killed, not told: told to end, they would take their engines and sandboxes with them.
            number = signal.SIGKILL if entry["role"] in ("agent", "sandboxes") else signal.SIGTERM
            with contextlib.suppress(ProcessLookupError):
                os.kill(entry["pid"], number)
        deadline = time.monotonic() + STOP_S_MAX
        for entry in left:
            while start_ticks(entry["pid"]) == entry["start_ticks"]:
                if time.monotonic() > deadline:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(entry["pid"], signal.SIGKILL)
                time.sleep(0.01)

    def _listen(self) -> None:
        host, _, port = self.launch.listen.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, int(port)))
            listener.listen(1024)
        except OSError as error:
            listener.close()
            why = {98: "another program listens there", 99: "this machine has no such address", 13: "it needs root"}
            raise Unavailable(
                f"can't listen on {self.launch.listen}: {why.get(error.errno or 0, error.strerror)}; "
                "choose another with --listen HOST:PORT"
            ) from None
        self._listener = listener
        if port == "0":  # a free port was asked for; now it is known which
            scheme = urlsplit(self.launch.url).scheme
            actual = f"{host}:{listener.getsockname()[1]}"
            self.launch = msgspec.convert(
                {**msgspec.to_builtins(self.launch), "listen": actual, "url": f"{scheme}://{actual}"}, Launch
            )

    def _start_all(self) -> None:
        assert self._listener is not None
        file = self.places.data / "launch.json"
        file.write_bytes(msgspec.json.encode(self.launch))
        file.chmod(0o600)
        descriptor = self._listener.fileno()
        self._door = open_door(self.places)
        door = self._door.fileno()
        self._processes = [_Process("agent", (str(file),)), _Process("control", (str(file),))]
        self._processes += [
            _Process("gateway", (str(file), str(rank), str(descriptor), str(door)), (descriptor, door))
            for rank in range(self.launch.workers)
        ]
        self._processes.append(self._sandboxes(file))
        for process in self._processes:
            if process.is_due:
                self._start(process)
        self._write_running()

    def _sandboxes(self, file: Path) -> _Process:
        """Costs nothing until the first sandbox is asked for; at once where some of an earlier life are to be looked after."""
        sockets = tuple(listen_at(path) for path in (self.places.sandboxes_http, self.places.sandboxes_doors))
        numbers = tuple(line.fileno() for line in sockets)
        process = _Process("sandboxes", (str(file), *map(str, numbers)), numbers)
        self._held = sockets
        records = self.places.sandboxes / "records"
        if not (records.is_dir() and any(records.iterdir())):
            process.first_asked = sockets
        return process

    def _start(self, process: _Process) -> None:
        log = open(self.places.logs / f"{process.role}.log", "ab")  # noqa: SIM115
        os.chmod(log.name, 0o600)
        process.running = subprocess.Popen(
            [sys.executable, "-m", "bastide.wiring.process", process.role, *process.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=process.descriptors,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
        )
        log.close()
        process.started_s = time.monotonic()

    def _write_running(self) -> None:
        entries = [
            {"role": p.role, "pid": p.running.pid, "start_ticks": start_ticks(p.running.pid)}
            for p in self._processes
            if p.running is not None
        ]
        fresh = self.places.running.with_suffix(".new")
        fresh.write_text(json.dumps({"pid": os.getpid(), "url": self.launch.url, "processes": entries}))
        fresh.chmod(0o600)
        fresh.replace(self.places.running)

    def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while not self._stop:
            if self._is_ready():
                break
            for process in self._processes:
                if process.running is not None and process.running.poll() is not None and process.restarts == 0:
                    raise Unavailable(
                        f"the {process.role} process ended with status {process.running.returncode} at its start; "
                        f"it last said: {last_line(self.places.logs / f'{process.role}.log')}"
                    )
            if time.monotonic() > deadline:
                raise Unavailable(f"Bastide was not ready within {READY_S_MAX:.0f} s; see {self.places.logs}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        return probe(self.launch.url, "/readyz") and answers(self.places.control_http)

    # --- running ---------------------------------------------------------------------------------------------------

    def _told(self, number: int, _frame: Any) -> None:
        self._stop = True

    def _watch(self) -> None:
        """Restart what dies, with a growing pause where it dies again and again."""
        while not self._stop:
            now_s = time.monotonic()
            for process in self._processes:
                if process.running is not None and process.running.poll() is not None:
                    status = process.running.returncode
                    process.running = None
                    if now_s - process.started_s > STEADY_S:
                        process.wait_s = RESTART_S_MIN
                    process.restart_at_s = now_s + (process.wait_s if now_s - process.started_s < STEADY_S else 0.0)
                    process.wait_s = min(RESTART_S_MAX, process.wait_s * 2)
                    process.restarts += 1
                    self.say(f"the {process.role} process ended (status {status}); starting it again")
                    if process.role == "sandboxes" and process.wait_s > HANG_UP_FROM_S:
                        hang_up(self._held)
                if (process.is_due or self._unwritten) and now_s >= process.restart_at_s:
                    self._start_again(process, now_s)
            pauses = [p.restart_at_s - now_s for p in self._processes if p.is_due or self._unwritten]
            self._sleep(max(0.001, min(pauses)) if pauses else None)

    def _start_again(self, process: _Process, now_s: float) -> None:
        """A full disk must not end those who still serve: it is tried again, and said."""
        try:
            if process.is_due:
                self._start(process)
            self._write_running()
            self._unwritten = False
        except OSError as error:
            self.say(f"{process.role}: {error.strerror or error}; trying again in {RESTART_S_MAX:g} s")
            process.restart_at_s = now_s + RESTART_S_MAX
            self._unwritten = True

    def _sleep(self, seconds: float | None) -> None:
        """Until a signal comes (a child's end is one), or that long: an idle supervisor costs nothing."""
        asked = {line.fileno(): process for process in self._processes for line in process.first_asked}
        heard = select.select([self._woken, *asked], [], [], seconds)[0]
        for line in heard:
            if line in asked:
                asked[line].first_asked = ()
        if self._woken in heard:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)

    # --- end -------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Gateways first, so that streams finish while their engines live; the agent last, with its engines."""
        for roles in (("gateway",), ("control",), ("sandboxes",), ("agent",)):
            ending = [p.running for p in self._processes if p.role in roles and p.running is not None]
            for running in ending:
                with contextlib.suppress(ProcessLookupError):
                    running.terminate()
            deadline = time.monotonic() + STOP_S_MAX
            for running in ending:
                try:
                    running.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    running.kill()
                    running.wait()
        if self._listener is not None:
            end_keeper(self.places.keeper_socket)
            end_keeper(self.places.boxes_keeper_socket)
        for line in (*self._held, *((self._door,) if self._door is not None else ())):
            line.close()
        if self._listener is not None:
            self._listener.close()
            self.places.running.unlink(missing_ok=True)
            if self.places.memory_state:  # prompts that sleeping instances kept: nobody is left to wake them
                shutil.rmtree(self.places.memory_state, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def check_listen(text: str) -> None:
    """Raises InvalidRequest where it is no HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidRequest(f"--listen {text!r} must be HOST:PORT, for example 127.0.0.1:8787")
