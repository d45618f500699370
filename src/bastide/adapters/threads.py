"""Work on a thread that is never left alone: a cancelled caller waits until it is through, so that what it made can be cleared."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_the_end(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """As asyncio.to_thread, whose thread goes on by itself once its caller is cancelled."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await working
        raise
