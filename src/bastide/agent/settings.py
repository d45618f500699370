"""Where one agent lives and what it may use."""

from __future__ import annotations

from dataclasses import dataclass

from bastide.domain.lifecycle import Rung
from bastide.engines.port import BoxPlace


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`socket`: the link it serves. Directories: kept assignments, engine sockets, logs, and prompt state (in memory).

    `budget_bytes`: what its device, the host's memory, may hold. `lease_s`: how long engines live on unclaimed.
    """

    node: str
    socket: str
    assignments_directory: str
    sockets_directory: str
    logs_directory: str
    state_directory: str
    budget_bytes: int
    threads: int
    available: frozenset[Rung]
    lease_s: float = 60.0
    llama_server: str = ""
    orphan_s: float = 60.0
    boxes: BoxPlace | None = None
