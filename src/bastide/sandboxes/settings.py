"""What the sandboxes of one node are told at start."""

from __future__ import annotations

from dataclasses import dataclass

from bastide.domain.isolation import Tier


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """`memory_budget_bytes`: what all running sandboxes together may be promised. `spares`: warm ones kept per kind.

    `light`: whether resting sandboxes can be paged out here. `default_tier`: where none is asked for.
    """

    node: str
    url: str
    default_tier: Tier = Tier.GVISOR
    memory_budget_bytes: int = 4 * 2**30
    sandboxes_max: int = 1000
    spares: int = 2
    light: bool = False
    enforces: frozenset[str] = frozenset()
