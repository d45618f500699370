"""benchmarks/EVALUATION.md and its plots from the rows that benchmarks.evaluate keeps. Owns the page; measures nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.sections import breaking, keeping, placement, pooling, routing, scaling
from benchmarks.sections.tables import Rows

PAGE = Path(__file__).with_name("EVALUATION.md")

HEAD = """# Evaluated

Bastide's policies for fleets, beside published ones, on public traces (what they do: [docs/simulate.md](../docs/simulate.md),
which also says what of them runs in `bastide up` by now). Made by `scripts/evaluate` (which goes on where it was interrupted) from rows kept in `benchmarks/evaluation`, each
with its seed and the commit it was made at. The traces are not in the repository; `--data` names where they are.
Every baseline is written from its paper's definition and runs in the same simulator. A bar that is missed says so.
"""

SECTIONS: tuple[tuple[str, Callable[[Rows, Path], str]], ...] = (
    ("E1", placement.section),
    ("E2", keeping.section),
    ("E3", pooling.section),
    ("E4", routing.section),
    ("E5", scaling.section),
    ("E6", breaking.section),
)


def write(kept: Path) -> Path:
    """The page and its plots. Evaluations without rows are left out."""
    parts = [HEAD]
    for name, section in SECTIONS:
        path = kept / f"{name}.jsonl"
        if path.exists() and path.stat().st_size:
            parts.append(section([json.loads(line) for line in path.read_text().splitlines()], kept))
    PAGE.write_text("\n".join(parts))
    return PAGE
