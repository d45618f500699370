"""Small plots as SVG text: points and lines over two axes. Owns drawing; knows no measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0b6e4f", "#c8553d", "#4059ad", "#8f8f8f", "#b8860b", "#7b4b94", "#2a9d8f")
LEFT, TOP, BELOW = 64, 34, 48


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one name; `joined` by a line."""

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = False
    labels: Sequence[str] = ()


def plot(
    title: str,
    x_name: str,
    y_name: str,
    series: Sequence[Series],
    x_ticks: Sequence[str] = (),
    size: tuple[int, int] = (760, 380),
) -> str:
    """An SVG. With `x_ticks`, x is an index into them."""
    width, height = size[0] - LEFT - 150, size[1] - TOP - BELOW
    x_low, x_high = (-0.5, len(x_ticks) - 0.5) if x_ticks else _range([x for one in series for x, _ in one.points])
    y_low, y_high = _range([y for one in series for _, y in one.points])

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x_low) / (x_high - x_low) * width, TOP + (y_high - y) / (y_high - y_low) * height

    text = 'font-family="sans-serif" font-size="11" fill="#333"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title)}">'
    ]
    out.append(f'<rect width="{size[0]}" height="{size[1]}" fill="white"/>')
    out.append(f'<text x="{LEFT}" y="20" {text} font-weight="bold">{escape(title)}</text>')
    for value in _ticks(y_low, y_high):
        y = at(x_low, value)[1]
        out.append(f'<path d="M{LEFT} {y:.1f}h{width}" stroke="#e3e3e3"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" {text}>{value:g}</text>')
    marks = list(enumerate(x_ticks)) if x_ticks else [(value, f"{value:g}") for value in _ticks(x_low, x_high)]
    for value, name in marks:
        x = at(value, y_low)[0]
        out.append(f'<text x="{x:.1f}" y="{TOP + height + 16}" text-anchor="middle" {text}>{escape(str(name))}</text>')
    out.append(f'<text x="{LEFT + width / 2}" y="{size[1] - 8}" text-anchor="middle" {text}>{escape(x_name)}</text>')
    out.append(
        f'<text transform="translate(14 {TOP + height / 2}) rotate(-90)" text-anchor="middle" {text}>{escape(y_name)}</text>'
    )
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(x, y) for x, y in one.points]
        if one.joined:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        for (x, y), label in zip(places, one.labels, strict=False):
            out.append(f'<text x="{x + 6:.1f}" y="{y - 5:.1f}" {text}>{escape(label)}</text>')
        y = TOP + 14 * number + 6
        out.append(f'<circle cx="{LEFT + width + 16}" cy="{y}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{LEFT + width + 26}" y="{y + 4}" {text}>{escape(one.name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [round(step * n, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
