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


@dataclass(frozen=True, slots=True)
class Span:
    """Stretches of time that are shaded, from hour to hour."""

    name: str
    pieces: Sequence[tuple[float, float]]
    colour: int = 0


def lines(title: str, y_name: str, drawn: Sequence[Line], hours: float, spans: Sequence[Span] = ()) -> str:
    """An SVG over so many hours."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BELOW
    most = max((y for one in drawn for _, y in one.points), default=0.0) or 1.0
    most *= 1.05

    def at(x: float, y: float) -> str:
        return f"{LEFT + x / hours * width:.1f} {TOP + (most - y) / most * height:.1f}"

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">', *_shaded(spans, hours)]
    for value in _ticks(0.0, most):
        y = TOP + (most - value) / most * height
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{width}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in _ticks(0.0, hours):
        x = LEFT + value / hours * width
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
    title: str,
    y_name: str,
    names: Sequence[str],
    rows: Sequence[Sequence[float]],
    hours: float,
    spans: Sequence[Span] = (),
) -> str:
    """Bars over so many hours, each of parts in the order of `names`."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BELOW
    most = max((sum(row) for row in rows), default=0.0) or 1.0
    most *= 1.05
    step = width / max(1, len(rows))
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">', *_shaded(spans, hours)]
    for value in _ticks(0.0, most):
        y = TOP + (most - value) / most * height
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{width}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    out += [
        f'<text x="{LEFT + value / hours * width:.1f}" y="{TOP + height + 16}" text-anchor="middle">{value:g} h</text>'
        for value in _ticks(0.0, hours)
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


def _shaded(spans: Sequence[Span], hours: float) -> list[str]:
    """Behind all else. What is over at once is as wide as can be seen."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BELOW
    drawn = []
    for span in spans:
        boxes = [
            f"M{LEFT + begins / hours * width:.1f} {TOP}h{max(1.5, (ends - begins) / hours * width):.1f}v{height}"
            f"H{LEFT + begins / hours * width:.1f}z"
            for begins, ends in span.pieces
        ]
        if boxes:
            title = f"<title>{escape(span.name)}</title>"
            drawn.append(f'<path class="span c{span.colour % COLOURS}" d="{"".join(boxes)}">{title}</path>')
    return drawn


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / 4))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= 6)
    return [round(step * n, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
