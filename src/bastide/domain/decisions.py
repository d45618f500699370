"""Decisions with their reasons, as `bastide why` prints them. Owns the record; makes no decisions."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing decided about a service: when (seconds since the epoch), by which part, what, and why, in one line each.

    `facts` are the numbers it was decided on; names end in their unit.
    """

    at_s: float
    project: str
    service: str
    actor: str  # "control" | "agent" | "gateway"
    what: str
    reason: str
    instance: str = ""
    facts: dict[str, float | int | str] = field(default_factory=dict)
