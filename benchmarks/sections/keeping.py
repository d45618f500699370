"""E2: keep-alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.sections.tables import Rows, table
from benchmarks.svg import Series, plot


def section(rows: Rows, kept: Path) -> str:
    ours = [row for row in rows if row["policy"].startswith("bastide_")]
    theirs = [row for row in rows if not row["policy"].startswith("bastide")]
    default = next(row for row in rows if row["policy"] == "bastide")
    figures = ("cold_rate", "cold_rate_p75", "waste")
    lines = []
    for row in theirs:
        better = [one for one in (*ours, default) if all(one[figure] < row[figure] for figure in figures)]
        best = min(better, key=lambda one: max(one[figure] / row[figure] for figure in figures), default=None)
        lines.append(
            [
                row["policy"],
                *_cold(row),
                best["policy"] if best else "**none**",
                *(_cold(best) if best else ("", "", "")),
            ]
        )
    for figure, name in (
        ("cold_rate", "cold starts, % of requests"),
        ("cold_rate_p75", "cold starts at the 75th percentile of services, %"),
    ):
        curve = Series(
            "bastide", [(row["waste"], 100 * row[figure]) for row in sorted(ours, key=lambda row: row["waste"])], True
        )
        points = [Series(row["policy"], [(row["waste"], 100 * row[figure])]) for row in theirs]
        (kept / f"E2_{figure}.svg").write_text(
            plot(f"Keep-alive: {name}", "minutes warm and idle, a fixed ten minutes = 1", "%", [curve, *points])
        )
    return "\n".join(
        [
            "## E2 Keep-alive and scale to zero",
            "",
            "`bastide sim evaluate E2 --data DIR`: a day of 1,000 services by the minute (Azure Functions 2019). Nothing is drawn. The",
            "knob is what a cold start is worth, in minutes of idle warm time (`bastide_240m`: 240); for each baseline, the setting that",
            "is better on all three figures at once. The first request of every service is a cold start for all of them. Pauses of less than",
            "five minutes (a twelfth of the knob, if that is shorter) are not taken, as it ships, though nothing here counts what a step",
            "down and a start cost.",
            "",
            *table(["baseline", "cold %", "cold p75 %", "waste", "better", "cold %", "cold p75 %", "waste"], lines),
            "",
            f"The default, an hour (`bastide`): cold {' · p75 '.join(_cold(default)[:2])} · waste {_cold(default)[2]}.",
            "",
            "![Cold starts by request](evaluation/E2_cold_rate.svg)",
            "![Cold starts by service](evaluation/E2_cold_rate_p75.svg)",
            "",
        ]
    )


def _cold(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{100 * row['cold_rate']:.4f}", f"{100 * row['cold_rate_p75']:.2f}", f"{row['waste']:.3f}"
