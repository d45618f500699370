"""One page about a scenario that needs nothing from outside: figures, plots, and what gave way and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from bastide.domain.units import format_duration
from bastide.sim.fleet.measure import Sample
from bastide.sim.report import faults
from bastide.sim.report.summary import FIGURES, shown
from bastide.sim.report.svg import Line, Span, lines, stacked
from bastide.sim.run import Result

RUNGS = ("light", "cached", "neighbour", "source")
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#68707a;--paper:#fbfaf7;--card:#fff;--rule:#e4e1da;--accent:#0b6e4f}
@media(prefers-color-scheme:dark){:root{--ink:#e8e6e1;--soft:#9aa2ab;--paper:#14171a;--card:#1c2024;--rule:#2e343a;--accent:#4fc596}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0}h2{font-size:18px;margin:34px 0 10px}
p.soft{color:var(--soft);margin:4px 0 18px}.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px}
figcaption{font-weight:600;margin-bottom:4px}svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--rule);fill:none}.line{fill:none;stroke-width:1.7}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--rule);border-radius:10px}
table{border-collapse:collapse;width:100%}th,td{padding:6px 12px;text-align:left;border-bottom:1px solid var(--rule);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr:last-child td{border:0}
.legend{display:flex;flex-wrap:wrap;gap:6px 16px;margin:0 0 12px;color:var(--soft)}.legend i{display:inline-block;width:14px;height:3px;vertical-align:middle;margin-right:6px;border-radius:2px}
.span{fill-opacity:.16}.legend i.span{height:11px;opacity:.4}
"""
COLOURS = ("#0b8a63", "#c8553d", "#4059ad", "#b8860b", "#7b4b94", "#2a9d8f", "#8f8f8f", "#d1495b")
STYLE += "".join(
    f".line.c{n}{{stroke:{c}}}.box.c{n},.span.c{n}{{fill:{c}}}.legend i.c{n}{{background:{c}}}"
    for n, c in enumerate(COLOURS)
)

Figure = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Over:
    """What all plots share: the hours along them, and what broke meanwhile."""

    hours: float
    spans: Sequence[Span]


def page(results: Sequence[Result]) -> str:
    """The page, whole."""
    first = results[0]
    many = len(results) > 1
    hours = first.figures["simulated_s"] / 3600
    over = Over(hours, faults.spans(first.faults, hours, len(results)))
    plots = [
        _lines("Devices held by awake copies", "% of the fleet", results, over, lambda one: 100 * one.allocated),
        _lines("Devices that compute", "% of the fleet", results, over, lambda one: 100 * one.busy),
        _lines("Requests that wait", "requests", results, over, lambda one: one.queued),
        _lines("Requests", "in each step of the timeline", results[:1], over, lambda one: one.requests),
        _pair("First token, half and 99 % of them within", "seconds", results, over),
        _lines("Copies awake", "copies", results, over, lambda one: float(one.awake)),
        _lines("Power of all devices", "kW", results, over, lambda one: one.power_w / 1000),
        _lines("Energy so far", "kWh", results, over, lambda one: one.energy_kwh),
        _lines(
            "Cost so far, of what was held and of energy",
            "in the currency of the prices",
            results,
            over,
            lambda one: one.cost,
        ),
        _lines("GPU-hours held so far", "GPU-hours", results, over, None),
        *(_wakes(result, over, many) for result in results),
    ]
    legend = _legend([result.policy for result in results]) if many else ""
    legend += _broke(over.spans)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(first.scenario)} – bastide sim</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(first.scenario)}</h1>"
        f'<p class="soft">bastide sim · seed {first.seed} · digest '
        f"{' · '.join(escape(result.digest) for result in results)}</p>"
        f"{_figures(results)}<h2>Over time</h2>{legend}"
        f'<div class="grid2">{"".join(plots)}</div>'
        f"<h2>What broke</h2>{_faults(first)}"
        f"<h2>Nodes</h2>{_nodes(first)}<h2>By location</h2>{_locations(results)}"
        f"<h2>What gave way, and why</h2>{_reasons(results)}"
        "</main></body></html>\n"
    )


def _legend(names: Sequence[str]) -> str:
    entries = "".join(f'<span><i class="c{n % len(COLOURS)}"></i>{escape(name)}</span>' for n, name in enumerate(names))
    return f'<p class="legend">{entries}</p>'


def _broke(spans: Sequence[Span]) -> str:
    """Which shade is which fault."""
    entries = "".join(
        f'<span><i class="span c{one.colour % len(COLOURS)}"></i>{escape(one.name)}</span>' for one in spans
    )
    return f'<p class="legend">{entries}</p>' if entries else ""


