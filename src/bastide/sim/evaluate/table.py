"""Reading traces: CSV and Parquet with the columns they must have. Owns the errors of bad files; knows no trace."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from bastide.domain.errors import InvalidRequest

PARQUET = b"PAR1"
TORN = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)
# DuckDB begins what it says with its own name for the kind of error.
DUCKDB_KIND = re.compile(r"^[A-Z][A-Za-z ]* Error: ")


def find(directory: Path, name: str) -> Path:
    """The file of that name. Raises InvalidRequest where it is not there."""
    path = directory / name
    if not path.is_file():
        raise InvalidRequest(
            f"there is no {name} in {directory}; `--data` must name a directory with the public traces"
        )
    return path


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file, plain or gzipped, with their lines. Raises InvalidRequest where it is torn or lacks a column."""
    try:
        with _open(path) as file:
            reader = csv.DictReader(file)
            lacks = [column for column in columns if column not in (reader.fieldnames or ())]
            if lacks:
                raise InvalidRequest(f"{path}, line 1: lacks the column {lacks[0]}")
            for row in reader:
                if any(row[column] is None for column in columns):
                    raise InvalidRequest(f"{path}, line {reader.line_num}: is torn, it lacks values")
                yield reader.line_num, row
    except TORN as error:
        raise _unreadable(path, error) from None


def csv_columns(path: Path) -> list[str]:
    """The names in the first line; empty where there is none that can be read."""
    try:
        with _open(path) as file:
            return next(csv.reader(file), [])
    except TORN:
        return []


def _unreadable(path: Path, error: Exception) -> InvalidRequest:
    if isinstance(error, gzip.BadGzipFile):
        return InvalidRequest(f"{path} is not gzipped, though its name says so")
    if isinstance(error, OSError):
        return InvalidRequest(f"{path} can't be read: {error.strerror or error}")
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest(f"{path} is not text (UTF-8), or not what its name says")
    return InvalidRequest(f"{path} is torn or not what its name says: {error}")


def _open(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"), "utf-8", newline="")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file, plain or gzipped, numbered from 1."""
    try:
        with _open(path) as file:
            yield from enumerate(file, 1)
    except TORN as error:
        raise _unreadable(path, error) from None


def whole(value: Any, least: int, what: str) -> int:
    """A whole number of at least `least`; `what` names file, line and column in the error."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number != int(number) or number < least:
        raise InvalidRequest(f"{what}: {value!r} is not a whole number from {least} up")
    return int(number)


def parquet_rows(path: Path, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """What `query` finds in a Parquet file that it calls `trace`. Raises InvalidRequest where it can't be read."""
    try:
        with path.open("rb") as file:
            if file.read(len(PARQUET)) != PARQUET:
                raise InvalidRequest(f"{path} is no Parquet file")
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        with duckdb.connect() as connection:
            connection.execute("set threads = 1")
            relation = connection.read_parquet(str(path))
            relation.create_view("trace")
            return connection.execute(query, list(parameters)).fetchall()
    except (duckdb.InterruptException, RuntimeError) as error:
        if "interrupted" not in str(error).lower():
            raise
        # What DuckDB makes of Ctrl-C.
        raise KeyboardInterrupt from None
    except duckdb.Error as error:
        said = DUCKDB_KIND.sub("", str(error).partition("\n")[0])
        raise InvalidRequest(f"{path} is torn or lacks a column: {said}") from None
