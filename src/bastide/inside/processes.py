"""Processes inside a box: started, listened to, told things, ended.

Owns every child of the agent. There is one reaper: as process 1 of a box the agent inherits every orphan. Imported while
a user waits, so it uses what the interpreter has built in.
"""

from __future__ import annotations

import posix
from errno import EACCES, ENOENT
from select import POLLERR, POLLHUP
from time import monotonic

from . import wire
from .quick import Gate, Lock, exists, is_file

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

CHUNK = 1 << 16
PIPE_BYTES_MAX = 1 << 20  # what a pipe can hold at most, as the kernel ships
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
        self.at_s = 0.0
        self.read, self._write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)  # becomes readable when it has ended

    def end(self, status: int) -> None:
        self.status, self.at_s = status, monotonic()
        self.set()
        posix.close(self._write)

    def close(self) -> None:
        posix.close(self.read)


class Input:
    """Standard input of a process, given as fast as the process takes it; nobody ever waits here.

    Whoever gives looks at `left` first, and calls `flush` when the descriptor can be written to.
    """

    def __init__(self, descriptor: int, *, terminal: bool = False) -> None:
        posix.set_blocking(descriptor, False)
        self.descriptor: int | None = descriptor  # a terminal's is its owner's to close
        self._terminal, self._ending = terminal, False
        self._left = bytearray()

    @property
    def left(self) -> int:
        """Bytes that it has not taken yet."""
        return len(self._left)

    def give(self, data: bytes) -> None:
        """A process that no longer listens is no error."""
        if self.descriptor is not None and not self._ending:
            self._left += data
            self.flush()

    def end(self) -> None:
        """No more will come, once what is left has been taken."""
        if self._terminal:
            self.give(b"\x04")
            return
        self._ending = True
        self.flush()

    def flush(self) -> None:
        """As much as it takes now."""
        while self._left and self.descriptor is not None:
            try:
                # At most a chunk: the rest of a large buffer would be copied for nothing.
                written = posix.write(self.descriptor, self._left[:CHUNK])
            except BlockingIOError:
                return
            except OSError:  # nobody will read it
                self.close()
                return
            del self._left[:written]
        if self._ending:
            self.close()

    def ready(self, events: int) -> None:
        """It can be written to, or nobody is there to read: what poll has told."""
        before = len(self._left)
        self.flush()
        if events & (POLLHUP | POLLERR) and len(self._left) == before:
            self._left.clear()  # a terminal that nobody has open takes nothing, and says so for ever

    def close(self) -> None:
        if self.descriptor is not None and not self._terminal:
            posix.close(self.descriptor)
        self.descriptor = None
        self._left.clear()


class Started:
    """A process, leader of a session of its own. The ends of its pipes that are ours; None: there is none."""

    def __init__(self, pid: int, ending: Ending, ours: list[int | None]) -> None:
        self.pid, self.ending = pid, ending
        stdin, self.stdout, self.stderr = ours
        self.input = Input(stdin) if stdin is not None else None

    def close(self) -> None:
        if self.input is not None:
            self.input.close()
        for descriptor in (self.stdout, self.stderr):
            if descriptor is not None:
                posix.close(descriptor)
        self.stdout = self.stderr = None


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
            try:
                posix.chdir(directory)
            except OSError as error:  # else it would read as if the program were not there
                raise OSError(error.errno, f"it can't run there: {error.strerror}", directory) from None
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
        if not is_file(path):
            continue  # a directory of that name is none
        if posix.access(path, posix.X_OK):
            return path
        reason = EACCES
    raise OSError(reason, posix.strerror(reason), program)


def kill_group(pid: int, number: int) -> None:
    try:
        posix.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def directory_of(asked: dict[str, Any], environment: dict[str, str]) -> str:
    """Where it is to run: `cwd`, from its home on where that is relative, as paths of files are. Raises OSError by name."""
    home = environment.get("HOME") or "/"
    directory = asked.get("cwd")
    if not directory:
        if not exists(home):
            raise OSError(ENOENT, "its HOME is not there; say by cwd where to run it", home)
        return home
    return str(directory) if str(directory).startswith("/") else f"{home}/{directory}"


class Running:
    """A started process with its ends: `sources` are read, as {descriptor: frame kind}, until none is `left`."""

    def __init__(self, asked: dict[str, Any], environment: dict[str, str]) -> None:
        argv = [str(word) for word in asked.get("argv") or ["/bin/sh", "-c", str(asked.get("command", ""))]]
        directory = directory_of(asked, environment)
        self.began = monotonic()
        self.terminal: int | None = None
        self.input: Input | None
        size = asked.get("pty")
        if size:
            self._on_terminal(argv, environment, directory, size)
        else:
            self.process = start(argv, environment, directory, PIPE if asked.get("stdin") else None)
            assert self.process.stdout is not None and self.process.stderr is not None
            self.sources = {self.process.stdout: wire.OUTPUT, self.process.stderr: wire.ERRORS}
            self.input = self.process.input
        for descriptor in self.sources:
            posix.set_blocking(descriptor, False)
        self.left = set(self.sources)
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
        self.input = Input(ours, terminal=True)

    def resize(self, size: dict[str, int]) -> None:
        if self.terminal is not None:
            import fcntl
            import struct
            import termios

            rows, columns = int(size.get("rows", 24)), int(size.get("cols", 80))
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def take(self, descriptor: int) -> bytes:
        """What is there on one of its streams; b"" where nothing is now, or will ever be: then it is no longer `left`."""
        try:
            data = posix.read(descriptor, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # a terminal whose last user has gone says so by an error
            data = b""
        if not data:
            self.left.discard(descriptor)
        return data

    def rest(self) -> list[tuple[int, bytes]]:
        """Once it has ended: what it wrote before and nobody has read. What it left behind may go on writing: no more than that."""
        found = []
        for descriptor in tuple(self.left):
            size = 0
            while size < PIPE_BYTES_MAX and (data := self.take(descriptor)):
                size += len(data)
                found.append((descriptor, data))
        return found

    def ended(self, timed_out: bool = False) -> dict[str, Any]:
        status = self.ending.status
        assert status is not None
        code = posix.waitstatus_to_exitcode(status)
        return {
            "exit_code": code if code >= 0 else 128 - code,
            "signal": _signal_name(-code) if code < 0 else None,
            "duration_s": self.ending.at_s - self.began,
            "timed_out": timed_out,
        }

    def close(self) -> None:
        if self.input is not None:
            self.input.close()
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
