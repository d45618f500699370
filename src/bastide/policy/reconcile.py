"""From what is wanted and what is there to what to do about it. Pure, level-triggered: the same snapshot, the same plan.

A rollout: the new generation's weights are fetched (or its app is built), one instance of it is assigned and proven,
then it takes the traffic and the old one is let go. Until then the old generation serves; a failed generation never
takes traffic. An app may ask for other ways: `blue-green` proves as many as are awake of the old one, `immediate` lets
the old one go first and brings it back where the new one fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bastide.domain.apps import Build, Rollout, build_inputs
from bastide.domain.identity import instance_id
from bastide.domain.instances import Assignment, WeightFile
from bastide.domain.plan import Action, Assign, DesiredService, FetchWeights, Forget, MakeBuild, Prove, Serve, Unassign
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
    awake: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known. `weights` by model URL: those that are on the node and verified. `builds` by domain.apps.build_inputs."""

    services: tuple[DesiredService, ...]
    present: tuple[Present, ...]
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    seen_at_s: float = 0.0
    builds: Mapping[tuple[object, ...], Build] = field(default_factory=dict)


def plan(snapshot: Snapshot) -> tuple[Action, ...]:
    """Every action that is due, in an order that is safe to follow."""
    here: dict[tuple[str, str], list[Present]] = {}
    for present in snapshot.present:
        here.setdefault((present.project, present.service), []).append(present)
    actions: list[Action] = []
    for service in snapshot.services:
        found = here.pop((service.spec.project, service.spec.name), [])
        actions.extend(_service(service, found, snapshot))
    for strays in here.values():
        actions.extend(
            Unassign(p.instance, p.project, p.service, "no such service is declared", asked=False) for p in strays
        )
    return tuple(actions)


@dataclass(frozen=True, slots=True)
class _Content:
    """What an instance of a spec runs: weights, or a build."""

    weights: WeightFile | None = None
    build: Build | None = None


def _content(spec: ServiceSpec, snapshot: Snapshot) -> _Content | None:
    """None: it is not on this node."""
    if spec.app is not None:
        build = snapshot.builds.get(build_inputs(spec.app))
        return _Content(build=build) if build is not None else None
    if spec.model is not None:
        file = snapshot.weights.get(spec.model.url)
        return _Content(weights=file) if file is not None else None
    return None


def _runs(spec: ServiceSpec) -> bool:
    """Whether there are instances of it on the node. An outside endpoint has none, and a job runs when its time has come."""
    return spec.model is not None or (spec.app is not None and spec.app.job is None)


def _service(service: DesiredService, found: list[Present], snapshot: Snapshot) -> list[Action]:
    project, name = service.spec.project, service.spec.name
    if service.removed:
        if not found:
            return [Forget(project, name, "removed, and nothing of it runs any more")]
        return [Unassign(p.instance, project, name, "the service was removed", asked=True) for p in found]
    actions: list[Action] = []
    wanted: dict[str, tuple[Assignment, str]] = {}
    serving = service.serving_spec
    makes_way = service.rolling and _immediate(service.spec) and _content(service.spec, snapshot) is not None
    if serving is not None and _runs(serving) and not makes_way:
        _want_slots(service, serving, snapshot, wanted)
    if service.rolling:
        actions.extend(_roll(service, found, snapshot, wanted))
    # What serves is never let go because its weights or build can't be found just now: they are had again instead.
    blind = serving is not None and _runs(serving) and _content(serving, snapshot) is None
    if blind and not service.rolling:
        assert serving is not None
        actions.append(_get(service, serving, "what it serves is not on this node"))
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


def _immediate(spec: ServiceSpec) -> bool:
    return spec.app is not None and spec.app.rollout is Rollout.IMMEDIATE


def _get(service: DesiredService, spec: ServiceSpec, reason: str) -> Action:
    """What brings the content of a spec to this node."""
    kind = MakeBuild if spec.app is not None else FetchWeights
    return kind(spec.project, spec.name, service.generation, reason)


def _want_slots(
    service: DesiredService,
    spec: ServiceSpec,
    snapshot: Snapshot,
    wanted: dict[str, tuple[Assignment, str]],
) -> None:
    content = _content(spec, snapshot)
    if content is None:
        return
    for index in range(spec.replicas.most):
        instance = instance_id(spec.project, spec.name, service.serving_run, index)
        keep_awake = index < spec.replicas.least
        reason = f"replica {index + 1} of {spec.replicas.most}" + (", always awake" if keep_awake else "")
        made = Assignment(instance, service.serving_run, index, spec, content.weights, keep_awake, content.build)
        wanted[instance] = (made, reason)


def _roll(
    service: DesiredService,
    found: list[Present],
    snapshot: Snapshot,
    wanted: dict[str, tuple[Assignment, str]],
) -> list[Action]:
    spec, generation = service.spec, service.generation
    if spec.app is not None and spec.app.job is not None:
        if _content(spec, snapshot) is None:
            return [_get(service, spec, "its job is not built yet")]
        return [Serve(spec.project, spec.name, generation, "it is built, and runs when its time has come")]
    if not _runs(spec):
        return [Serve(spec.project, spec.name, generation, "an outside endpoint has nothing to start")]
    content = _content(spec, snapshot)
    if content is None:
        what = "its app is not built yet" if spec.model is None else f"{spec.model.url} is not on this node yet"
        return [_get(service, spec, what)]
    if _immediate(spec) and any(present.generation != service.run_generation for present in found):
        return []  # the old ones end first
    proofs = []
    for index in range(_proofs(service, found)):
        instance = instance_id(spec.project, spec.name, service.run_generation, index)
        proofs.append(instance)
        if instance not in wanted:
            wanted[instance] = (
                Assignment(instance, service.run_generation, index, spec, content.weights, False, content.build),
                f"generation {generation} must prove itself",
            )
    here = {present.instance: present for present in found}
    if all(instance in here and here[instance].proven for instance in proofs):
        how = "answered its canary" if spec.app is None else "is healthy"
        return [Serve(spec.project, spec.name, generation, f"generation {generation} {how}")]
    return [
        Prove(instance, spec.project, spec.name, generation, f"generation {generation} must prove itself")
        for instance in proofs
        if instance in here and not here[instance].proven
    ]


def _proofs(service: DesiredService, found: list[Present]) -> int:
    """How many instances must be proven before a generation takes the traffic."""
    app = service.spec.app
    if app is None or app.rollout is not Rollout.BLUE_GREEN:
        return 1
    awake = sum(1 for present in found if present.awake and present.generation == service.serving_run)
    return max(1, min(awake, service.spec.replicas.most))
