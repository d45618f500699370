"""E5: scale."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sections.tables import Rows, table
from benchmarks.svg import Series, plot


def section(rows: Rows, kept: Path) -> str:
    rows = sorted(rows, key=lambda row: (row["devices"], row["services"]))
    lines = [
        [f"{row['devices']:,}", f"{row['services']:,}", f"{row['full_plan_s']:.2f}", f"{row['full_check_s']:.2f}",
         f"{row['plan_us_p50'] / 1000:.2f}", f"{row['plan_us_p99'] / 1000:.1f}", f"{row['wall_s'] / 60:.1f}",
         f"{row['events'] / 1e6:.1f}", f"{row['memory_mib']:,}", f"{row['requests'] / 1e6:.0f}",
         f"{100 * row['held_share']:.2f}", f"{100 * row['allocated_mean']:.0f} / {100 * row['allocated_most']:.0f}",
         f"{row['starts']:,}"]
        for row in rows
    ]  # fmt: skip
    whole = rows[-1]
    bars = (
        ("a day simulated in under 30 minutes", f"{whole['wall_s'] / 60:.1f} min, on one core", whole["wall_s"] < 1800),
        ("a full plan in under 1 s", f"{whole['full_plan_s']:.2f} s", whole["full_plan_s"] < 1.0),
        ("under 4 GiB of memory", f"{whole['memory_mib'] / 1024:.2f} GiB", whole["memory_mib"] < 4096),
    )
    together = [row for row in rows if row["scale"].endswith("x5000") is False or row["scale"].startswith("0.25")]
    both = [(row["services"] / 1000, row) for row in together]
    (kept / "E5.svg").write_text(
        plot(
            "Growth with fleet and services together",
            "thousands of services (18,636 devices with 20)",
            "part of the largest",
            [
                Series("minutes a simulated day", [(x, row["wall_s"] / whole["wall_s"]) for x, row in both], True),
                Series("memory", [(x, row["memory_mib"] / whole["memory_mib"]) for x, row in both], True),
                Series("full plan", [(x, row["full_plan_s"] / whole["full_plan_s"]) for x, row in both], True),
            ],
        )
    )
    small = next((row for row in rows if row["scale"] == "1x5000"), None)
    fewer = (
        [
            f"- The whole fleet with a quarter of the services takes {small['wall_s'] / whole['wall_s']:.2f} of the time.",
            "",
        ]
        if small is not None
        else [""]
    )
    return "\n".join(
        [
            "## E5 Scale",
            "",
            "`bastide sim evaluate E5 --data DIR`: a simulated day, deciding by the shipped policies through observe, plan, check and",
            "apply. Trace-derived, not a trace: openb's nodes three times over, dealt to 10 locations; each service asks for what a pod of",
            "its `default` workload asked for and is asked as a function of the Azure sample was, its day turned by a random time; three",
            "of ten may be in only one or two locations. Requests of a minute are simulated together. A full plan is one from an",
            "empty fleet, of a copy for every service (the best of three); other plans are of what changed. Timings are of two shared",
            f"cores that had other work too. Of the largest run's requests {100 * (1 - whole['answered_share']):.1f} % were not answered; in a small run looked",
            "at closely those were all of a service at its cap of 16 copies.",
            "Measured before keep-alive left out pauses of less than five minutes, which makes fewer starts.",
            "",
            *(f"- {what}: {figure}: {'met' if met else '**missed**'}." for what, figure, met in bars),
            *fewer,
            *table(
                ["devices", "services", "full plan s", "its check s", "plan ms p50", "p99", "day simulated in min",
                 "million events", "MiB", "million requests", "held %", "devices held % mean / most", "starts"],
                lines,
            ),
            "",
            "![Growth](evaluation/E5.svg)",
            "",
        ]
    )  # fmt: skip
