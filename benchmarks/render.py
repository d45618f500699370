"""benchmarks/RESULTS.md from the JSON files in benchmarks/results. Owns the page; measures nothing.

python -m benchmarks.render
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, Row, verdict

PAGE = Path(__file__).with_name("RESULTS.md")
ORDER = ("wake", "cold_start", "throughput", "idle", "thousand", "shared_device", "apps", "sandboxes", "asleep")
HEAD = """# Measured

Every figure that the docs name, beside its bar. Made by `python -m benchmarks.render` from `benchmarks/results/*.json`,
which `scripts/benchmarks` writes (`--quick` shows in a minute or two that every script works, and writes nothing). The
sides of a comparison take turns in one run; figures are medians. A bar that is missed says so, and why.
"""
# Why the gateway misses what it misses; where a new run meets a bar, its reason is not shown.
MISSED = {
    "CPU per plain request": "keys, limits, budget, ledger and exact counts are Python; measured on an interpreter built without "
    "profile-guided optimisation, which costs 1.7 times as much here as Debian's own (140 against 81 us a request in one run). "
    "In a closed loop of 16 connections nginx also answers in batches, which the slower server can't",
    "the same at one connection": "the same reasons; 2.3 with Debian's own Python in one run",
}
GATEWAY_COMMAND = "python benchmarks/gateway/overhead.py --bench-dir DIR --litellm DIR/bin/litellm"


def main() -> None:
    parts = [HEAD, _gateway(json.loads((RESULTS / "gateway.json").read_text()))]
    parts += [_section(json.loads(path.read_text())) for name in ORDER if (path := RESULTS / f"{name}.json").exists()]
    PAGE.write_text("\n".join(parts))
    print(PAGE)


def _table(rows: list[Row]) -> list[str]:
    lines = ["| figure | bar | measured | |", "|---|---|---|---|"]
    for row in rows:
        word = verdict(row).replace("MISSED", "**missed**")
        lines.append("| " + " | ".join((row.figure, row.bar, row.measured, word)).replace("\n", " ") + " |")
    return lines


def _section(found: dict[str, Any]) -> str:
    rows = [Row(**row) for row in found["rows"]]
    return "\n".join(
        [
            f"## {found['name'].replace('_', ' ').capitalize()}",
            "",
            f"`{found['command']}`, {found['date']}, {found['machine']}.",
            "",
            *_table(rows),
            "",
            f"Predicted before measuring: {found['predicted']}",
            "",
        ]
    )


def _gateway(found: dict[str, Any]) -> str:
    """The gateway's own script writes bars by name."""
    rows = []
    for name, bar in found["bars"].items():
        at_least = "chunks" in name
        why = "" if bar["met"] else MISSED.get(name.partition(",")[0], "")
        rows.append(Row(name, f"{'>=' if at_least else '<='} {bar['bar']:g}", f"{bar['value']:g}", bar["met"], why))
    where = ", ".join(str(found[key]) for key in ("date", "machine") if key in found)
    return "\n".join(["## Gateway", "", f"`{GATEWAY_COMMAND}`{', ' + where if where else ''}.", "", *_table(rows), ""])


if __name__ == "__main__":
    main()
