"""From desired state to the table that gateways serve by. Pure but for opening secrets, which is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bastide.domain.identity import instance_id
from bastide.domain.keys import KeyGrant
from bastide.domain.plan import DesiredService
from bastide.domain.routes import AppRoute, InstanceRef, ModelRoute, OutsideTarget, RoutingTable, ServiceRoute


def table(
    revision: int,
    services: Iterable[DesiredService],
    keys: Iterable[KeyGrant],
    agent_socket: str,
    open_secret: Callable[[str, str], str | None],
) -> RoutingTable:
    """The whole table. `open_secret(project, name)` gives a secret in clear, or None where there is none."""
    routes: list[ServiceRoute] = []
    models: list[ModelRoute] = []
    for service in services:
        if service.removed:
            continue
        served = service.serving_spec or service.spec
        if served.app is not None and served.app.job is not None:
            continue  # a job takes no requests
        routes.append(_route(service, agent_socket, open_secret))
        if service.spec.app is None:
            models.append(ModelRoute(service.spec.project, service.spec.name, ((service.spec.name, 1),)))
    live = tuple(key for key in keys if key.revoked_at_s is None)
    return RoutingTable(revision, tuple(routes), tuple(models), live)


def _route(service: DesiredService, agent_socket: str, open_secret: Callable[[str, str], str | None]) -> ServiceRoute:
    spec = service.serving_spec or service.spec
    unavailable = None
    if service.serving_spec is None:
        name = spec.name
        unavailable = (
            f"{name} could not be deployed: {service.failure}"
            if service.failed_generation == service.generation
            else f"{name} is still being deployed; `bastide ps` shows how far it is"
        )
    outside = None
    if spec.endpoint is not None:
        key = open_secret(spec.project, spec.endpoint.key_secret) if spec.endpoint.key_secret else None
        if spec.endpoint.key_secret and key is None:
            unavailable = (
                f"{spec.name} needs the secret {spec.endpoint.key_secret!r}; "
                f"set it with `bastide secrets set {spec.endpoint.key_secret}`"
            )
        outside = OutsideTarget(spec.endpoint.url, spec.endpoint.model, key)
    instances: tuple[InstanceRef, ...] = ()
    if (spec.model is not None or spec.app is not None) and unavailable is None:
        instances = tuple(
            InstanceRef(instance_id(spec.project, spec.name, service.serving_run, index), agent_socket)
            for index in range(spec.replicas.most)
        )
    return ServiceRoute(
        project=spec.project,
        service=spec.name,
        generation=service.serving,
        price=spec.price,
        hold=spec.hold,
        target_in_flight=spec.target_in_flight,
        context_tokens=spec.context_tokens,
        embeddings=spec.embeddings,
        instances=instances,
        outside=outside,
        unavailable=unavailable,
        created_at_s=service.created_at_s,
        app=AppRoute(spec.app.public, spec.app.domains, spec.app.target) if spec.app is not None else None,
    )
