"""What a user declares: services and their settings, valid by construction once parsed (control/specfile.py parses)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bastide.domain.apps import AppSpec, launch_parts


class ServiceKind(StrEnum):
    MODEL = "model"
    APP = "app"


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many instances: at least `least` awake always, at most `most`. `0..2` may sleep wholly; `1..` keeps one awake."""

    least: int = 0
    most: int = 1


class SleepMode(StrEnum):
    OFF = "off"  # never sleep
    TIMERS = "timers"  # step down after the times given
    AUTO = "auto"  # policy picks the rung and the time by measured cost


@dataclass(frozen=True, slots=True)
class SleepSettings:
    """After how many idle seconds an instance steps down; None: not to that rung."""

    mode: SleepMode = SleepMode.AUTO
    frozen_s: float | None = None
    light_s: float | None = None
    deep_s: float | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """Prices in pico-units: per token (equal to micro-units per million tokens) and per instance-second awake."""

    input_pico_per_token: int = 0
    cached_input_pico_per_token: int = 0
    output_pico_per_token: int = 0
    instance_pico_per_hour: int = 0


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """What happens to requests while a service wakes: how long and how many may wait."""

    wait_s_max: float = 300.0
    queue_max: int = 256


@dataclass(frozen=True, slots=True)
class Resources:
    """What one instance may use. `memory_bytes` None: measured, not guessed (the weights and context give the first guess)."""

    memory_bytes: int | None = None
    cpu: float = 2.0


@dataclass(frozen=True, slots=True)
class OutsideEndpoint:
    """An OpenAI-compatible server that Bastide does not run: base URL ending in /v1, the model's name there, a secret's name."""

    url: str
    model: str
    key_secret: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where weights come from. `url` is as the user wrote it: builtin://, hf://, file://, https://, http://, s3://."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One declared service of a project. Exactly one of `model` and `endpoint` is set for kind `model`, `app` for `app`."""

    project: str
    name: str
    kind: ServiceKind = ServiceKind.MODEL
    model: ModelSource | None = None
    endpoint: OutsideEndpoint | None = None
    engine: str = "auto"
    replicas: Replicas = field(default_factory=Replicas)
    target_in_flight: int = 4
    sleep: SleepSettings = field(default_factory=SleepSettings)
    price: Price = field(default_factory=Price)
    hold: HoldSettings = field(default_factory=HoldSettings)
    resources: Resources = field(default_factory=Resources)
    context_tokens: int = 4096
    embeddings: bool = False
    app: AppSpec | None = None


def launch_key(spec: ServiceSpec) -> tuple[object, ...]:
    """What a running instance can't change: two specs with equal keys can be served by the same processes."""
    return (
        spec.kind,
        spec.model,
        spec.endpoint,
        spec.engine,
        min(spec.target_in_flight, 16) if spec.app is None else 0,
        spec.resources,
        spec.context_tokens,
        spec.embeddings,
        launch_parts(spec.app) if spec.app is not None else None,
    )
