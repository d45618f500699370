"""What a benchmark leaves behind: a table for people, and benchmarks/results/NAME.json for benchmarks/render.py."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `met` None: no bar, or not measured here; then `why` says so."""

    figure: str
    bar: str
    measured: str
    met: bool | None
    why: str = ""


@dataclass(slots=True)
class Record:
    """`details`: every number behind the rows, units in the names."""

    name: str
    predicted: str
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def row(self, figure: str, bar: str, measured: str, met: bool | None, why: str = "") -> None:
        self.rows.append(Row(figure, bar, measured, met, why))
        print(f"{figure:72} {bar:>14} {measured:>34}  {verdict(self.rows[-1])}", flush=True)

    def write(self, quick: bool, out: Path | None) -> None:
        """A quick run proves only that the script works: it never replaces figures."""
        target = out or RESULTS / f"{self.name}.json"
        if quick and out is None:
            print(f"a quick run: {target} stays as it is")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        body = {
            "name": self.name,
            "command": f"python -m benchmarks.{self.name} {' '.join(_public(sys.argv[1:]))}".strip(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine(),
            "quick": quick,
            "predicted": self.predicted,
            "rows": [asdict(row) for row in self.rows],
            "details": self.details,
        }
        target.write_text(json.dumps(body, indent=1) + "\n")


def verdict(row: Row) -> str:
    word = {True: "met", False: "MISSED", None: "-"}[row.met]
    return f"{word}: {row.why}" if row.why else word


def predicted(docstring: str | None) -> str:
    """The part of a script's docstring that was written before measuring."""
    return " ".join((docstring or "").partition("Predicted before measuring:")[2].split())


def machine() -> str:
    """In words: cores, memory, swap; no names."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} virtual cores ({model}), {total_kib / 2**20:.0f} GiB of memory, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def _public(words: list[str]) -> list[str]:
    """Without where it was written to; where the work was done differs everywhere."""
    pairs = list(zip(["", *words], words, strict=False))
    kept = [
        ("DIR" if before in ("--work", "--data") else word) for before, word in pairs if "--out" not in (before, word)
    ]
    return kept


def arguments(docstring: str | None) -> argparse.ArgumentParser:
    """What every script takes."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it works, no more")
    parser.add_argument(
        "--zram", action="store_true", help="set up swap in zram for the light rung (root), undo it after"
    )
    parser.add_argument("--work", type=Path, help="where weight files are kept between runs (default: a new directory)")
    parser.add_argument("--out", type=Path, help="write the JSON here instead of benchmarks/results")
    parser.add_argument("--models", default="tiny,135m,1b", help="which of tiny, 135m, 1b")
    return parser


@contextmanager
def workplace(given: Path | None) -> Iterator[Path]:
    """The directory to work in; one of our own goes at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
    else:
        with tempfile.TemporaryDirectory(prefix="bastide-bench-") as directory:
            yield Path(directory)
