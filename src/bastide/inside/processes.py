"""Processes inside a box: started, listened to, told things, ended.

Owns every child of the agent. There is one reaper: as process 1 of a box the agent inherits every orphan. Imported while
a user waits, so it uses what the interpreter has built in.
"""

from __future__ import annotations

import posix
from errno import EACCES, ENOENT
from select import POLLIN, poll
from time import monotonic

from . import wire
from .quick import Gate, Lock, exists

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

CHUNK = 1 << 16
PIPE = -1
PTY_START = 'exec "$0" "$@" <"$BASTIDE_TTY" >"$BASTIDE_TTY" 2>&1'
# What the agent ignores, or Python does: a program inside finds them as any program does. SIGHUP, SIGPIPE, SIGXFSZ.
ORDINARY_AGAIN = (1, 13, 25)
SIGKILL = 9

_lock = Lock()
_ends: dict[int, Ending] = {}


class Ending(Gate):
    """How a process ended; the gate opens then."""

    def __init__(self) -> None:
        super().__init__()
        self.status: int | None = None
        self.read, self._write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)  # becomes readable when it has ended

    def end(self, status: int) -> None:
        self.status = status
        self.set()
        posix.close(self._write)

    def close(self) -> None:
        posix.close(self.read)


class Started:
    """A process, leader of a session of its own. The ends of its pipes that are ours, as descriptors; None: there is none."""

    def __init__(self, pid: int, ending: Ending, ours: list[int | None]) -> None:
        self.pid, self.ending = pid, ending
        self.stdin, self.stdout, self.stderr = ours

    def close(self) -> None:
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor is not None:
                posix.close(descriptor)
        self.stdin = self.stdout = self.stderr = None


def reap() -> None:
    """Everyone who has ended, ours and orphans. Called for each SIGCHLD by the main thread."""
    while True:
        with _lock:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ending = _ends.pop(pid, None)
        if ending is not None:
            ending.end(status)


def start(
    argv: list[str],
    environment: dict[str, str],
    directory: str,
    stdin: int | None = None,
    stdout: int | None = PIPE,
    stderr: int | None = PIPE,
) -> Started:
    """Start one. Its ends: None nothing (or, of its output, ours), PIPE a pipe, else a descriptor. Raises OSError."""
    if not argv or not argv[0]:
        raise ValueError("there is no program to start")
    ours: list[int | None] = [None, None, None]
    theirs: list[int] = []
    actions: list[tuple[Any, ...]] = []
    try:
        for number, asked in enumerate((stdin, stdout, stderr)):
            if asked == PIPE:
                read, write = posix.pipe2(posix.O_CLOEXEC)
                ours[number] = write if number == 0 else read
                theirs.append(read if number == 0 else write)
                actions.append((posix.POSIX_SPAWN_DUP2, theirs[-1], number))
            elif asked is not None:
                actions.append((posix.POSIX_SPAWN_DUP2, asked, number))
            elif number == 0:
                actions.append((posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0))
        with _lock:  # it must be known before it can be reaped; and the directory is the whole agent's
            posix.chdir(directory)
            try:
                pid = posix.posix_spawn(
                    _found(argv[0], environment), argv, environment,
                    file_actions=actions, setsid=True, setsigdef=ORDINARY_AGAIN,
                )  # fmt: skip
            finally:
                posix.chdir("/")
            ending = _ends[pid] = Ending()
    except BaseException:
        for descriptor in ours:
            if descriptor is not None:
                posix.close(descriptor)
        raise
    finally:
        for descriptor in theirs:
            posix.close(descriptor)
    return Started(pid, ending, ours)


def _found(program: str, environment: dict[str, str]) -> str:
    """Where a program lies, by the PATH that it will see itself. Raises OSError."""
    if "/" in program:
        return program
    reason = ENOENT
    for directory in environment.get("PATH", "/usr/bin:/bin").split(":"):
        path = f"{directory or '.'}/{program}"
        if posix.access(path, posix.X_OK):
            return path
        if exists(path):
            reason = EACCES
    raise OSError(reason, posix.strerror(reason), program)


def kill_group(pid: int, number: int) -> None:
    try:
        posix.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


