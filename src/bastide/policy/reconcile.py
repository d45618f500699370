"""From what is wanted and what is there to what to do about it. Pure, level-triggered: the same snapshot, the same plan.

A rollout: the new generation's weights are fetched, one instance of it is assigned and proven, then it takes the
traffic and the old one is let go. Until then the old generation serves; a failed generation never takes traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bastide.domain.identity import instance_id
from bastide.domain.instances import Assignment, WeightFile
from bastide.domain.plan import Action, Assign, DesiredService, FetchWeights, Forget, Prove, Serve, Unassign
from bastide.domain.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class Present:
    """An instance that a node has. `generation` is the run generation it was started for."""

    instance: str
    project: str
    service: str
    generation: int
    index: int
    proven: bool
    assignment: Assignment | None = None  # as it was last assigned, where that is known


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known. `weights` by model URL: those that are on the node and verified."""

    services: tuple[DesiredService, ...]
    present: tuple[Present, ...]
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    seen_at_s: float = 0.0


def plan(snapshot: Snapshot) -> tuple[Action, ...]:
    """Every action that is due, in an order that is safe to follow."""
    here: dict[tuple[str, str], list[Present]] = {}
    for present in snapshot.present:
        here.setdefault((present.project, present.service), []).append(present)
    actions: list[Action] = []
    for service in snapshot.services:
        found = here.pop((service.spec.project, service.spec.name), [])
        actions.extend(_service(service, found, snapshot.weights))
    for strays in here.values():
        actions.extend(
            Unassign(p.instance, p.project, p.service, "no such service is declared", asked=False) for p in strays
        )
    return tuple(actions)


def _service(service: DesiredService, found: list[Present], weights: Mapping[str, WeightFile]) -> list[Action]:
    project, name = service.spec.project, service.spec.name
    if service.removed:
        if not found:
            return [Forget(project, name, "removed, and nothing of it runs any more")]
        return [Unassign(p.instance, project, name, "the service was removed", asked=True) for p in found]
    actions: list[Action] = []
    wanted: dict[str, tuple[Assignment, str]] = {}
    if service.serving_spec is not None and service.serving_spec.model is not None:
        _want_slots(service, service.serving_spec, weights, wanted)
    if service.rolling:
        actions.extend(_roll(service, found, weights, wanted))
    serving = service.serving_spec
    # What serves is never let go because its weights can't be found just now: they are fetched again instead.
    blind = serving is not None and serving.model is not None and serving.model.url not in weights
    if blind and not service.rolling:
        actions.append(FetchWeights(project, name, service.generation, "the weights it serves are not on this node"))
    for present in found:
        if blind and present.generation == service.serving_run:
            continue
        if present.instance not in wanted:
            why = "replaced by a newer generation" if present.generation != service.run_generation else "scaled down"
            actions.append(Unassign(present.instance, project, name, why, asked=True))
    assigned = {present.instance: present.assignment for present in found}
    fresh: list[Action] = [
        Assign(assignment, reason)
        for instance, (assignment, reason) in wanted.items()
        if instance not in assigned or assigned[instance] != assignment
    ]
    return fresh + actions


def _want_slots(
    service: DesiredService,
    spec: ServiceSpec,
    weights: Mapping[str, WeightFile],
    wanted: dict[str, tuple[Assignment, str]],
) -> None:
    assert spec.model is not None
    file = weights.get(spec.model.url)
    if file is None:
        return
    for index in range(spec.replicas.most):
        instance = instance_id(spec.project, spec.name, service.serving_run, index)
        keep_awake = index < spec.replicas.least
        reason = f"replica {index + 1} of {spec.replicas.most}" + (", always awake" if keep_awake else "")
        wanted[instance] = (Assignment(instance, service.serving_run, index, spec, file, keep_awake), reason)


def _roll(
    service: DesiredService,
    found: list[Present],
    weights: Mapping[str, WeightFile],
    wanted: dict[str, tuple[Assignment, str]],
) -> list[Action]:
    spec, generation = service.spec, service.generation
    if spec.model is None:
        return [Serve(spec.project, spec.name, generation, "an outside endpoint has nothing to start")]
    file = weights.get(spec.model.url)
    if file is None:
        return [FetchWeights(spec.project, spec.name, generation, f"{spec.model.url} is not on this node yet")]
    instance = instance_id(spec.project, spec.name, service.run_generation, 0)
    if instance not in wanted:
        wanted[instance] = (
            Assignment(instance, service.run_generation, 0, spec, file, False),
            f"generation {generation} must prove itself",
        )
    proof = next((p for p in found if p.instance == instance), None)
    if proof is None:
        return []
    if proof.proven:
        return [Serve(spec.project, spec.name, generation, f"generation {generation} answered its canary")]
    return [Prove(instance, spec.project, spec.name, generation, f"generation {generation} must prove itself")]
