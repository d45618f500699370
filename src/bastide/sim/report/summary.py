"""A result in the terminal: the figures an operator asks for, side by side where policies are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bastide.cli.show import table
from bastide.domain.units import format_count, format_duration
from bastide.sim.report import faults
from bastide.sim.run import Result
from bastide.sim.sizing import IN_TIME, Sized

WORST = 3  # services that are named
FULL = 0.9  # so much of all devices held at the peak: more of them might help
# What is shown, in this order; what is nought for all is left out.
FIGURES = (
    ("requests", "requests"),
    ("in_time_share", "answered in time"),
    ("held_share", "had to wait for a wake or room"),
    ("refused", "refused: queue full"),
    ("timed_out", "waited in vain"),
    ("waiting_at_end", "still waiting at the end"),
    ("in_flight_at_end", "being answered at the end"),
    ("failed", "failed"),
    ("moved", "moved to another copy"),
    ("first_token_p50_s", "first token, half within"),
    ("first_token_p99_s", "first token, 99 % within"),
    ("answer_p50_s", "whole answer, half within"),
    ("devices", "devices there are"),
    ("devices_held_most", "devices held at the peak"),
    ("devices_held_mean", "devices held on average"),
    ("gpu_hours_held", "GPU-hours held"),
    ("gpu_hours_busy", "GPU-hours computing"),
    ("energy_kwh", "energy"),
    ("cost_of_held", "cost of what was held"),
    ("cost_of_fleet", "cost of the whole fleet"),
    ("cost_of_energy", "cost of energy"),
    ("carbon_kg", "carbon"),
    ("starts", "starts"),
    ("starts_failed", "starts that failed"),
    ("gave_way", "gave way"),
    ("refused_actions", "actions the check refused"),
    ("faults", "faults"),
)


def shown(key: str, result: Result) -> str:
    """A figure as people read it."""
    value = result.figures.get(key, 0.0)
    if key.endswith("_share"):
        return f"{100 * value:.2f} %"
    if key.endswith("_s"):
        return format_duration(value)
    if key == "energy_kwh":
        return f"{value:,.1f} kWh"
    if key == "carbon_kg":
        return f"{value:,.1f} kg CO2"
    if key.startswith(("cost", "gpu_hours", "devices_")):
        return f"{value:,.1f}"
    return f"{value:,.0f}"


def summary(results: Sequence[Result], sized: Sized | None = None) -> Group:
    """Everything for the terminal."""
    first = results[0]
    size = (
        f"{format_duration(first.figures['simulated_s'])} · {format_count(int(first.figures['devices']), 'device')} · "
        f"{format_count(int(first.figures['services']), 'service')} · seed {first.seed}"
    )
    if sized is not None and sized.enough:
        size += " · the smallest fleet that is enough"
    title = Text.assemble((first.scenario, "bold"), (f"  {size}", "bright_black"))
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_header=len(results) > 1)
    made.add_column("", overflow="fold")
    for result in results:
        made.add_column(result.policy.upper(), justify="right")
    for key, name in FIGURES:
        if any(result.figures.get(key) for result in results):
            best = _best(key, results)
            cells = [
                Text(shown(key, result), "green" if len(results) > 1 and result.policy in best else "")
                for result in results
            ]
            made.add_row(name, *cells)
    made.add_row("wakes", *(_wakes(result) for result in results))
    made.add_row(Text("digest", "bright_black"), *(Text(result.digest, "bright_black") for result in results))
    return Group(title, Text(), made, *_spark(results), *_faults(first), *_answer(first, sized), *_mix(first, sized))


def _best(key: str, results: Sequence[Result]) -> set[str]:
    """Who is best at it, where not all are equal."""
    values = {result.policy: result.figures.get(key, 0.0) for result in results}
    if len(set(values.values())) < 2 or key in ("requests", "devices", "cost_of_fleet", "starts", "faults", "moved"):
        return set()
    least = min(values.values()) if key not in ("in_time_share", "answered_share") else max(values.values())
    return {policy for policy, value in values.items() if value == least}


def _wakes(result: Result) -> str:
    return ", ".join(f"{count} {rung}" for rung, count in result.wakes.items() if count) or "none"


BARS = " ▁▂▃▄▅▆▇█"


def _spark(results: Sequence[Result], width: int = 48) -> list[Text]:
    """Devices held over time, as a line of bars."""
    out = [Text()]
    for result in results:
        values = [sample.allocated for sample in result.timeline]
        if not values:
            continue
        step = len(values) / width
        parts = [values[int(n * step) : max(int(n * step) + 1, int((n + 1) * step))] for n in range(width)]
        line = "".join(BARS[min(8, round(8 * max(part, default=0.0)))] for part in parts)
        name = f" {result.policy}" if len(results) > 1 else ""
        out.append(Text.assemble((line, "green"), (f"  devices held over time{name}", "bright_black")))
    return out


def _faults(result: Result) -> list[RenderableType]:
    """What broke: one by one, or by kind where there are many."""
    broke = result.faults
    if not broke:
        return []
    few = len(broke) <= faults.LISTED
    made = (
        table("BROKE", ">AT", ">FOR", "WHERE") if few else table("BROKE", ">TIMES", ">FIRST", ">LAST", ">FOR", "WHERE")
    )
    for row in faults.one_by_one(broke) if few else faults.by_kind(broke):
        made.add_row(*map(Text, row))
    return [Text(), made]


def _mix(result: Result, sized: Sized | None) -> list[RenderableType]:
    """The nodes that `--size` found, by kind."""
    if sized is None or not sized.enough:
        return []
    made = table("LOCATION", "DEVICE", ">NODES", ">DEVICES IN EACH")
    for one in result.nodes:
        made.add_row(Text(one["location"]), Text(one["device"]), f"{one['nodes']:,}", f"{one['devices']:,}")
    return [Text(), made]


def _answer(result: Result, sized: Sized | None) -> list[Text]:
    """The question that most come with."""
    most, there = result.figures["devices_held_most"], result.figures["devices"]
    in_time = result.figures["in_time_share"]
    if not result.figures["requests"]:
        return [Text(), Text("Nobody asked for anything in this time.", "yellow")]
    if in_time < IN_TIME:
        causes = ["services may have too few copies (`most`) or slots", "wakes are too slow for what is promised"]
        if sized is not None:
            causes.insert(0, f"even {sized.most:,} nodes are too few")
        elif most >= FULL * there:
            causes.insert(0, "the fleet is too small")
        if result.faults:
            causes.insert(0, "what broke took its part")
        said = f"{_below(in_time)} % came in time: {', '.join(causes[:-1])}, or {causes[-1]}."
        return [Text(), Text(said, "yellow"), *_behind(result), *_reason(result)]
    said = f"{100 * in_time:.1f} % came in time; at the peak {most:.1f} of {there:.0f} devices were held. "
    if sized is None:
        said += "`--size` finds the least."
    else:
        nodes = sum(one["nodes"] for one in result.nodes)
        said += f"The fewest nodes that are enough: {nodes:,}, where {sized.written:,} were written."
    return [Text(), Text(said, "green"), *_behind(result)]


def _below(share: float) -> str:
    """Per cent, never rounded up to the bar that it missed."""
    return f"{math.floor(1000 * share + 1e-9) / 10:.1f}"


def _behind(result: Result) -> list[Text]:
    """Services that don't keep what all together do: few requests are easily lost in a total."""
    behind = [one for one in result.worst if one["in_time_share"] < IN_TIME]
    if not behind:
        return []
    named = ", ".join(
        f"{one['service']} ({_below(one['in_time_share'])} % of {one['requests']:,.0f})" for one in behind[:WORST]
    )
    more = " and others" if len(behind) > WORST else ""
    return [Text(f"Below 99 % by themselves: {named}{more}. `--json FILE` tells more.", "yellow")]


def _reason(result: Result) -> list[Text]:
    """What most often stood in the way, where control said so."""
    said = [one for one in result.reasons if one["what"] in ("no place", "refused", "set aside")]
    if not said:
        return []
    most = max(said, key=lambda one: int(one["times"]))
    return [Text(f"Most often: {most['what']} for {most['service']}, {most['times']:,} times: {most['why']}", "yellow")]
