"""What was used and what it cost, in the SQLite file: folded in from the journals once each, summed for whoever asks."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.elements import ColumnElement

from bastide.adapters.store import schema as s
from bastide.adapters.store.days import day_of
from bastide.adapters.store.sqlitefile import SqliteFile
from bastide.domain.ledger import Account, EngineCount, InstanceTime, Settlement, Tokens
from bastide.ports.store import TimeRow, UsageFilter, UsageRow


class SqliteLedger(SqliteFile):
    """See the port."""

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
