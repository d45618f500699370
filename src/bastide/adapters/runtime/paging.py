"""Memory given back to swap, of one process. Standard library only: the keeper loads it by path, engines have it forked in."""

from __future__ import annotations

import ctypes
import os

MADV_PAGEOUT = 21
SYS_PIDFD_OPEN = 434
SYS_PROCESS_MADVISE = 440
LIBC = ctypes.CDLL(None, use_errno=True)


def mappings(pid: str) -> list[tuple[int, int]]:
    """Address ranges worth paging out: (start, length) in bytes."""
    ranges = []
    with open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            span, flags, *_ = line.split(maxsplit=5)
            name = line.split(maxsplit=5)[5].strip() if len(line.split(maxsplit=5)) > 5 else b""
            if name.startswith(b"[v") or flags[:1] != b"r":
                continue
            start, _, end = span.partition(b"-")
            ranges.append((int(start, 16), int(end, 16) - int(start, 16)))
    return ranges


def page_out_self() -> None:
    """Give back every page that can be given back. Needs no right; only the process itself may do so without one."""
    for start, length in mappings("self"):
        LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_PAGEOUT)


class Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def page_out_other(pid: int) -> str | None:
    """The same for another process, with CAP_SYS_NICE. Returns why not, or None."""
    handle = LIBC.syscall(SYS_PIDFD_OPEN, pid, 0)
    if handle < 0:
        return os.strerror(ctypes.get_errno())
    try:
        worked, error = 0, 0
        for start, length in mappings(str(pid)):
            span = Span(start, length)
            if LIBC.syscall(SYS_PROCESS_MADVISE, handle, ctypes.byref(span), 1, MADV_PAGEOUT, 0) >= 0:
                worked += 1
            else:
                error = ctypes.get_errno()
        return None if worked else f"process_madvise: {os.strerror(error)} (CAP_SYS_NICE is needed)"
    finally:
        os.close(handle)
