"""Desired state, and the actions that lead towards it. Immutable; each action carries its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bastide.domain.instances import Assignment
from bastide.domain.spec import ServiceSpec, launch_key


@dataclass(frozen=True, slots=True)
class DesiredService:
    """A service as it was asked for.

    `generation` grows with every change. `run_generation` is the generation its instances are named by: it changes
    only when a running instance can't serve the new spec. `serving`: the generation that takes traffic (0: none yet),
    with `serving_spec` and `serving_run`. `failed_generation`: the last one that could not be proven, and why.
    """

    spec: ServiceSpec
    generation: int
    run_generation: int
    serving: int = 0
    serving_run: int = 0
    serving_spec: ServiceSpec | None = None
    failed_generation: int = 0
    failure: str = ""
    removed: bool = False
    changed_at_s: float = 0.0
    created_at_s: float = 0.0
    previous_spec: ServiceSpec | None = None  # what served before what serves: where a rollback leads

    @property
    def rolling(self) -> bool:
        """A newer generation is still to be proven."""
        return not self.removed and self.generation not in (self.serving, self.failed_generation)


def declared(old: DesiredService | None, spec: ServiceSpec, now_s: float) -> DesiredService:
    """What declaring `spec` makes of what was there."""
    if old is None:
        return DesiredService(spec, 1, 1, changed_at_s=now_s, created_at_s=now_s)
    if old.removed:
        generation = old.generation + 1
        return DesiredService(spec, generation, generation, changed_at_s=now_s, created_at_s=now_s)
    if old.spec == spec and old.failed_generation != old.generation:
        return old
    generation = old.generation + 1
    if old.serving_spec is not None and launch_key(old.serving_spec) == launch_key(spec):
        # The processes that serve can serve this too: nothing has to be proven.
        return replace(
            old,
            spec=spec,
            generation=generation,
            run_generation=old.serving_run,
            serving=generation,
            serving_spec=spec,
            # Back to what serves, from one that failed: what served before it is still what comes before.
            previous_spec=old.serving_spec if old.serving_spec != spec else old.previous_spec,
            changed_at_s=now_s,
        )
    return replace(old, spec=spec, generation=generation, run_generation=generation, changed_at_s=now_s)


def proven(old: DesiredService, generation: int) -> DesiredService:
    """What `generation` having proven itself makes of it: it takes the traffic, unless it is no longer the newest."""
    if generation != old.generation or old.removed:
        return old
    return replace(
        old,
        serving=generation,
        serving_run=old.run_generation,
        serving_spec=old.spec,
        failed_generation=0,
        failure="",
        previous_spec=old.serving_spec or old.previous_spec,
    )


def failed(old: DesiredService, generation: int, failure: str) -> DesiredService:
    """What the failure of `generation` makes of it: whatever served before serves on."""
    if generation != old.generation or old.removed:
        return old
    return replace(old, failed_generation=generation, failure=failure)


@dataclass(frozen=True, slots=True)
class Assign:
    """Have this instance on the node, with these settings."""

    assignment: Assignment
    reason: str


@dataclass(frozen=True, slots=True)
class Unassign:
    """Drain and end this instance. `asked`: somebody asked for it by name (a removal, a scale, a new generation)."""

    instance: str
    project: str
    service: str
    reason: str
    asked: bool


@dataclass(frozen=True, slots=True)
class FetchWeights:
    """Have the weights on this node before anything is started."""

    project: str
    service: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class MakeBuild:
    """Have the app of this generation built on this node before anything is started."""

    project: str
    service: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Prove:
    """Start this instance of a new generation and see it answer."""

    instance: str
    project: str
    service: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Give the traffic to this generation."""

    project: str
    service: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is left of a removed service."""

    project: str
    service: str
    reason: str


Action = Assign | Unassign | FetchWeights | MakeBuild | Prove | Serve | Forget
