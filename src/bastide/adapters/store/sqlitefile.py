"""One SQLite file in WAL mode, at our schema's newest version; every commit is synced before it is acknowledged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from bastide.domain.errors import Conflict, Unavailable

MIGRATIONS = Path(__file__).with_name("migrations")


class SqliteFile:
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
