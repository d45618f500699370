"""Logs of instances: their ends, and their limit."""

from __future__ import annotations

import contextlib
import os

LOG_BYTES_MAX = 4 * 2**20


def tail(path: str, count: int) -> tuple[str, ...]:
    """The last lines that say anything."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines if line.strip())[-count:]


def trim(path: str) -> None:
    """Logs have a limit: past it, the older part is forgotten. Writers append, so cutting it under them is safe."""
    with contextlib.suppress(OSError):
        if path and os.path.getsize(path) > LOG_BYTES_MAX:
            with open(path, "r+b") as file:
                file.seek(-LOG_BYTES_MAX // 2, os.SEEK_END)
                rest = file.read()
                file.truncate(0)
            with open(path, "ab") as file:
                file.write(rest)