class Running:
    """A started process with its ends: `sources` are read as (descriptor, frame kind)."""

    def __init__(self, asked: dict[str, Any], environment: dict[str, str]) -> None:
        argv = [str(word) for word in asked.get("argv") or ["/bin/sh", "-c", str(asked.get("command", ""))]]
        directory = asked.get("cwd") or environment.get("HOME", "/")
        self.began = monotonic()
        self.terminal: int | None = None
        size = asked.get("pty")
        if size:
            self._on_terminal(argv, environment, directory, size)
        else:
            self.process = start(argv, environment, directory, PIPE if asked.get("stdin") else None)
            assert self.process.stdout is not None and self.process.stderr is not None
            self.sources = {self.process.stdout: wire.OUTPUT, self.process.stderr: wire.ERRORS}
        for descriptor in self.sources:
            posix.set_blocking(descriptor, False)
        self.pid, self.ending = self.process.pid, self.process.ending

    def _on_terminal(self, argv: list[str], environment: dict[str, str], directory: str, size: dict[str, int]) -> None:
        ours, theirs = posix.openpty()
        try:
            self.terminal = ours
            self.resize(size)
            environment = {"TERM": "xterm-256color", **environment, "BASTIDE_TTY": posix.ttyname(theirs)}
            # A session's leader that opens a terminal gets it as its own; so the shell opens it, then becomes the program.
            self.process = start(["/bin/sh", "-c", PTY_START, *argv], environment, directory, theirs, theirs, theirs)
        except BaseException:
            posix.close(ours)
            raise
        finally:
            posix.close(theirs)
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
            data = posix.read(descriptor, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # a terminal whose last user has gone says so by an error
            return None
        return data or None

    def write(self, data: bytes) -> None:
        """Standard input, whole. A process that no longer listens is no error."""
        view = memoryview(data)
        while view and (stdin := self.terminal if self.terminal is not None else self.process.stdin) is not None:
            try:
                view = view[posix.write(stdin, view) :]
            except BlockingIOError:
                waiting = poll()
                waiting.register(stdin, 4)  # POLLOUT
                waiting.poll(1000)
                if self.ending.open:
                    return
            except OSError:
                return

    def close_input(self) -> None:
        if self.terminal is not None:
            self.write(b"\x04")
        elif (stdin := self.process.stdin) is not None:
            self.process.stdin = None
            posix.close(stdin)

    def ended(self, timed_out: bool = False) -> dict[str, Any]:
        status = self.ending.status
        assert status is not None
        code = posix.waitstatus_to_exitcode(status)
        return {
            "exit_code": code if code >= 0 else 128 - code,
            "signal": _signal_name(-code) if code < 0 else None,
            "duration_s": monotonic() - self.began,
            "timed_out": timed_out,
        }

    def close(self) -> None:
        self.close_input()
        self.process.close()
        if self.terminal is not None:
            posix.close(self.terminal)
            self.terminal = None
        self.ending.close()


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # a real-time one


class Output:
    """What is left to read of a running process, waited for together with its end and, where there is one, a line."""

    def __init__(self, running: Running, line: Any = None) -> None:
        self._running, self._poll = running, poll()
        self._left = set(running.sources)
        for descriptor in (*self._left, running.ending.read, *(() if line is None else (line,))):
            self._poll.register(descriptor, POLLIN)

    @property
    def open(self) -> bool:
        return bool(self._left)

    def wait(self, wait_ms: float | None = None) -> list[int]:
        """Descriptors that are ready."""
        return [descriptor for descriptor, _ in self._poll.poll(wait_ms)]

    def take(self, descriptor: int) -> bytes:
        """What is there on one of its streams; b"" where nothing is now, or will ever be."""
        data = self._running.read(descriptor)
        if data is None:
            self._poll.unregister(descriptor)
            self._left.discard(descriptor)
        return data or b""

    def rest(self) -> list[tuple[int, bytes]]:
        """What it wrote before its end and nobody has read. What those it left behind go on writing is not waited for."""
        found = []
        for descriptor in list(self._left):
            while data := self.take(descriptor):
                found.append((descriptor, data))
        return found
