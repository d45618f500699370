"""Processes inside a box: started, listened to, told things, ended; their output kept for whoever comes back.

Owns every child of the agent. There is one reaper: as process 1 of a box the agent inherits every orphan.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque

from . import wire

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

KEPT_BYTES = 1 << 20  # of a background process's output, for whoever attaches later
CHUNK = 1 << 16
ENDED_KEPT = 256  # background processes that are over, with their last output
PTY_START = 'exec "$0" "$@" <"$BASTIDE_TTY" >"$BASTIDE_TTY" 2>&1'

_lock = threading.Lock()
_ends: dict[int, Ending] = {}


class Ending:
    """How a process ended; `event` is set then."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.status: int | None = None
        self.read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # becomes readable when it has ended

    def set(self, status: int) -> None:
        self.status = status
        self.event.set()
        os.close(self._write)

    def close(self) -> None:
        os.close(self.read)


def reap() -> None:
    """Everyone who has ended, ours and orphans. Called for each SIGCHLD by the main thread."""
    while True:
        with _lock:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ending = _ends.pop(pid, None)
        if ending is not None:
            ending.set(status)


def start(
    argv: list[str],
    environment: dict[str, str],
    directory: str,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any = subprocess.PIPE,
    stderr: Any = subprocess.PIPE,
) -> tuple[subprocess.Popen[bytes], Ending]:
    """Start one as leader of a session of its own. Raises OSError where it can't be."""
    with _lock:  # it must be known before it can be reaped
        process = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=directory, env=environment, start_new_session=True
        )
        ending = _ends[process.pid] = Ending()
    return process, ending


def forget(process: subprocess.Popen[bytes], status: int) -> None:
    process.returncode = os.waitstatus_to_exitcode(status)  # reaped by us: subprocess must not try


def kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


class Running:
    """A started process with its ends: `sources` are read as (descriptor, frame kind)."""

    def __init__(self, asked: dict[str, Any], environment: dict[str, str]) -> None:
        argv = asked.get("argv") or ["/bin/sh", "-c", str(asked.get("command", ""))]
        directory = asked.get("cwd") or environment.get("HOME", "/")
        self.began = time.monotonic()
        self.terminal: int | None = None
        self.stdin: int | None = None
        size = asked.get("pty")
        if size:
            self._on_terminal([str(word) for word in argv], environment, directory, size)
        else:
            wants_input = bool(asked.get("stdin"))
            self.process, self.ending = start(
                [str(word) for word in argv],
                environment,
                directory,
                subprocess.PIPE if wants_input else subprocess.DEVNULL,
            )
            assert self.process.stdout is not None and self.process.stderr is not None
            self.sources = {self.process.stdout.fileno(): wire.OUTPUT, self.process.stderr.fileno(): wire.ERRORS}
            if self.process.stdin is not None:
                self.stdin = self.process.stdin.fileno()
        for descriptor in self.sources:
            os.set_blocking(descriptor, False)
        self.pid = self.process.pid

    def _on_terminal(self, argv: list[str], environment: dict[str, str], directory: str, size: dict[str, int]) -> None:
        ours, theirs = os.openpty()
        self.terminal = self.stdin = ours
        self.resize(size)
        environment = {"TERM": "xterm-256color", **environment, "BASTIDE_TTY": os.ttyname(theirs)}
        # A session's leader that opens a terminal gets it as its own; so the shell opens it, then becomes the program.
        self.process, self.ending = start(
            ["/bin/sh", "-c", PTY_START, *argv], environment, directory, theirs, theirs, theirs
        )
        os.close(theirs)
        self.sources = {ours: wire.OUTPUT}

    def resize(self, size: dict[str, int]) -> None:
        if self.terminal is not None:
            import fcntl
            import struct
            import termios

            rows, columns = int(size.get("rows", 24)), int(size.get("cols", 80))
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, descriptor: int) -> bytes | None:
        """What is there; None at the end of that stream, b"" where nothing is there now."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # a terminal whose last user has gone says so by an error
            return None
        return data or None

    def write(self, data: bytes) -> None:
        """Standard input, whole. A process that no longer listens is no error."""
        view = memoryview(data)
        while view and self.stdin is not None:
            try:
                view = view[os.write(self.stdin, view) :]
            except BlockingIOError:
                select.select([], [self.stdin], [], 1.0)
                if self.ending.event.is_set():
                    return
            except OSError:
                return

    def close_input(self) -> None:
        if self.terminal is not None:
            self.write(b"\x04")
        elif self.process.stdin is not None and self.stdin is not None:
            self.stdin = None
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def ended(self, timed_out: bool = False) -> dict[str, Any]:
        status = self.ending.status
        assert status is not None
        forget(self.process, status)
        code = os.waitstatus_to_exitcode(status)
        return {
            "exit_code": code if code >= 0 else 128 - code,
            "signal": signal.Signals(-code).name if code < 0 else None,
            "duration_s": time.monotonic() - self.began,
            "timed_out": timed_out,
        }

    def close(self) -> None:
        self.close_input()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = self.stdin = None
        self.ending.close()


class Background:
    """A process that outlives the connection that started it. Its newest output is kept, with how much went before."""

    def __init__(self, number: int, asked: dict[str, Any], running: Running) -> None:
        self.number, self.running = number, running
        self.title = str(asked.get("command") or " ".join(map(str, asked.get("argv", ()))))
        self.tag = str(asked.get("tag", ""))
        self.started_s = time.time()
        self.exit: dict[str, Any] | None = None
        self.changed = threading.Condition()
        self.kept: deque[tuple[int, int, bytes]] = deque()  # offset behind it, kind, data
        self.offset = 0
        self.kept_bytes = 0
        self._input = threading.Lock()
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        running = self.running
        poll = select.poll()
        for descriptor in running.sources:
            poll.register(descriptor, select.POLLIN)
        poll.register(running.ending.read, select.POLLIN)
        left = set(running.sources)
        over = False
        while left and not over:
            for descriptor, _ in poll.poll():
                if descriptor == running.ending.read:
                    over = True
                    continue
                self._take(poll, left, descriptor)
        if over:
            for descriptor in list(left):
                while descriptor in left and self._take(poll, left, descriptor):
                    pass
        running.ending.event.wait()
        with self.changed:
            self.exit = running.ended()
            self.changed.notify_all()
        running.close()

    def _take(self, poll: select.poll, left: set[int], descriptor: int) -> bool:
        data = self.running.read(descriptor)
        if data is None:
            poll.unregister(descriptor)
            left.discard(descriptor)
            return False
        if not data:
            return False
        with self.changed:
            self.offset += len(data)
            self.kept.append((self.offset, self.running.sources[descriptor], data))
            self.kept_bytes += len(data)
            while self.kept_bytes > KEPT_BYTES and len(self.kept) > 1:
                self.kept_bytes -= len(self.kept.popleft()[2])
            self.changed.notify_all()
        return True

    def write(self, data: bytes) -> None:
        with self._input:
            if self.exit is None:
                self.running.write(data)

    def close_input(self) -> None:
        with self._input:
            if self.exit is None:
                self.running.close_input()

    def describe(self) -> dict[str, Any]:
        return {
            "process": self.number,
            "pid": self.running.pid,
            "command": self.title[:500],
            "tag": self.tag,
            "started_s": self.started_s,
            "output_bytes": self.offset,
            **({"running": True} if self.exit is None else {"running": False, **self.exit}),
        }
