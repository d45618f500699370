"""Where control lives and what it may assume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """`socket`: its link for gateways. `agent_socket`: the node's agent. `http_socket`: the control API.

    `budget_bytes`: of the node's device. `workers`: how many gateway workers share every limit. `data_directory`:
    for backups and the doctor.
    """

    node: str
    socket: str
    agent_socket: str
    http_socket: str
    data_directory: str
    budget_bytes: int
    workers: int = 1
    url: str = ""
    orphan_s: float = 60.0
    volume_sizes_refused: Callable[[], str | None] = lambda: "a volume's size can't be enforced here; leave `size` out"
    egress_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names that stand for several hosts
