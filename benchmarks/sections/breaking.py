"""E6: faults."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sections.tables import Rows, table


def section(rows: Rows, kept: Path) -> str:
    seeds = sorted(row["seed"] for row in rows)
    broken = [row for row in rows if row["broken"]]
    sums = {
        name: sum(row[name] for row in rows)
        for name in ("faults", "requests", "answered", "timed_out", "refused", "failed", "moved", "starts", "starts_failed",
                     "refused_actions", "looks")
    }  # fmt: skip
    lines = [[name.replace("_", " "), f"{value:,.0f}"] for name, value in sums.items()]
    return "\n".join(
        [
            "## E6 Faults in a fleet",
            "",
            f"`bastide sim evaluate E6 --seeds {seeds[0]}-{seeds[-1]}`: {len(seeds):,} small fleets, each of six to nine nodes in three",
            "locations and some ten services, in which 10 to 20 things break within 20 minutes: nodes lost and back, locations cut off,",
            "slow and hung starts, no memory, full disks, stale inventories, lost and doubled hints and reports, store time-outs after the",
            "commit, clocks that jump, herds, desired state that comes torn. Every five simulated seconds the checkers add up from outside",
            "(capacity, borders, power, copies, every request accounted for, bounded waits); a quarter of an hour after the last",
            "request, control's picture must be the truth, nobody may wait and whoever must be awake is. A planted violation for",
            "each checker is in `tests/sim/test_fleet_faults.py`.",
            "",
            f"- Seeds with a broken invariant: {len(broken)} of {len(seeds):,}: {'met' if not broken else '**missed**'}."
            + (f" The first: seed {broken[0]['seed']}, {broken[0]['what'][0]}." if broken else ""),
            "",
            *table(["over all seeds", ""], lines),
            "",
        ]
    )
