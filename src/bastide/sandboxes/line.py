"""Questions to the agent in a sandbox. What goes wrong is told to whoever uses the sandbox."""

from __future__ import annotations

import errno
from typing import Any

from bastide.adapters.isolation.line import AgentLine
from bastide.domain.errors import BastideError, Conflict, InvalidRequest, NotFound, Unavailable

HELLO_S_MAX = 10.0


class Line(AgentLine):
    """See AgentLine."""

    @staticmethod
    def gone(what: str) -> BastideError:
        return Unavailable(f"the sandbox went away while it was {what}")

    @staticmethod
    def nonsense() -> BastideError:
        return Unavailable("the sandbox's agent talks nonsense; it may have been tampered with from inside")

    @classmethod
    def wrong(cls, told: dict[str, Any]) -> BastideError:
        kind, message = str(told.get("error", "")), str(told.get("message", ""))[:500]
        number = told.get("errno")
        if kind in ("FileNotFoundError", "LookupError") or number == errno.ENOENT:
            return NotFound(f"in the sandbox: {message}")
        if kind in ("FileExistsError", "NotADirectoryError", "IsADirectoryError"):
            return Conflict(f"in the sandbox: {message}")
        if number in (errno.ENOSPC, errno.EDQUOT):
            return InvalidRequest(f"in the sandbox: {message}; its disk is full, make one with a larger `disk`")
        if number in (errno.E2BIG, errno.ENAMETOOLONG):  # gVisor says the second of a long word too
            return InvalidRequest(
                f"in the sandbox: {message}; a word may hold 128 KiB, a path 4 KiB and all words together 2 MiB: what is "
                "longer is written to a file, or given as standard input"
            )
        if kind == "ConnectionRefusedError":
            return Unavailable(f"in the sandbox: {message}", retry_after_s=0.2)
        return InvalidRequest(f"in the sandbox: {kind}: {message}")
