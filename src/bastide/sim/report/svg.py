"""Plots as SVG text for a page of its own: lines over time, in the page's colours. Owns drawing; knows no measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, TOP, BELOW, RIGHT = 62, 12, 34, 14
WIDTH, HEIGHT = 560, 240
COLOURS = 8  # classes c0 … c7 of the page


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one name. `dashed` for the second of a pair."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


def lines(title: str, y_name: str, drawn: Sequence[Line], zero: bool = True) -> str:
    """An SVG over time in hours."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BELOW
    xs = [x for one in drawn for x, _ in one.points] or [0.0, 1.0]
    ys = [y for one in drawn for _, y in one.points] or [0.0, 1.0]
    x_low, x_high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    y_low, y_high = (0.0 if zero else min(ys)), max(ys)
    y_high = y_high if y_high > y_low else y_low + 1
    y_high += 0.05 * (y_high - y_low)

    def at(x: float, y: float) -> str:
        return (
            f"{LEFT + (x - x_low) / (x_high - x_low) * width:.1f} {TOP + (y_high - y) / (y_high - y_low) * height:.1f}"
        )

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in _ticks(y_low, y_high):
        y = TOP + (y_high - value) / (y_high - y_low) * height
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{width}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in _ticks(x_low, x_high):
        x = LEFT + (value - x_low) / (x_high - x_low) * width
        out.append(f'<text x="{x:.1f}" y="{TOP + height + 16}" text-anchor="middle">{value:g} h</text>')
    out.append(f'<text class="axis" x="{LEFT}" y="{HEIGHT - 4}">{escape(y_name)}</text>')
    for one in drawn:
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        path = "L".join(at(x, y) for x, y in one.points)
        if path:
            title_of_line = f"<title>{escape(one.name)}</title>"
            out.append(f'<path class="line c{one.colour % COLOURS}"{dash} d="M{path}">{title_of_line}</path>')
    return "".join([*out, "</svg>"])


def stacked(
    title: str, y_name: str, names: Sequence[str], hours: Sequence[float], rows: Sequence[Sequence[float]]
) -> str:
    """Bars over time, each of parts in the order of `names`."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BELOW
    most = max((sum(row) for row in rows), default=0.0) or 1.0
    most *= 1.05
    step = width / max(1, len(rows))
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in _ticks(0.0, most):
        y = TOP + (most - value) / most * height
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{width}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    last = hours[-1] if hours else 1.0
    out += [
        f'<text x="{LEFT + value / last * width:.1f}" y="{TOP + height + 16}" text-anchor="middle">{value:g} h</text>'
        for value in _ticks(0.0, last)
    ]
    out.append(f'<text class="axis" x="{LEFT}" y="{HEIGHT - 4}">{escape(y_name)}</text>')
    for part in range(len(names)):
        boxes = []
        for number, row in enumerate(rows):
            if row[part]:
                top = TOP + (most - sum(row[: part + 1])) / most * height
                boxes.append(
                    f"M{LEFT + number * step:.1f} {top:.1f}h{max(0.8, step - 0.4):.1f}v{row[part] / most * height:.1f}h-{max(0.8, step - 0.4):.1f}z"
                )
        if boxes:
            out.append(f'<path class="box c{part}" d="{"".join(boxes)}"><title>{escape(names[part])}</title></path>')
    return "".join([*out, "</svg>"])


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / 4))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= 6)
    return [round(step * n, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
