"""A result as files for programs: JSON, and Parquet tables. Owns the files' shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from bastide.domain.errors import InvalidRequest
from bastide.sim.run import Result
from bastide.sim.sizing import Sized


def check(scenario: Path, files: Mapping[str, Path | None], directory: Path | None) -> None:
    """Raises InvalidRequest where what is wanted can't be written, or would write over something; asked before a long run.

    `files`: by the option that names them.
    """
    taken = {scenario.resolve(): "the scenario itself"}
    for option, file in files.items():
        if file is None:
            continue
        if file.resolve() in taken:
            raise InvalidRequest(f"`{option}` {file} would write over {taken[file.resolve()]}; name another file")
        taken[file.resolve()] = f"what `{option}` writes"
        check_file(file)
    if directory is not None:
        check_directory(directory)


def check_file(path: Path) -> None:
    """Raises InvalidRequest where no file can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        with path.open("a"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise InvalidRequest(f"{path} can't be written: {error.strerror or error}") from None


def check_directory(path: Path) -> None:
    """The same for tables, of which there are several."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"{path} can't be a directory for tables: {error.strerror or error}") from None


def plain(results: Sequence[Result], sized: Sized | None = None) -> dict[str, Any]:
    """All runs, whole; and what `--size` found."""
    runs = {"runs": [result.plain() for result in results]}
    if sized is None:
        return runs
    return {"size": {"enough": sized.enough, "written": sized.written, "nodes": list(results[0].nodes)}, **runs}


def write_json(results: Sequence[Result], path: Path, sized: Sized | None = None) -> None:
    _written(path, json.dumps(plain(results, sized), indent=1) + "\n")


def write_text(text: str, path: Path) -> None:
    _written(path, text)


def _written(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} can't be written: {error}") from None


def write_parquet(results: Sequence[Result], directory: Path) -> list[Path]:
    """`figures`, `timeline`, `nodes`, `locations`, `faults` and `reasons`, a row for each, with policy and seed."""
    tables: dict[str, list[dict[str, Any]]] = {
        "figures": [], "timeline": [], "nodes": [], "locations": [], "faults": [], "reasons": [],
    }  # fmt: skip
    for result in results:
        of = {"policy": result.policy, "seed": result.seed}
        own = result.plain()
        tables["figures"].append({**of, **own["figures"], **{f"wakes_{k}": v for k, v in result.wakes.items()}})
        for sample in own["timeline"]:
            wakes = sample.pop("wakes")
            tables["timeline"].append(
                {**of, **sample, **{f"wakes_{rung}": wakes.get(rung, 0) for rung in result.wakes}}
            )
        tables["locations"] += [{**of, "location": name, **one} for name, one in result.by_location.items()]
        for name in ("nodes", "faults", "reasons"):
            tables[name] += [{**of, **one} for one in own[name]]
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as connection:
            connection.execute("set threads = 1")
            for name, rows in tables.items():
                if rows:
                    path = directory / f"{name}.parquet"
                    _copy(connection, rows, path)
                    written.append(path)
    except (OSError, duckdb.Error) as error:
        raise InvalidRequest(f"{directory} can't be written: {error}") from None
    return written


def _copy(connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], path: Path) -> None:
    kinds = {str: "varchar", int: "bigint", float: "double", bool: "boolean"}
    columns = ", ".join(f'"{key}" {kinds[type(value)]}' for key, value in rows[0].items())
    connection.execute(f"create or replace table rows ({columns})")
    marks = ", ".join("?" for _ in rows[0])
    connection.executemany(f"insert into rows values ({marks})", [list(row.values()) for row in rows])
    connection.execute("copy rows to '" + str(path).replace("'", "''") + "' (format parquet)")
