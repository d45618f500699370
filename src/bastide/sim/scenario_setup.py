"""From a scenario to a world: ways to run each model on this fleet, arrivals, faults drawn from the seed. Decides nothing."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from bastide.domain.errors import InvalidRequest, InvalidSpec, Problem
from bastide.domain.lifecycle import Rung
from bastide.policy.fleet import WHOLE, NodeShape, Request
from bastide.sim import traces
from bastide.sim.calibration import ENGINE_SHARE, Calibration, ModelCosts
from bastide.sim.fleet.arrivals import by_law
from bastide.sim.fleet.setup import DeviceFacts, Fault, Policies, Service, Setup, Way
from bastide.sim.scenario import Nodes, Scenario, Wish, node_name

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
            node_name(group, index),
            group.cpu_milli,
            group.memory_mib,
            group.devices,
            group.device,
            group.location,
            group.power_w,
        )
        for group in scenario.nodes
        for index in range(group.count)
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
        (*scenario.faults, *_drawn(scenario, seed)),
        tick_s=scenario.tick_s,
        disk_bytes=min(group.disk_bytes for group in scenario.nodes),
    )


def ways_of(
    wish: Wish, nodes: tuple[Nodes, ...], borders: frozenset[str], calibration: Calibration, sharing: bool
) -> tuple[tuple[Way, ...], str]:
    """How one copy can run, one way for each model of device that can hold it; else why there is none."""
    ways: list[Way] = []
    tried: list[str] = []
    for device in dict.fromkeys(group.device for group in nodes):
        groups = [one for one in nodes if one.device == device and (not borders or one.location in borders)]
        if not groups:
            continue
        most = max(group.devices for group in groups)
        if (
            max(group.cpu_milli for group in groups) < wish.cpu_milli
            or max(g.memory_mib for g in groups) < wish.memory_mib
        ):
            tried.append(f"nodes with {device} have too few cores or too little memory")
            continue
        way = _way(wish, device, most, borders, calibration, sharing)
        if way is None:
            need = calibration.models[wish.model].weights_bytes / 1e9
            memory = calibration.devices[device].memory_bytes / 1e9
            tried.append(f"{most} x {device} of {memory:.0f} GB can't hold {need:.0f} GB and its context")
        else:
            ways.append(way)
    where = f" in {', '.join(sorted(borders))}" if borders else ""
    return tuple(ways), f"{wish.model} fits on no node{where}: {'; '.join(tried) or 'there are none there'}"


def _way(
    wish: Wish, device: str, most: int, borders: frozenset[str], calibration: Calibration, sharing: bool
) -> Way | None:
    facts, kind = calibration.models[wish.model], calibration.devices[device]
    context = wish.slots * CONTEXT_TIMES * (wish.lengths.prompt + wish.lengths.answer) * facts.kv_bytes_per_token
    for parts in (wish.devices,) if wish.devices else PARTS:
        if parts > most:
            break
        costs = calibration.costs(wish.model, device, parts)
        held = facts.weights_bytes / parts * (1 + ENGINE_SHARE) if costs.derived else costs.held_bytes
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