def _card(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _lines(title: str, y_name: str, results: Sequence[Result], over: Over, figure: Figure | None) -> str:
    drawn = []
    for number, result in enumerate(results):
        if figure is not None:
            points = [(one.at_s / 3600, figure(one)) for one in result.timeline]
        else:
            points, total, before_s = [], 0.0, 0.0
            for one in result.timeline:
                total += one.allocated * result.figures["devices"] * (one.at_s - before_s) / 3600
                before_s = one.at_s
                points.append((one.at_s / 3600, total))
        drawn.append(Line(result.policy, points, number))
    return _card(title, lines(title, y_name, drawn, over.hours, over.spans))


def _pair(title: str, y_name: str, results: Sequence[Result], over: Over) -> str:
    drawn = []
    for number, result in enumerate(results):
        asked = [one for one in result.timeline if one.first_token_p99_s]
        drawn.append(Line(f"{result.policy}, 99 %", [(o.at_s / 3600, o.first_token_p99_s) for o in asked], number))
        drawn.append(
            Line(f"{result.policy}, half", [(o.at_s / 3600, o.first_token_p50_s) for o in asked], number, True)
        )
    return _card(title, lines(title, y_name, drawn, over.hours, over.spans))


def _wakes(result: Result, over: Over, named: bool) -> str:
    rows = [[float(one.wakes.get(rung, 0)) for rung in RUNGS] for one in result.timeline]
    title = f"Wakes by where from{f', {result.policy}' if named else ''}"
    svg = stacked(title, "wakes in each step", RUNGS, rows, over.hours, over.spans)
    return _card(title, _legend(RUNGS) + svg)


def _figures(results: Sequence[Result]) -> str:
    head = "".join(f'<th class="n">{escape(result.policy)}</th>' for result in results)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="n">{escape(shown(key, result))}</td>' for result in results)
        + "</tr>"
        for key, name in FIGURES
        if any(result.figures.get(key) for result in results)
    )
    return _scroll(f"<th></th>{head}", rows)


def _locations(results: Sequence[Result]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(result.policy)}</td>"
        + "".join(
            f'<td class="n">{one[key]:,.{0 if key == "devices" else 1}f}</td>'
            for key in (
                "devices",
                "gpu_hours_held",
                "gpu_hours_busy",
                "energy_kwh",
                "cost_of_held",
                "cost_of_energy",
                "carbon_kg",
            )
        )
        + "</tr>"
        for result in results
        for name, one in result.by_location.items()
    )
    head = "".join(
        f'<th class="n">{name}</th>'
        for name in (
            "devices",
            "GPU-hours held",
            "GPU-hours computing",
            "kWh",
            "cost of held",
            "cost of energy",
            "kg CO2",
        )
    )
    return _scroll(f"<th>location</th><th>policy</th>{head}", rows)


def _scroll(head: str, rows: str) -> str:
    """A table that scrolls by itself where it is too wide."""
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _nodes(result: Result) -> str:
    rows = "".join(
        f"<tr><td>{escape(one['location'])}</td><td>{escape(one['device'])}</td>"
        f'<td class="n">{one["nodes"]:,}</td><td class="n">{one["devices"]:,}</td></tr>'
        for one in result.nodes
    )
    head = '<th>location</th><th>device</th><th class="n">nodes</th><th class="n">devices in each</th>'
    return _scroll(head, rows)


def _faults(result: Result) -> str:
    if not result.faults:
        return '<p class="soft">Nothing broke.</p>'
    rows = "".join(
        f'<tr><td class="n">{at}</td><td class="n">{lasting}</td><td>{kind}</td><td>{escape(where)}</td></tr>'
        for kind, at, lasting, where in faults.one_by_one(result.faults[: faults.LISTED_IN_PAGE])
    )
    more = len(result.faults) - faults.LISTED_IN_PAGE
    note = f'<p class="soft">And {more:,} more; --json and --parquet have all.</p>' if more > 0 else ""
    head = '<th class="n">at</th><th class="n">for</th><th>what</th><th>where</th>'
    return _scroll(head, rows) + note


def _reasons(results: Sequence[Result]) -> str:
    rows = "".join(
        f'<tr><td class="n">{format_duration(one["at_s"])}</td><td>{escape(result.policy)}</td><td>{escape(one["what"])}</td>'
        f'<td>{escape(one["service"])}</td><td class="n">{one["times"]:,}</td><td>{escape(one["why"])}</td></tr>'
        for result in results
        for one in result.reasons
    )
    if not rows:
        return '<p class="soft">Nothing had to give way, and nothing was refused.</p>'
    head = '<th class="n">first</th><th>policy</th><th>what</th><th>service</th><th class="n">times</th>'
    return _scroll(f"{head}<th>why, the last time</th>", rows)
