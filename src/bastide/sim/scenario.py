"""The scenario file: a fleet, its services, what breaks. Owns reading it strictly; every problem at once, with its line.

What a scenario means for a run (ways to run a model, arrivals) is made in `scenario_setup`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bastide.control.yamltree import Branch
from bastide.domain.errors import InvalidSpec
from bastide.domain.units import format_duration
from bastide.sim.calibration import Calibration, ModelFacts, load, model_facts, shipped
from bastide.sim.fleet.arrivals import Law, Lengths
from bastide.sim.fleet.setup import PRESETS, Fault, KeepAlive, Location, Placing, Policies, Trouble
from bastide.sim.reading import (
    REQUIRED,
    Parser,
    Reading,
    among,
    bytes_of,
    in_file,
    number,
    one_of,
    text_in,
    text_of,
    time_of,
    truth,
    whole,
)

NODES_MAX = 100_000
SERVICES_MAX = 100_000
DURATION_S_MAX = 366 * 86_400.0
# More single requests than this take hours to simulate; taken together by the minute they don't.
REQUESTS_MAX = 3_000_000.0


@dataclass(frozen=True, slots=True)
class Nodes:
    """So many nodes alike. `power_w`: of each, beyond its idle draw; None where nobody bounds it."""

    location: str
    count: int
    device: str
    devices: int
    cpu_milli: int
    memory_mib: int
    disk_bytes: int
    power_w: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A service as it is asked for, `count` times over. `trace`: a file instead of a law."""

    name: str
    count: int
    model: str
    devices: int  # 0: as many as it needs, and a share of one where that is enough
    least: int
    most: int
    slots: int
    cpu_milli: int
    memory_mib: int
    lengths: Lengths
    law: Law | None
    trace: Path | None
    trace_services: int
    jurisdictions: tuple[str, ...]
    first_token_s: float
    wait_s: float
    queue: int
    line: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that the file says."""

    name: str
    seed: int
    duration_s: float
    tick_s: float
    calibration: Calibration
    locations: tuple[Location, ...]
    nodes: tuple[Nodes, ...]
    services: tuple[Wish, ...]
    policies: Policies
    faults: tuple[Fault, ...]
    rates: tuple[tuple[Trouble, float, float], ...]  # kind, times a day over the fleet, how long each


def read(path: Path) -> Scenario:
    """Read a scenario. Raises InvalidSpec with every problem and its line."""
    text = text_in(path, "a scenario, which is a YAML file (docs/simulate.md)")
    try:
        return parse(text, path.parent)
    except InvalidSpec as error:
        raise in_file(error, path) from None


def parse(text: str, folder: Path) -> Scenario:
    """A scenario from its text; files that it names lie in `folder`."""
    reading = Reading()
    root = reading.root(text)
    reading.known(
        root,
        "",
        ("name", "seed", "duration", "tick", "calibration", "locations", "nodes", "models", "services", "policies",
         "faults", "fault_rates"),
    )  # fmt: skip
    name = reading.value(root, "", "name", text_of, "a scenario")
    seed = reading.value(root, "", "seed", whole(0), 1)
    duration_s = reading.value(root, "", "duration", time_of(1.0, DURATION_S_MAX), 86_400.0)
    tick_s = reading.value(root, "", "tick", time_of(1.0, 600.0), 15.0)
    calibration = _calibration(reading, root, folder)
    locations = tuple(_location(reading, where, branch) for where, branch in reading.named(root, "", "locations"))
    if not locations and not reading.said("locations"):
        reading.wrong(root.lines.get("locations", 1), "locations", "there must be one, such as `here: {}`")
    known = tuple(location.name for location in locations)
    nodes = tuple(
        _nodes(reading, where, branch, known, calibration) for where, branch in reading.rows(root, "", "nodes")
    )
    total = sum(group.count for group in nodes)
    if not total and not reading.said("nodes"):
        reading.wrong(root.lines.get("nodes", 1), "nodes", "a fleet needs at least one node")
    if total > NODES_MAX:
        reading.wrong(root.lines["nodes"], "nodes", f"{total:,} nodes are more than {NODES_MAX:,}")
    borders = {location.jurisdiction for location in locations}
    services = tuple(
        _wish(reading, where, branch, calibration, borders, folder, duration_s)
        for where, branch in reading.rows(root, "", "services")
    )
    _services(reading, root, services)
    policies = _policies(reading, root)
    names = {*known, *(name for name, _ in named(nodes))} if total <= NODES_MAX else set(known)
    ends_s = math.inf if reading.said("duration") else duration_s
    faults = tuple(_fault(reading, where, branch, names, ends_s) for where, branch in reading.rows(root, "", "faults"))
    rates = tuple(_rates(reading, root))
    reading.finish()
    return Scenario(
        name, seed, duration_s, tick_s, calibration, locations, nodes, services, policies, faults, rates
    )  # fmt: skip


def named(nodes: Iterable[Nodes]) -> Iterator[tuple[str, Nodes]]:
    """Every node by its name; those of one location and device are counted through, whatever group they are of."""
    counted: Counter[tuple[str, str]] = Counter()
    for group in nodes:
        for _ in range(group.count):
            kind = group.location, group.device
            yield f"{group.location}-{group.device}-{counted[kind]}", group
            counted[kind] += 1


def _calibration(reading: Reading, root: Branch, folder: Path) -> Calibration:
    base = shipped()
    file = reading.optional(root, "", "calibration", text_of)
    if file is not None and file != "shipped":
        try:
            base = load(folder / file).over(base)
        except InvalidSpec as error:
            for problem in error.problems:
                reading.wrong(root.lines["calibration"], "calibration", f"{folder / file}: {problem}")
    models: dict[str, ModelFacts] = {}
    for name, branch in reading.named(root, "", "models"):
        where = f"models.{name}"
        reading.known(branch, where, ("parameters", "weights_bytes", "kv_bytes_per_token"))
        models[name] = model_facts(reading, where, branch)
    return base.with_models(models)


_LOCATION: Mapping[str, tuple[str, Parser, Any]] = {
    "jurisdiction": ("jurisdiction", text_of, ""),
    "price_per_gpu_hour": ("price_per_gpu_hour", number(0.0), 0.0),
    "price_per_kwh": ("price_per_kwh", number(0.0), 0.0),
    "carbon_g_per_kwh": ("carbon_g_per_kwh", number(0.0), 0.0),
    "source_bytes_per_s": ("source_bytes_per_s", number(1.0), 125e6),
    "neighbour_bytes_per_s": ("neighbour_bytes_per_s", number(1.0), 1.25e9),
}


def _location(reading: Reading, name: str, branch: Branch) -> Location:
    where = f"locations.{name}"
    reading.known(branch, where, (*_LOCATION, "power_w"))
    values = {
        to: reading.value(branch, where, key, parser, default) for key, (to, parser, default) in _LOCATION.items()
    }
    power = reading.optional(branch, where, "power_w", whole(0))
    return Location(name, power_w=power, **values)


def _nodes(reading: Reading, where: str, branch: Branch, known: tuple[str, ...], calibration: Calibration) -> Nodes:
    reading.known(branch, where, ("location", "count", "device", "devices", "cores", "memory", "disk", "power_w"))
    return Nodes(
        reading.value(branch, where, "location", among(known, "location") if known else text_of, REQUIRED) or "",
        reading.value(branch, where, "count", whole(1, NODES_MAX), 1),
        reading.value(branch, where, "device", among(tuple(calibration.devices), "device in the calibration"), REQUIRED) or "",
        reading.value(branch, where, "devices", whole(1, 64), 1),
        int(1000 * reading.value(branch, where, "cores", number(0.001, 4096), 64)),
        reading.value(branch, where, "memory", bytes_of, 512 * 2**30) // 2**20,
        reading.value(branch, where, "disk", bytes_of, 2 * 10**12),
        reading.optional(branch, where, "power_w", whole(0)),
        branch.line,
    )  # fmt: skip


def _wish(
    reading: Reading,
    where: str,
    branch: Branch,
    calibration: Calibration,
    borders: set[str],
    folder: Path,
    duration_s: float,
) -> Wish:
    reading.known(
        branch,
        where,
        ("name", "count", "model", "devices", "least", "most", "slots", "cores", "memory", "prompt_tokens",
         "answer_tokens", "prompt_cv", "answer_cv", "arrivals", "jurisdictions", "first_token", "wait", "queue"),
    )  # fmt: skip
    name = reading.value(branch, where, "name", text_of, REQUIRED) or where
    lengths = Lengths(
        reading.value(branch, where, "prompt_tokens", number(1, 1e7), 600.0),
        reading.value(branch, where, "answer_tokens", number(1, 1e7), 200.0),
        reading.value(branch, where, "prompt_cv", number(0, 10), 1.0),
        reading.value(branch, where, "answer_cv", number(0, 10), 0.8),
    )
    law, trace, services = _arrivals(reading, where, branch, folder, duration_s)
    jurisdictions = reading.words(branch, where, "jurisdictions")
    if "jurisdictions" in branch.entries and not jurisdictions:
        reading.wrong(
            branch.lines["jurisdictions"],
            f"{where}.jurisdictions",
            "names none, so it might run nowhere; leave it out for anywhere",
        )
    strange = [one for one in jurisdictions if one not in borders]
    if strange:
        have = ", ".join(sorted(filter(None, borders))) or "none"
        reading.wrong(
            branch.lines["jurisdictions"],
            f"{where}.jurisdictions",
            f"no location is in {strange[0]}; there are: {have}",
        )
    least = reading.value(branch, where, "least", whole(0, 10_000), 0)
    most = reading.value(branch, where, "most", whole(1, 10_000), max(1, least))
    if least > most:
        reading.wrong(branch.lines["least"], f"{where}.least", f"{least} is more than `most`, {most}")
    count = reading.value(branch, where, "count", whole(1, SERVICES_MAX), 1)
    if law is not None and not law.together_s and law.per_s * duration_s * count > REQUESTS_MAX:
        reading.wrong(
            branch.lines["arrivals"],
            f"{where}.arrivals",
            f"{law.per_s * duration_s * count:,.0f} requests are too many one by one; add `together: 1m`",
        )
    return Wish(
        name,
        count,
        reading.value(branch, where, "model", among(tuple(calibration.models), "model"), REQUIRED) or "",
        reading.value(branch, where, "devices", whole(0, 64), 0),
        least,
        most,
        reading.value(branch, where, "slots", whole(1, 1024), 16),
        int(1000 * reading.value(branch, where, "cores", number(0, 1024), 2)),
        reading.value(branch, where, "memory", bytes_of, 8 * 2**30) // 2**20,
        lengths,
        law,
        trace,
        services,
        jurisdictions,
        reading.value(branch, where, "first_token", time_of(0.001), 10.0),
        reading.value(branch, where, "wait", time_of(0.1, 86_400), 120.0),
        reading.value(branch, where, "queue", whole(0), 256),
        branch.line,
    )


def _arrivals(
    reading: Reading, where: str, branch: Branch, folder: Path, duration_s: float
) -> tuple[Law | None, Path | None, int]:
    at = f"{where}.arrivals"
    group = reading.group(branch, where, "arrivals")
    if "arrivals" not in branch.lines:
        reading.wrong(branch.line, at, "is missing; write for example `arrivals: {law: poisson, per_second: 0.5}`")
        return None, None, 0
    if reading.said(at):
        return None, None, 0
    kind = reading.value(group, at, "law", among(("poisson", "bursty", "diurnal", "trace"), "law"), REQUIRED)
    if kind == "trace":
        reading.known(group, at, ("law", "file", "services"))
        file = reading.value(group, at, "file", text_of, REQUIRED)
        return None, folder / (file or ""), reading.value(group, at, "services", whole(1, SERVICES_MAX), 1000)
    reading.known(group, at, ("law", "per_second", "per_hour", "cv", "peak_hour", "trough", "together"))
    if ("per_second" in group.lines) == ("per_hour" in group.lines):
        reading.wrong(group.line, at, "needs one of `per_second` and `per_hour`")
    per_s = reading.optional(group, at, "per_second", number(0.0, 1e6)) or 0.0
    per_s += (reading.optional(group, at, "per_hour", number(0.0, 1e9)) or 0.0) / 3600
    if per_s == 0.0 and not reading.said(at):
        reading.wrong(group.line, at, "a service at rate 0 is never asked; leave it out, or give a rate above 0")
        per_s = 1.0
    law = Law(
        per_s,
        reading.value(group, at, "cv", number(0.05, 20.0), 3.0 if kind == "bursty" else 1.0),
        reading.value(group, at, "peak_hour", number(0.0, 24.0), 14.0),
        reading.value(group, at, "trough", number(0.0, 1.0), 0.1 if kind == "diurnal" else 1.0),
        reading.value(group, at, "together", time_of(0.0, 3600.0), 0.0),
    )
    return law, None, 0


def _services(reading: Reading, root: Branch, services: tuple[Wish, ...]) -> None:
    if not services and not reading.said("services"):
        reading.wrong(root.lines.get("services", 1), "services", "there must be one, with a model and its arrivals")
    first: dict[str, int] = {}
    for wish in services:
        if wish.name in first:
            reading.wrong(wish.line, wish.name, f"is there twice (first on line {first[wish.name]})")
        first.setdefault(wish.name, wish.line)
    if sum(wish.count for wish in services) > SERVICES_MAX:
        reading.wrong(root.lines["services"], "services", f"more than {SERVICES_MAX:,} services")


_POLICIES: Mapping[str, Parser] = {
    "placing": lambda value: Placing(one_of(Placing)(value)),
    "keep_alive": lambda value: KeepAlive(one_of(KeepAlive)(value)),
    "worth": lambda value: time_of(0.0)(value),
    "fixed": lambda value: time_of(0.0)(value),
    "light": truth,
    "predict": truth,
    "sharing": truth,
    "give_way": truth,
    "soonest": truth,
    "starts_per_minute": whole(1),
}


def _policies(reading: Reading, root: Branch) -> Policies:
    group = reading.group(root, "", "policies")
    reading.known(group, "policies", ("preset", *_POLICIES))
    base = PRESETS[reading.value(group, "policies", "preset", among(tuple(PRESETS), "policy"), "bastide")]
    known = {field.name for field in fields(Policies)}
    changed = {}
    for key, parser in _POLICIES.items():
        value = reading.optional(group, "policies", key, parser)
        if value is not None:
            changed[key if key in known else f"{key}_s"] = value
    return replace(base, **changed)


def _fault(reading: Reading, where: str, branch: Branch, names: set[str], ends_s: float) -> Fault:
    reading.known(branch, where, ("kind", "at", "lasts", "where"))
    place = reading.value(branch, where, "where", text_of, "")
    if place and place not in names:
        some = ", ".join(sorted(names)[:12])
        reading.wrong(
            branch.lines["where"], f"{where}.where", f"there is no node or location {place!r}; such as: {some}"
        )
    at_s = reading.value(branch, where, "at", time_of(0.0), REQUIRED) or 0.0
    if at_s >= ends_s:
        reading.wrong(
            branch.lines["at"],
            f"{where}.at",
            f"the run is over after {format_duration(ends_s)}, so it would never happen; "
            "give an earlier time, or a longer `duration`",
        )
    return Fault(
        Trouble(reading.value(branch, where, "kind", one_of(Trouble), REQUIRED) or Trouble.HERD),
        at_s,
        reading.value(branch, where, "lasts", time_of(0.0), 300.0),
        place,
    )


def _rates(reading: Reading, root: Branch) -> list[tuple[Trouble, float, float]]:
    group = reading.group(root, "", "fault_rates")
    reading.known(group, "fault_rates", (*(kind.value for kind in Trouble), "lasts"))
    lasts_s = reading.value(group, "fault_rates", "lasts", time_of(0.0), 300.0)
    found = []
    for kind in Trouble:
        per_day = reading.value(group, "fault_rates", kind.value, number(0.0, 100_000), 0.0)
        if per_day:
            found.append((kind, per_day, lasts_s))
    return found
