"""What the sections share: means of rows, and tables in Markdown."""

from __future__ import annotations

import statistics
from typing import Any

Rows = list[dict[str, Any]]


def mean(rows: Rows, figure: str) -> float:
    return statistics.mean(row[figure] for row in rows)


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]
