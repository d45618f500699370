"""Trees of processes from the host's side: who is in one, stopping all of it, paging it out, reaching its sockets.

Nothing here trusts what is inside: a socket's path is never followed through a link that the inside may have laid.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat

from bastide.adapters.runtime import paging


def descendants(pid: int) -> tuple[int, ...]:
    """`pid` and everyone below it, parents first."""
    found, queue = [], [pid]
    while queue:
        one = queue.pop(0)
        found.append(one)
        queue += children(one)
    return tuple(dict.fromkeys(found))


def children(pid: int) -> list[int]:
    """Those of one process, the eldest first."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    return found


def stop_all(pid: int) -> None:
    """SIGSTOP to the whole tree, again until nobody new appeared."""
    seen: set[int] = set()
    while True:
        new = [one for one in descendants(pid) if one not in seen]
        if not new:
            return
        for one in new:
            seen.add(one)
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)


def continue_all(pid: int) -> None:
    for one in reversed(descendants(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGCONT)


def page_out(pids: tuple[int, ...]) -> str | None:
    """Give the memory of these back to swap. Returns why not, where nothing could be; needs CAP_SYS_NICE."""
    reasons = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            reasons.append(paging.page_out_other(pid))
    return reasons[0] if reasons and all(reason is not None for reason in reasons) else None


def connect_path(address: str) -> tuple[str, int]:
    """A path that leads to exactly the socket at `address`, and the descriptor to close after connecting.

    Raises OSError where there is no socket (a link is none).
    """
    descriptor = os.open(address, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(ctypes.get_errno() or 111, f"{address} is no socket")
    return f"/proc/self/fd/{descriptor}", descriptor
