"""What broke in a run, as people read it: one by one where they are few, by kind where they are many, and as spans over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bastide.domain.units import format_count, format_duration
from bastide.sim.report.svg import Span

# So many are told one by one in a terminal, and in a page; and of so many places the names.
LISTED, LISTED_IN_PAGE, PLACES = 12, 200, 2
# Spans of one kind that are nearer than this part of the time are drawn as one: nobody sees such a gap.
GAP = 1 / 500

Fault = dict[str, Any]


def one_by_one(faults: Sequence[Fault]) -> list[tuple[str, str, str, str]]:
    """Of each: what, when, how long, where."""
    return [(one["kind"], format_duration(one["at_s"]), lasting([one]), place(one)) for one in faults]


def by_kind(faults: Sequence[Fault]) -> list[tuple[str, str, str, str, str, str]]:
    """Of each kind: what, how often, first and last when, how long, where."""
    rows = []
    for kind in dict.fromkeys(one["kind"] for one in faults):
        own = [one for one in faults if one["kind"] == kind]
        places = list(dict.fromkeys(map(place, own)))
        more = f" and {len(places) - PLACES:,} more" if len(places) > PLACES else ""
        first, last = format_duration(own[0]["at_s"]), format_duration(own[-1]["at_s"])
        rows.append((kind, f"{len(own):,}", first, last, lasting(own), ", ".join(places[:PLACES]) + more))
    return rows


def lasting(faults: Sequence[Fault]) -> str:
    """How long they last; nothing for what is over at once."""
    times = {one["lasts_s"] for one in faults}
    if not max(times):
        return ""
    return f"{'up to ' if len(times) > 1 else ''}{format_duration(max(times))}"


def place(fault: Fault) -> str:
    if not fault["where"]:
        return "everywhere"
    return str(fault["where"]) if fault["nodes"] else f"{fault['where']} (not in this fleet)"


def spans(faults: Sequence[Fault], hours: float, colour: int) -> list[Span]:
    """One for each kind, in colours from `colour` on."""
    found = []
    for number, kind in enumerate(dict.fromkeys(one["kind"] for one in faults)):
        own = [one for one in faults if one["kind"] == kind and one["nodes"]]
        pieces: list[tuple[float, float]] = []
        for one in own:
            begins, ends = one["at_s"] / 3600, min(hours, (one["at_s"] + one["lasts_s"]) / 3600)
            if pieces and begins - pieces[-1][1] < GAP * hours:
                pieces[-1] = pieces[-1][0], max(pieces[-1][1], ends)
            else:
                pieces.append((begins, ends))
        found.append(Span(f"{kind}, {format_count(len(own), 'time')}", pieces, colour + number))
    return found
