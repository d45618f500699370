"""The store in one SQLite file, in WAL mode. Every commit is synced to the disk before it is acknowledged.

Owns the file and its schema version. One process writes (control holds the data directory's lock); others may read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, and_, create_engine, delete, event, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlalchemy.sql.elements import ColumnElement

from bastide.adapters.store import schema as s
from bastide.adapters.store.days import day_of
from bastide.domain.decisions import Decision
from bastide.domain.errors import Conflict, NotFound, Unavailable
from bastide.domain.instances import RungFact
from bastide.domain.keys import KeyGrant
from bastide.domain.ledger import Account, EngineCount, InstanceTime, Settlement, Tokens
from bastide.domain.plan import DesiredService, declared, failed, proven
from bastide.domain.spec import ServiceSpec
from bastide.ports.store import Store, TimeRow, UsageFilter, UsageRow

DECISIONS_KEPT = 500
MIGRATIONS = Path(__file__).with_name("migrations")


def _json(record: Any) -> str:
    return msgspec.json.encode(record).decode()


class SqliteStore(Store):
    """`path`: the database file, made with mode 0600 where it is missing. Raises Unavailable where it can't be used."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _explained(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._engine: Engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10.0})
        event.listen(self._engine, "connect", _prepare)
        with self._write() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextlib.contextmanager
    def _write(self) -> Iterator[Connection]:
        with _explained(self._path), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _read(self) -> Iterator[Connection]:
        with _explained(self._path), self._engine.connect() as connection:
            yield connection

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

    # --- ledger ----------------------------------------------------------------------------------------------------

    def fold(
        self,
        journal: str,
        position: int,
        settlements: tuple[Settlement, ...],
        times: tuple[InstanceTime, ...],
        counts: tuple[EngineCount, ...] = (),
    ) -> int:
        with self._write() as c:
            new = 0
            for settlement in settlements:
                new += c.execute(upsert(s.settlements).values(_settled(settlement)).on_conflict_do_nothing()).rowcount
            for spent in times:
                new += c.execute(upsert(s.instance_times).values(_spent(spent)).on_conflict_do_nothing()).rowcount
            for count in counts:
                row = {**msgspec.to_builtins(count.tokens), "project": count.project, "service": count.service}
                row |= {"instance": count.instance, "process": count.process}
                keys = ["instance", "process"]
                c.execute(upsert(s.engine_counts).values(row).on_conflict_do_update(index_elements=keys, set_=row))
            place: dict[str, Any] = {"journal": journal, "position": position}
            c.execute(upsert(s.journals).values(place).on_conflict_do_update(index_elements=["journal"], set_=place))
            return new

    def engine_tokens(self, instance: str) -> Tokens:
        return self._tokens(s.engine_counts.c, s.engine_counts.c.instance == instance)

    def all_engine_tokens(self, project: str | None, service: str | None) -> Tokens:
        t = s.engine_counts.c
        bounds = [t.project == project] if project is not None else []
        bounds += [t.service == service] if service is not None else []
        return self._tokens(t, *bounds)

    def instance_tokens(self, instance: str) -> Tokens:
        return self._tokens(s.settlements.c, s.settlements.c.instance == instance)

    def _tokens(self, table: Any, *bounds: ColumnElement[bool]) -> Tokens:
        columns = (table.input_tokens, table.cached_input_tokens, table.output_tokens)
        query = select(*(func.coalesce(func.sum(column), 0) for column in columns)).where(*bounds)
        with self._read() as c:
            row = c.execute(query).one()
            return Tokens(int(row[0]), int(row[1]), int(row[2]))

    def journal_position(self, journal: str) -> int:
        with self._read() as c:
            return c.scalar(select(s.journals.c.position).where(s.journals.c.journal == journal)) or 0

    def forget_journal(self, journal: str) -> None:
        with self._write() as c:
            c.execute(delete(s.journals).where(s.journals.c.journal == journal))

    def usage(self, where: UsageFilter) -> tuple[UsageRow, ...]:
        t = s.settlements.c
        groups = (t.project, t.service, t.key_id, t.day, t.account)
        query = (
            select(
                *groups,
                func.count(),
                func.sum(t.input_tokens),
                func.sum(t.cached_input_tokens),
                func.sum(t.output_tokens),
                func.sum(t.cost_pico),
            )
            .where(*_where(t, where))
            .group_by(*groups)
            .order_by(*groups)
        )
        if where.key_id is not None:
            query = query.where(t.key_id == where.key_id)
        with self._read() as c:
            return tuple(UsageRow(*row) for row in c.execute(query))

    def instance_time(self, where: UsageFilter) -> tuple[TimeRow, ...]:
        t = s.instance_times.c
        groups = (t.project, t.service, t.day, t.phase)
        query = (
            select(*groups, func.sum(t.seconds), func.sum(t.cost_pico))
            .where(*_where(t, where))
            .group_by(*groups)
            .order_by(*groups)
        )
        with self._read() as c:
            return tuple(TimeRow(*row) for row in c.execute(query))

    def spent_pico(self, key_id: str, since_s: float, event_prefix: str = "") -> int:
        t = s.settlements.c
        query = select(func.coalesce(func.sum(t.cost_pico), 0)).where(
            t.key_id == key_id, t.at_s >= since_s, t.account == Account.USER.value
        )
        if event_prefix:
            query = query.where(t.event_id.startswith(event_prefix, autoescape=True))
        with self._read() as c:
            return int(c.scalar(query) or 0)

    # --- slices, facts, settings -----------------------------------------------------------------------------------

    def slices(self, key_id: str, window_start_s: float) -> dict[str, int]:
        t = s.slices.c
        query = select(t.worker, t.granted_pico).where(t.key_id == key_id, t.window_start_s == window_start_s)
        with self._read() as c:
            return {row.worker: row.granted_pico for row in c.execute(query)}

    def put_slice(self, key_id: str, window_start_s: float, worker: str, granted_pico: int) -> None:
        row = {"key_id": key_id, "window_start_s": window_start_s, "worker": worker, "granted_pico": granted_pico}
        keys = ["key_id", "window_start_s", "worker"]
        with self._write() as c:
            c.execute(upsert(s.slices).values(row).on_conflict_do_update(index_elements=keys, set_=row))

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

    def backup_to(self, path: str) -> None:
        with _explained(path):
            source, target = sqlite3.connect(self._path), sqlite3.connect(path)
            try:
                os.chmod(path, 0o600)
                source.backup(target)
            finally:
                source.close()
                target.close()

    def close(self) -> None:
        self._engine.dispose()


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Say plainly what is wrong with the disk or the file."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"the store refused a duplicate: {error.orig}") from None
    except (OperationalError, DatabaseError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or error
        raise Unavailable(
            f"the store {path} can't be used: {cause}. Is the disk full, or the directory not writable? "
            "Nothing acknowledged is lost; try again once that is mended.",
            retry_after_s=5.0,
        ) from None
    except OSError as error:
        raise Unavailable(f"the store {path} can't be used: {error.strerror}", retry_after_s=5.0) from None


def _where(table: Any, where: UsageFilter) -> list[ColumnElement[bool]]:
    bounds: list[ColumnElement[bool]] = []
    if where.project is not None:
        bounds.append(table.project == where.project)
    if where.service is not None:
        bounds.append(table.service == where.service)
    if where.since_s is not None:
        bounds.append(table.at_s >= where.since_s)
    if where.until_s is not None:
        bounds.append(table.at_s < where.until_s)
    return bounds


def _settled(settlement: Settlement) -> dict[str, Any]:
    row = msgspec.to_builtins(settlement)
    tokens = row.pop("tokens")
    return {**row, **tokens, "day": day_of(settlement.at_s)}


def _spent(spent: InstanceTime) -> dict[str, Any]:
    return {**msgspec.to_builtins(spent), "day": day_of(spent.at_s)}
