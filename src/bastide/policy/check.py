"""A second look at a plan, from first principles. Pure, and written without the planner: it must not share its mistakes.

Refused are: ending a serving instance that nobody asked to end while many would go at once; two instances of one
identifier; an instance that can never fit its device; giving the traffic to a generation that nothing has proven.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bastide.domain.plan import Action, Assign, Serve, Unassign
from bastide.domain.units import format_bytes

MASS_COUNT_MIN = 5
MASS_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Known:
    """What the check is told, apart from the plan: instances there are, those proven, the device's budget in bytes."""

    present: frozenset[str]
    proven_services: frozenset[tuple[str, str]]
    outside_services: frozenset[tuple[str, str]]
    budget_bytes: int
    confirmed: bool = False  # a person has seen the mass change and said yes


@dataclass(frozen=True, slots=True)
class Refusal:
    """An action that must not be applied, and why."""

    action: Action
    reason: str


def check(plan: tuple[Action, ...], known: Known) -> tuple[Refusal, ...]:
    """Every action that is refused. The rest may be applied."""
    refusals: list[Refusal] = []
    unasked = [a for a in plan if isinstance(a, Unassign) and not a.asked]
    share = len(unasked) / max(1, len(known.present))
    if len(unasked) >= MASS_COUNT_MIN and share > MASS_SHARE and not known.confirmed:
        reason = (
            f"{len(unasked)} of {len(known.present)} instances would end at once and nobody asked for it by name; "
            "if that is right, say so with `bastide confirm`"
        )
        refusals.extend(Refusal(action, reason) for action in unasked)
    seen = Counter(a.assignment.instance for a in plan if isinstance(a, Assign))
    for action in plan:
        if isinstance(action, Assign):
            assignment = action.assignment
            if seen[assignment.instance] > 1:
                refusals.append(Refusal(action, f"{assignment.instance} would be there twice"))
            need = assignment.spec.resources.memory_bytes
            if need is None and assignment.weights is not None:
                need = assignment.weights.weights_bytes
            if need is not None and need > known.budget_bytes:
                refusals.append(
                    Refusal(
                        action,
                        f"{assignment.spec.name} needs at least {format_bytes(need)}, but the device's budget is "
                        f"{format_bytes(known.budget_bytes)}; raise `--memory` or take a smaller model",
                    )
                )
        elif isinstance(action, Serve):
            name = (action.project, action.service)
            if name not in known.proven_services and name not in known.outside_services:
                refusals.append(Refusal(action, f"nothing has proven generation {action.generation}"))
    return tuple(refusals)
