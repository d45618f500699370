"""From a scenario to a world: ways to run each model on this fleet, arrivals, faults drawn from the seed. Decides nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bastide.domain.errors import InvalidRequest, InvalidSpec, Problem
from bastide.domain.lifecycle import Rung
from bastide.domain.units import format_bytes, format_count
from bastide.policy.fleet import WHOLE, NodeShape, Request
from bastide.sim import traces
from bastide.sim.calibration import ENGINE_SHARE, Calibration, ModelCosts
from bastide.sim.fleet.arrivals import by_law
from bastide.sim.fleet.setup import EVERYWHERE, DeviceFacts, Fault, Policies, Service, Setup, Trouble, Way
from bastide.sim.scenario import Nodes, Scenario, Wish, named

DAY_S = 86_400.0
PARTS = (1, 2, 4, 8, 16)
# A copy that takes more of a device than this has it alone.
SHARE_MAX = 0.9
# Room for context: every slot full with a request twice the mean length.
CONTEXT_TIMES = 2.0


def setup(scenario: Scenario, seed: int | None = None, policies: Policies | None = None) -> Setup:
    """The world of a scenario. Raises InvalidSpec where a service fits nowhere, or a trace makes no sense."""
    seed = scenario.seed if seed is None else seed
    policies = scenario.policies if policies is None else policies
    problems: list[Problem] = []
    services: list[Service] = []
    for wish in scenario.services:
        borders = frozenset(one.name for one in scenario.locations if one.jurisdiction in wish.jurisdictions)
        ways, lacks = ways_of(wish, scenario.nodes, borders, scenario.calibration, policies.sharing)
        if not ways:
            problems.append(Problem(wish.line, wish.name, lacks))
            continue
        try:
            services.extend(_services(wish, ways, borders, scenario, seed))
        except InvalidRequest as error:
            problems.append(Problem(wish.line, wish.name, error.message))
    if problems:
        raise InvalidSpec(tuple(problems))
    shapes = tuple(
        NodeShape(
            name,
            group.cpu_milli,
            group.memory_mib,
            group.devices,
            group.device,
            group.location,
            group.power_w,
        )
        for name, group in named(scenario.nodes)
    )
    facts = {
        name: DeviceFacts(costs.power_w, costs.idle_power_w, costs.memory_bytes)
        for name, costs in scenario.calibration.devices.items()
        if any(group.device == name for group in scenario.nodes)
    }
    return Setup(
        scenario.locations,
        shapes,
        tuple(services),
        facts,
        scenario.duration_s,
        seed,
        policies,
        tuple(_placed(fault, shapes, seed) for fault in (*scenario.faults, *_drawn(scenario, seed))),
        tick_s=scenario.tick_s,
        disk_bytes=min(group.disk_bytes for group in scenario.nodes),
    )


def ways_of(
    wish: Wish, nodes: tuple[Nodes, ...], borders: frozenset[str], calibration: Calibration, sharing: bool
) -> tuple[tuple[Way, ...], str]:
    """How one copy can run, one way for each model of device that can hold it; else why there is none."""
    ways: list[Way] = []
    tried: list[str] = []
    too_small: dict[str, int] = {}
    for device in dict.fromkeys(group.device for group in nodes):
        groups = [one for one in nodes if one.device == device and (not borders or one.location in borders)]
        if not groups:
            continue
        most = max(group.devices for group in groups)
        cpu_milli, memory_mib = max(one.cpu_milli for one in groups), max(one.memory_mib for one in groups)
        if cpu_milli < wish.cpu_milli or memory_mib < wish.memory_mib:
            tried.append(
                f"a copy asks for {wish.cpu_milli / 1000:g} cores and {format_bytes(wish.memory_mib * 2**20)} (`cores`, `memory`), "
                f"and nodes with {device} have at most {cpu_milli / 1000:g} and {format_bytes(memory_mib * 2**20)}; "
                "lower what it asks for, or add a larger node"
            )
            continue
        way = _way(wish, device, most, borders, calibration, sharing)
        if way is None:
            too_small[device] = most
        else:
            ways.append(way)
    if too_small:
        tried.append(_too_large(wish, too_small, calibration))
    where = f" in {', '.join(sorted(borders))}" if borders else ""
    return tuple(ways), f"{wish.model} fits on no node{where}: {'; '.join(tried) or 'there are none there'}"


def _too_large(wish: Wish, nodes: Mapping[str, int], calibration: Calibration) -> str:
    """What a copy needs, what the largest node gives, and what to do. `nodes`: the most devices of a node, by their model."""
    most = max(nodes.values())
    if wish.devices > most:
        return f"a copy asks for {wish.devices} devices, and no node has more than {most}; ask for fewer `devices`"
    parts_of = {
        device: wish.devices or max(parts for parts in PARTS if parts <= count)
        for device, count in nodes.items()
        if wish.devices <= count
    }
    given, device = max((parts * calibration.devices[one].memory_bytes, one) for one, parts in parts_of.items())
    parts = parts_of[device]
    held, context = parts * _held(wish, device, parts, calibration), _context(wish, calibration)
    slots = f"the context of {format_count(wish.slots, 'request')} at once"
    less = "lower `slots` or the tokens" if held < given else "take a smaller model"
    more = (
        "ask for more `devices`, or leave them out"
        if 0 < wish.devices < nodes[device]
        else "add a node with more or larger devices"
    )
    return (
        f"a copy needs {(held + context) / 1e9:.0f} GB ({held / 1e9:.0f} for its weights and engine, {context / 1e9:.0f} for {slots}), "
        f"and the most it is given is {given / 1e9:.0f} GB ({parts} x {device}); {less}, or {more}"
    )


def _held(wish: Wish, device: str, parts: int, calibration: Calibration) -> float:
    """Bytes that a copy on so many devices holds on each, beside its context."""
    costs = calibration.costs(wish.model, device, parts)
    weights = calibration.models[wish.model].weights_bytes
    return weights / parts * (1 + ENGINE_SHARE) if costs.derived else costs.held_bytes


def _context(wish: Wish, calibration: Calibration) -> float:
    """Bytes of context that a copy needs room for."""
    tokens = wish.slots * CONTEXT_TIMES * (wish.lengths.prompt + wish.lengths.answer)
    return tokens * calibration.models[wish.model].kv_bytes_per_token


def _way(
    wish: Wish, device: str, most: int, borders: frozenset[str], calibration: Calibration, sharing: bool
) -> Way | None:
    facts, kind = calibration.models[wish.model], calibration.devices[device]
    context = _context(wish, calibration)
    for parts in (wish.devices,) if wish.devices else PARTS:
        if parts > most:
            break
        costs = calibration.costs(wish.model, device, parts)
        held = _held(wish, device, parts, calibration)
        share = (held + context / parts) / kind.memory_bytes
        if share > 1.0:
            continue
        alone = parts > 1 or wish.devices > 0 or not sharing or share > SHARE_MAX
        milli = WHOLE if alone else max(1, math.ceil(share * WHOLE))
        power = round((kind.power_w - kind.idle_power_w) * parts * milli / WHOLE)
        request = Request(wish.cpu_milli, wish.memory_mib, parts, milli, frozenset({device}), borders, power)
        room = (milli / WHOLE * kind.memory_bytes - held) * parts
        return _costed(wish, request, costs, room / max(1, facts.kv_bytes_per_token), kind.start_s)
    return None


def _costed(wish: Wish, request: Request, costs: ModelCosts, kv_tokens: float, start_s: float) -> Way:
    light, off = costs.rungs.get(Rung.LIGHT), costs.rungs[Rung.OFF]
    return Way(
        request,
        costs.prefill_tokens_per_s,
        tuple(costs.step_s(max(1, batch)) for batch in range(wish.slots + 1)),
        wish.slots,
        off.wake_s,
        light.wake_s if light is not None else None,
        light.sleep_s if light is not None else off.sleep_s,
        max(0.0, off.wake_s - start_s),
        max(1.0, kv_tokens),
    )


def _services(
    wish: Wish, ways: tuple[Way, ...], borders: frozenset[str], scenario: Scenario, seed: int
) -> list[Service]:
    facts = scenario.calibration.models[wish.model]
    if wish.trace is not None:
        sources = traces.read(wish.trace, wish.trace_services, wish.lengths, f"{seed}/{wish.name}", scenario.duration_s)
    else:
        assert wish.law is not None
        law = wish.law
        sources = [
            (
                "" if wish.count == 1 else str(index),
                by_law(law, wish.lengths, f"{seed}/{wish.name}/{index}", scenario.duration_s),
            )
            for index in range(wish.count)
        ]
    made = Service(
        wish.name,
        "",
        facts.weights_bytes,
        ways,
        lambda: iter(()),
        wish.least,
        wish.most,
        borders,
        wish.first_token_s,
        wish.queue,
        wish.wait_s,
    )
    names = [wish.name if not suffix else f"{wish.name}-{suffix}" for suffix, _ in sources]
    # Copies of one declared service are tunings of one model: each has weights of its own.
    return [
        replace(made, name=name, weights=name, arrivals=source)
        for name, (_, source) in zip(names, sources, strict=True)
    ]


def _drawn(scenario: Scenario, seed: int) -> list[Fault]:
    """Faults by their rates, at moments drawn from the seed."""
    found: list[Fault] = []
    for kind, per_day, lasts_s in scenario.rates:
        chance = random.Random(f"{seed}/fault/{kind.value}")
        at_s = 0.0
        while True:
            at_s += chance.expovariate(per_day / DAY_S)
            if at_s >= scenario.duration_s:
                break
            found.append(Fault(kind, at_s, lasts_s))
    return found


def _placed(fault: Fault, shapes: Sequence[NodeShape], seed: int) -> Fault:
    """With a place by chance where it names none: the same under every policy, and one that can be told."""
    if fault.where or fault.kind in EVERYWHERE:
        return fault
    shape = random.Random(f"{seed}/place/{fault.kind.value}/{fault.at_s}").choice(shapes)
    return replace(fault, where=shape.location if fault.kind is Trouble.LOCATION_CUT else shape.name)
