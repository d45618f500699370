"""The store in one SQLite file, in WAL mode. Every commit is synced to the disk before it is acknowledged.

Owns the file and its schema version. One process writes (control holds the data directory's lock); others may read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from bastide.adapters.store import schema as s
from bastide.adapters.store.sqliteledger import SqliteLedger
from bastide.domain.decisions import Decision
from bastide.domain.errors import Conflict, NotFound
from bastide.domain.instances import RungFact
from bastide.domain.keys import KeyGrant
from bastide.domain.plan import DesiredService, declared, failed, proven
from bastide.domain.spec import ServiceSpec
from bastide.ports.store import Store

DECISIONS_KEPT = 500


def _json(record: Any) -> str:
    return msgspec.json.encode(record).decode()


class SqliteStore(SqliteLedger, Store):
    """`path`: the database file, made with mode 0600 where it is missing. Raises Unavailable where it can't be used."""

    # --- projects --------------------------------------------------------------------------------------------------

    def projects(self) -> tuple[str, ...]:
        with self._read() as c:
            return tuple(c.scalars(select(s.projects.c.name).order_by(s.projects.c.name)))

    def add_project(self, name: str, now_s: float) -> None:
        with self._write() as c:
            c.execute(upsert(s.projects).values(name=name, created_at_s=now_s).on_conflict_do_nothing())

    def remove_project(self, name: str) -> None:
        with self._write() as c:
            held = c.scalars(select(s.services.c.name).where(s.services.c.project == name)).all()
            if held:
                raise Conflict(f"project {name!r} still has services: {', '.join(held)}; remove them first")
            if c.execute(delete(s.projects).where(s.projects.c.name == name)).rowcount == 0:
                raise NotFound(f"there is no project {name!r}")
            c.execute(delete(s.keys).where(s.keys.c.project == name))
            c.execute(delete(s.secrets).where(s.secrets.c.project == name))

    # --- desired state ---------------------------------------------------------------------------------------------

    def services(self, project: str | None = None) -> tuple[DesiredService, ...]:
        query = select(s.services.c.record).order_by(s.services.c.project, s.services.c.name)
        if project is not None:
            query = query.where(s.services.c.project == project)
        with self._read() as c:
            return tuple(msgspec.json.decode(record, type=DesiredService) for record in c.scalars(query))

    def service(self, project: str, name: str) -> DesiredService | None:
        with self._read() as c:
            return self._service(c, project, name)

    def _service(self, c: Connection, project: str, name: str) -> DesiredService | None:
        record = c.scalar(select(s.services.c.record).where(s.services.c.project == project, s.services.c.name == name))
        return msgspec.json.decode(record, type=DesiredService) if record is not None else None

    def _put(self, c: Connection, service: DesiredService) -> None:
        row = {"project": service.spec.project, "name": service.spec.name, "record": _json(service)}
        c.execute(
            upsert(s.services)
            .values(row)
            .on_conflict_do_update(index_elements=["project", "name"], set_={"record": row["record"]})
        )

    def declare(self, specs: tuple[ServiceSpec, ...], now_s: float) -> tuple[DesiredService, ...]:
        written = []
        with self._write() as c:
            for spec in specs:
                c.execute(upsert(s.projects).values(name=spec.project, created_at_s=now_s).on_conflict_do_nothing())
                service = declared(self._service(c, spec.project, spec.name), spec, now_s)
                self._put(c, service)
                written.append(service)
        return tuple(written)

    def mark_serving(self, project: str, name: str, generation: int) -> None:
        with self._write() as c:
            service = self._service(c, project, name)
            if service is not None:
                self._put(c, proven(service, generation))

    def mark_failed(self, project: str, name: str, generation: int, failure: str) -> None:
        with self._write() as c:
            service = self._service(c, project, name)
            if service is not None:
                self._put(c, failed(service, generation, failure))

    def remove_service(self, project: str, name: str, now_s: float) -> None:
        with self._write() as c:
            service = self._service(c, project, name)
            if service is None or service.removed:
                raise NotFound(f"project {project!r} has no service {name!r}")
            self._put(c, replace(service, removed=True, changed_at_s=now_s))

    def forget_service(self, project: str, name: str) -> None:
        with self._write() as c:
            c.execute(delete(s.services).where(s.services.c.project == project, s.services.c.name == name))
            c.execute(delete(s.decisions).where(s.decisions.c.project == project, s.decisions.c.service == name))

    # --- keys and secrets ------------------------------------------------------------------------------------------

    def keys(self, project: str | None = None) -> tuple[KeyGrant, ...]:
        query = select(s.keys.c.record).order_by(s.keys.c.key_id)
        if project is not None:
            query = query.where(s.keys.c.project == project)
        with self._read() as c:
            return tuple(msgspec.json.decode(record, type=KeyGrant) for record in c.scalars(query))

    def put_key(self, grant: KeyGrant) -> None:
        row = {"key_id": grant.key_id, "project": grant.project, "key_hash": grant.key_hash, "record": _json(grant)}
        with self._write() as c:
            c.execute(upsert(s.keys).values(row).on_conflict_do_update(index_elements=["key_id"], set_=row))

    def revoke_key(self, key_id: str, now_s: float) -> KeyGrant:
        with self._write() as c:
            record = c.scalar(select(s.keys.c.record).where(s.keys.c.key_id == key_id))
            if record is None:
                raise NotFound(f"there is no key {key_id!r}")
            grant = msgspec.json.decode(record, type=KeyGrant)
            if grant.revoked_at_s is None:
                grant = replace(grant, revoked_at_s=now_s)
                c.execute(update(s.keys).where(s.keys.c.key_id == key_id).values(record=_json(grant)))
            return grant

    def secrets(self, project: str) -> tuple[tuple[str, float], ...]:
        query = select(s.secrets.c.name, s.secrets.c.set_at_s).where(s.secrets.c.project == project)
        with self._read() as c:
            return tuple((name, at_s) for name, at_s in c.execute(query.order_by(s.secrets.c.name)))

    def put_secret(self, project: str, name: str, sealed: bytes, now_s: float) -> None:
        row = {"project": project, "name": name, "sealed": sealed, "set_at_s": now_s}
        with self._write() as c:
            c.execute(upsert(s.secrets).values(row).on_conflict_do_update(index_elements=["project", "name"], set_=row))

    def secret(self, project: str, name: str) -> bytes | None:
        with self._read() as c:
            return c.scalar(select(s.secrets.c.sealed).where(s.secrets.c.project == project, s.secrets.c.name == name))

    def remove_secret(self, project: str, name: str) -> None:
        with self._write() as c:
            gone = c.execute(delete(s.secrets).where(s.secrets.c.project == project, s.secrets.c.name == name))
            if gone.rowcount == 0:
                raise NotFound(f"project {project!r} has no secret {name!r}")

    # --- decisions -------------------------------------------------------------------------------------------------

    def add_decisions(self, decisions: tuple[Decision, ...]) -> None:
        if not decisions:
            return
        with self._write() as c:
            c.execute(
                insert(s.decisions),
                [{"project": d.project, "service": d.service, "record": _json(d)} for d in decisions],
            )
            for project, service in {(d.project, d.service) for d in decisions}:
                of_it = and_(s.decisions.c.project == project, s.decisions.c.service == service)
                oldest = c.scalar(
                    select(s.decisions.c.number)
                    .where(of_it)
                    .order_by(s.decisions.c.number.desc())
                    .offset(DECISIONS_KEPT)
                    .limit(1)
                )
                if oldest is not None:
                    c.execute(delete(s.decisions).where(of_it, s.decisions.c.number <= oldest))

    def decisions(self, project: str, service: str, limit: int) -> tuple[Decision, ...]:
        query = (
            select(s.decisions.c.record)
            .where(s.decisions.c.project == project, s.decisions.c.service == service)
            .order_by(s.decisions.c.number.desc())
            .limit(limit)
        )
        with self._read() as c:
            newest = [msgspec.json.decode(record, type=Decision) for record in c.scalars(query)]
        return tuple(reversed(newest))

    # --- facts, settings -----------------------------------------------------------------------------------------------

    def facts(self) -> tuple[RungFact, ...]:
        query = select(s.facts.c.record).order_by(s.facts.c.weights_sha256, s.facts.c.rung)
        with self._read() as c:
            return tuple(msgspec.json.decode(record, type=RungFact) for record in c.scalars(query))

    def put_fact(self, fact: RungFact) -> None:
        row = {"weights_sha256": fact.weights_sha256, "rung": fact.rung, "record": _json(fact)}
        with self._write() as c:
            c.execute(
                upsert(s.facts).values(row).on_conflict_do_update(index_elements=["weights_sha256", "rung"], set_=row)
            )

    def setting(self, name: str) -> str | None:
        with self._read() as c:
            return c.scalar(select(s.settings.c.value).where(s.settings.c.name == name))

    def put_setting(self, name: str, value: str) -> None:
        row = {"name": name, "value": value}
        with self._write() as c:
            c.execute(upsert(s.settings).values(row).on_conflict_do_update(index_elements=["name"], set_=row))

    # --- whole -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.put_setting("checked", "yes")
