"""Sockets and threads as the interpreter has them built in, without the modules that are usually around them.

A user waits while the agent starts: `socket`, `threading`, `json` and `subprocess` take 30 ms to import, and three times
that in gVisor. What is imported here costs one. Owns no state.
"""

from __future__ import annotations

import _socket
import _thread
import posix

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

Lock = _thread.allocate_lock
ENVIRONMENT = {name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
               for name, value in posix.environ.items()}  # fmt: skip


def start_thread(work: Callable[..., None], *arguments: Any) -> None:
    """One that nobody waits for; it ends with the process."""
    _thread.start_new_thread(work, arguments)


class Gate:
    """Closed until it is opened, once and for good."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self.open = False

    def set(self) -> None:
        self.open = True
        self._lock.release()

    def wait(self) -> None:
        with self._lock:
            pass


class Socket(_socket.socket):
    """A socket with what the agent needs of one."""

    def accept(self) -> Socket:
        descriptor, _ = self._accept()  # type: ignore[attr-defined]
        return Socket(fileno=descriptor)


def unix() -> Socket:
    return Socket(_socket.AF_UNIX, _socket.SOCK_STREAM)


def hang_up(line: _socket.socket, how: int = _socket.SHUT_RDWR) -> None:
    """Whoever waits on it hears so; one that is gone already is no error."""
    try:
        line.shutdown(how)
    except OSError:
        pass


def remove(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass


def exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def is_file(path: str) -> bool:
    """A regular one, or what leads to one."""
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o100000
    except OSError:
        return False
