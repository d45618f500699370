"""The routing table, indexed for the data path: keys by hash, models and services by project.

Owns lookups alone; a new table makes a new Directory, so that a request sees one table from start to end.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from bastide.domain.errors import ModelNotFound
from bastide.domain.keys import KeyGrant
from bastide.domain.routes import ModelRoute, RoutingTable, ServiceRoute

_EMPTY: dict[str, ModelRoute] = {}


class Directory:
    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self.keys: dict[str, KeyGrant] = {grant.key_hash: grant for grant in table.keys}
        self.services: dict[tuple[str, str], ServiceRoute] = {(s.project, s.service): s for s in table.services}
        # Apps by host name: their own domains, and NAME.PROJECT.localhost.
        self.hosts: dict[str, ServiceRoute] = {}
        for service in table.services:
            if service.app is not None:
                self.hosts[f"{service.service}.{service.project}.localhost"] = service
                self.hosts.update(dict.fromkeys(service.app.domains, service))
        self._models: dict[str, dict[str, ModelRoute]] = {}
        for route in table.models:
            self._models.setdefault(route.project, {})[route.model] = route

    def model(self, grant: KeyGrant, model: str) -> ModelRoute:
        """The route of a model name for this key. ModelNotFound lists those that exist for it."""
        route = self._models.get(grant.project, _EMPTY).get(model)
        if route is None or not grant.allows_model(model):
            names = [route.model for route in self.models(grant)]
            known = f"models you can use: {', '.join(names[:50])}" if names else "this key has no models yet"
            raise ModelNotFound(f"the model {model[:100]!r} does not exist for this key; {known}", param="model")
        return route

    def models(self, grant: KeyGrant) -> list[ModelRoute]:
        """Every model this key may use, by name."""
        routes = self._models.get(grant.project, _EMPTY)
        return [routes[name] for name in sorted(routes) if grant.allows_model(name)]

    def created_at_s(self, route: ModelRoute) -> float:
        for name, _ in route.services:
            service = self.services.get((route.project, name))
            if service is not None:
                return service.created_at_s
        return 0.0


def without_secrets(table: RoutingTable) -> RoutingTable:
    """The table as it may lie on disk: outside keys left out, those services marked as unavailable until control is back."""
    return replace(
        table,
        services=tuple(
            service
            if service.outside is None or service.outside.key is None
            else replace(
                service,
                outside=replace(service.outside, key=None),
                unavailable=service.unavailable or "its outside key is not known until the control plane is back",
            )
            for service in table.services
        ),
    )


def read_cached(path: str) -> RoutingTable | None:
    """The last table this machine's gateway saw, or None where there is none that can be read."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=RoutingTable)
    except (OSError, msgspec.MsgspecError):
        return None
