"""The store in memory: for tests and the simulator. Same contract as SQLite, nothing durable."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from bastide.adapters.store.days import day_of
from bastide.domain.decisions import Decision
from bastide.domain.errors import Conflict, NotFound, Unsupported
from bastide.domain.instances import RungFact
from bastide.domain.keys import KeyGrant
from bastide.domain.ledger import Account, EngineCount, InstanceTime, Settlement, Tokens
from bastide.domain.plan import DesiredService, declared, failed, proven
from bastide.domain.spec import ServiceSpec
from bastide.ports.store import Store, TimeRow, UsageFilter, UsageRow

DECISIONS_KEPT = 500


class MemoryStore(Store):
    """Everything in dictionaries."""

    def __init__(self) -> None:
        self._projects: set[str] = set()
        self._services: dict[tuple[str, str], DesiredService] = {}
        self._keys: dict[str, KeyGrant] = {}
        self._secrets: dict[tuple[str, str], tuple[bytes, float]] = {}
        self._decisions: dict[tuple[str, str], list[Decision]] = defaultdict(list)
        self._settlements: dict[str, Settlement] = {}
        self._times: dict[str, InstanceTime] = {}
        self._counts: dict[tuple[str, str], EngineCount] = {}
        self._positions: dict[str, int] = {}
        self._slices: dict[tuple[str, float], dict[str, int]] = defaultdict(dict)
        self._facts: dict[tuple[str, str], RungFact] = {}
        self._settings: dict[str, str] = {}

    def projects(self) -> tuple[str, ...]:
        return tuple(sorted(self._projects))

    def add_project(self, name: str, now_s: float) -> None:
        self._projects.add(name)

    def remove_project(self, name: str) -> None:
        held = [service for project, service in self._services if project == name]
        if held:
            raise Conflict(f"project {name!r} still has services: {', '.join(sorted(held))}; remove them first")
        if name not in self._projects:
            raise NotFound(f"there is no project {name!r}")
        self._projects.remove(name)
        self._keys = {key_id: key for key_id, key in self._keys.items() if key.project != name}
        self._secrets = {key: value for key, value in self._secrets.items() if key[0] != name}

    def services(self, project: str | None = None) -> tuple[DesiredService, ...]:
        return tuple(self._services[key] for key in sorted(self._services) if project in (None, key[0]))

    def service(self, project: str, name: str) -> DesiredService | None:
        return self._services.get((project, name))

    def declare(self, specs: tuple[ServiceSpec, ...], now_s: float) -> tuple[DesiredService, ...]:
        written = []
        for spec in specs:
            self._projects.add(spec.project)
            key = (spec.project, spec.name)
            self._services[key] = declared(self._services.get(key), spec, now_s)
            written.append(self._services[key])
        return tuple(written)

    def mark_serving(self, project: str, name: str, generation: int) -> None:
        if (project, name) in self._services:
            self._services[project, name] = proven(self._services[project, name], generation)

    def mark_failed(self, project: str, name: str, generation: int, failure: str) -> None:
        if (project, name) in self._services:
            self._services[project, name] = failed(self._services[project, name], generation, failure)

    def remove_service(self, project: str, name: str, now_s: float) -> None:
        service = self._services.get((project, name))
        if service is None or service.removed:
            raise NotFound(f"project {project!r} has no service {name!r}")
        self._services[project, name] = replace(service, removed=True, changed_at_s=now_s)

    def forget_service(self, project: str, name: str) -> None:
        self._services.pop((project, name), None)
        self._decisions.pop((project, name), None)

    def keys(self, project: str | None = None) -> tuple[KeyGrant, ...]:
        return tuple(
            self._keys[key_id] for key_id in sorted(self._keys) if project in (None, self._keys[key_id].project)
        )

    def put_key(self, grant: KeyGrant) -> None:
        if any(key.key_hash == grant.key_hash and key.key_id != grant.key_id for key in self._keys.values()):
            raise Conflict("the store refused a duplicate: this key exists already")
        self._keys[grant.key_id] = grant

    def revoke_key(self, key_id: str, now_s: float) -> KeyGrant:
        grant = self._keys.get(key_id)
        if grant is None:
            raise NotFound(f"there is no key {key_id!r}")
        if grant.revoked_at_s is None:
            grant = self._keys[key_id] = replace(grant, revoked_at_s=now_s)
        return grant

    def secrets(self, project: str) -> tuple[tuple[str, float], ...]:
        return tuple((name, at_s) for (owner, name), (_, at_s) in sorted(self._secrets.items()) if owner == project)

    def put_secret(self, project: str, name: str, sealed: bytes, now_s: float) -> None:
        self._secrets[project, name] = (sealed, now_s)

    def secret(self, project: str, name: str) -> bytes | None:
        found = self._secrets.get((project, name))
        return found[0] if found is not None else None

    def remove_secret(self, project: str, name: str) -> None:
        if self._secrets.pop((project, name), None) is None:
            raise NotFound(f"project {project!r} has no secret {name!r}")

    def add_decisions(self, decisions: tuple[Decision, ...]) -> None:
        for decision in decisions:
            kept = self._decisions[decision.project, decision.service]
            kept.append(decision)
            del kept[:-DECISIONS_KEPT]

    def decisions(self, project: str, service: str, limit: int) -> tuple[Decision, ...]:
        return tuple(self._decisions.get((project, service), [])[-limit:])

    def fold(
        self,
        journal: str,
        position: int,
        settlements: tuple[Settlement, ...],
        times: tuple[InstanceTime, ...],
        counts: tuple[EngineCount, ...] = (),
    ) -> int:
        before = len(self._settlements) + len(self._times)
        for settlement in settlements:
            self._settlements.setdefault(settlement.event_id, settlement)
        for spent in times:
            self._times.setdefault(spent.event_id, spent)
        for count in counts:
            self._counts[count.instance, count.process] = count
        self._positions[journal] = position
        return len(self._settlements) + len(self._times) - before

    def engine_tokens(self, instance: str) -> Tokens:
        return _sum([count.tokens for count in self._counts.values() if count.instance == instance])

    def all_engine_tokens(self, project: str | None, service: str | None) -> Tokens:
        counts = self._counts.values()
        return _sum([c.tokens for c in counts if project in (None, c.project) and service in (None, c.service)])

    def instance_tokens(self, instance: str) -> Tokens:
        return _sum([e.tokens for e in self._settlements.values() if e.instance == instance])

    def journal_position(self, journal: str) -> int:
        return self._positions.get(journal, 0)

    def forget_journal(self, journal: str) -> None:
        self._positions.pop(journal, None)

    def usage(self, where: UsageFilter) -> tuple[UsageRow, ...]:
        sums: dict[tuple[str, str, str, str, str], list[int]] = defaultdict(lambda: [0] * 5)
        for e in self._settlements.values():
            if _within(where, e) and where.key_id in (None, e.key_id):
                row = sums[e.project, e.service, e.key_id, day_of(e.at_s), e.account.value]
                t = e.tokens
                added = (1, t.input_tokens, t.cached_input_tokens, t.output_tokens, e.cost_pico)
                row[:] = [old + new for old, new in zip(row, added, strict=True)]
        return tuple(UsageRow(*key, *sums[key]) for key in sorted(sums))

    def instance_time(self, where: UsageFilter) -> tuple[TimeRow, ...]:
        seconds: dict[tuple[str, str, str, str], float] = defaultdict(float)
        costs: dict[tuple[str, str, str, str], int] = defaultdict(int)
        for e in self._times.values():
            if _within(where, e):
                key = (e.project, e.service, day_of(e.at_s), e.phase)
                seconds[key] += e.seconds
                costs[key] += e.cost_pico
        return tuple(TimeRow(*key, seconds[key], costs[key]) for key in sorted(seconds))

    def spent_pico(self, key_id: str, since_s: float, event_prefix: str = "") -> int:
        return sum(
            e.cost_pico
            for e in self._settlements.values()
            if e.key_id == key_id
            and e.at_s >= since_s
            and e.account is Account.USER
            and e.event_id.startswith(event_prefix)
        )

    def slices(self, key_id: str, window_start_s: float) -> dict[str, int]:
        return dict(self._slices.get((key_id, window_start_s), {}))

    def put_slice(self, key_id: str, window_start_s: float, worker: str, granted_pico: int) -> None:
        self._slices[key_id, window_start_s][worker] = granted_pico

    def facts(self) -> tuple[RungFact, ...]:
        return tuple(self._facts[key] for key in sorted(self._facts))

    def put_fact(self, fact: RungFact) -> None:
        self._facts[fact.weights_sha256, fact.rung] = fact

    def setting(self, name: str) -> str | None:
        return self._settings.get(name)

    def put_setting(self, name: str, value: str) -> None:
        self._settings[name] = value

    def check(self) -> None:
        return

    def backup_to(self, path: str) -> None:
        raise Unsupported("a store in memory has nothing to back up")

    def close(self) -> None:
        return


def _within(where: UsageFilter, e: Settlement | InstanceTime) -> bool:
    return (
        where.project in (None, e.project)
        and where.service in (None, e.service)
        and (where.since_s is None or e.at_s >= where.since_s)
        and (where.until_s is None or e.at_s < where.until_s)
    )


def _sum(found: list[Tokens]) -> Tokens:
    return Tokens(
        sum(t.input_tokens for t in found),
        sum(t.cached_input_tokens for t in found),
        sum(t.output_tokens for t in found),
    )
