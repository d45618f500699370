"""Weights read into the page cache before they are needed: in order, several times faster than by page faults."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable

from bastide.adapters.runtime import proc
from bastide.ports.runtime import Progress

PART_BYTES = 16 * 2**20
CACHED_SHARE_ENOUGH = 0.95


async def read_ahead(paths: Iterable[str], progress: Progress) -> None:
    """Files that are there already are left alone; those that can't be read are their engine's to complain of."""
    for path in paths:
        share = await asyncio.to_thread(proc.cached_share, path)
        if share > CACHED_SHARE_ENOUGH:
            continue
        with contextlib.suppress(OSError):
            size_bytes = os.stat(path).st_size
            for start in range(0, size_bytes, PART_BYTES):
                await asyncio.to_thread(_read_part, path, start)
                progress("loading weights", min(1.0, (start + PART_BYTES) / size_bytes))


def _read_part(path: str, start: int) -> None:
    """Read and forget; what stays is the page cache."""
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        left = PART_BYTES
        while left > 0 and (data := file.read(min(left, 2**20))):
            left -= len(data)
