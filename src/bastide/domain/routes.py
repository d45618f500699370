"""What a gateway needs to know to serve: services, routes and keys, as control last pushed them.

Owns the routing table. It holds no live state (who is awake, who is busy): that lives in the gateway, by lease.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bastide.domain.apps import Target
from bastide.domain.keys import KeyGrant
from bastide.domain.spec import HoldSettings, Price


@dataclass(frozen=True, slots=True)
class InstanceRef:
    """An instance that may take requests, and the agent that can wake it (`agent`: path of its Unix socket)."""

    instance: str
    agent: str


@dataclass(frozen=True, slots=True)
class OutsideTarget:
    """An outside OpenAI-compatible server, key in clear: this never leaves memory except to the gateways' socket."""

    url: str
    model: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class AppRoute:
    """How an app is reached beside NAME.PROJECT.localhost and /apps/PROJECT/NAME/. `public`: who asks needs no key.

    `target`: what one instance should carry, beside the requests in flight.
    """

    public: bool = False
    domains: tuple[str, ...] = ()
    target: Target = Target()


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """One serving generation of one service. `instances` are in order of preference, the first fills first.

    `unavailable` says why it can't serve, where it can't (then no instance is tried).
    """

    project: str
    service: str
    generation: int
    price: Price = Price()
    hold: HoldSettings = HoldSettings()
    target_in_flight: int = 4
    context_tokens: int = 4096
    embeddings: bool = False
    instances: tuple[InstanceRef, ...] = ()
    outside: OutsideTarget | None = None
    unavailable: str | None = None
    created_at_s: float = 0.0
    app: AppRoute | None = None  # None: it serves a model


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """A public model name of a project -> weighted services, then fallbacks in order."""

    project: str
    model: str
    services: tuple[tuple[str, int], ...]
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Everything at once; `revision` grows with every push, so that a late one never replaces a newer."""

    revision: int = 0
    services: tuple[ServiceRoute, ...] = ()
    models: tuple[ModelRoute, ...] = ()
    keys: tuple[KeyGrant, ...] = ()
    draining: tuple[str, ...] = field(default_factory=tuple)
