"""Running a scenario, under one policy or several, and what came of it as plain figures with a digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bastide import __version__
from bastide.domain.errors import InvalidRequest
from bastide.sim.fleet.measure import Measured, Sample, digest
from bastide.sim.fleet.setup import AT_ONCE, EVERYWHERE, PRESETS, Policies, Setup
from bastide.sim.fleet.world import World
from bastide.sim.scenario import Scenario
from bastide.sim.scenario_setup import setup


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run. `figures` by name, units last; `digest` changes with any of it."""

    scenario: str
    policy: str
    seed: int
    figures: dict[str, float]
    wakes: dict[str, int]
    by_location: dict[str, dict[str, float]]
    worst: tuple[dict[str, Any], ...]  # services of which the most came too late or not, by share
    timeline: tuple[Sample, ...]
    reasons: tuple[dict[str, Any], ...]
    digest: str
    nodes: tuple[dict[str, Any], ...]  # how many there were of each kind
    faults: tuple[dict[str, Any], ...]  # in the order they happened

    def plain(self) -> dict[str, Any]:
        return {
            "bastide": __version__,
            "scenario": self.scenario,
            "policy": self.policy,
            "seed": self.seed,
            "digest": self.digest,
            "figures": self.figures,
            "wakes": self.wakes,
            "nodes": list(self.nodes),
            "by_location": self.by_location,
            "worst_services": list(self.worst),
            "faults": list(self.faults),
            "timeline": [asdict(sample) for sample in self.timeline],
            "reasons": list(self.reasons),
        }


def policies_named(names: Sequence[str], own: Policies) -> list[Policies]:
    """The policies to run: the scenario's own first, then those asked for. Raises InvalidRequest for an unknown one."""
    found = [own]
    for name in names:
        if name not in PRESETS:
            raise InvalidRequest(f"there is no policy {name!r} to compare with; there are: {', '.join(PRESETS)}")
        if all(PRESETS[name] != one for one in found):
            found.append(PRESETS[name])
    return found


def run(
    scenario: Scenario, compare: Sequence[str] = (), seed: int | None = None, told: Callable[[str], None] | None = None
) -> list[Result]:
    """The scenario under its own policies, and under each of `compare`. Everything else is the same for all."""
    results = []
    for policies in policies_named(compare, scenario.policies):
        made = setup(scenario, seed, policies)
        if told is not None:
            told(policies.name)
        results.append(simulate(made, scenario.name))
    return results


def simulate(made: Setup, name: str) -> Result:
    """One run of a world to its end."""
    world = World(made)
    measured = world.run()
    figures, by_location = _figures(world, measured)
    wakes = {rung: measured.wakes[rung] for rung in ("light", "cached", "neighbour", "source")}
    reasons = tuple(measured.reasons.values())
    policy, worst = made.policies.name, _worst(world)
    whole = [
        policy,
        made.seed,
        figures,
        wakes,
        by_location,
        worst,
        [asdict(sample) for sample in measured.timeline],
        reasons,
    ]
    return Result(
        name, policy, made.seed, figures, wakes, by_location, worst, tuple(measured.timeline), reasons, digest(whole),
        _nodes(made), _faults(made),
    )  # fmt: skip


def _nodes(made: Setup) -> tuple[dict[str, Any], ...]:
    counted = Counter((shape.location, shape.model, shape.devices) for shape in made.shapes)
    return tuple(
        {"location": location, "device": model, "devices": devices, "nodes": count}
        for (location, model, devices), count in counted.items()
    )


def _faults(made: Setup) -> tuple[dict[str, Any], ...]:
    """What broke, when, for how long, where (nowhere named: everywhere), and how many nodes that were."""
    there = Counter(shape.name for shape in made.shapes)
    there.update(shape.location for shape in made.shapes)
    there[""] = len(made.shapes)
    happened = sorted((fault for fault in made.faults if fault.at_s <= made.duration_s), key=lambda fault: fault.at_s)
    return tuple(
        {
            "kind": fault.kind.value,
            "at_s": round(fault.at_s, 3),
            "lasts_s": 0.0 if fault.kind in AT_ONCE else round(fault.lasts_s, 3),
            "where": (where := "" if fault.kind in EVERYWHERE else fault.where),
            "nodes": there[where],
        }
        for fault in happened
    )


WORST_MAX = 20


def _worst(world: World) -> tuple[dict[str, Any], ...]:
    lives = [live for live in world.lives.values() if live.missed > 1e-9 and live.asked > 1e-9]
    lives.sort(key=lambda live: (-live.missed / live.asked, live.spec.name))
    return tuple(
        {
            "service": live.spec.name,
            "requests": round(live.asked, 6),
            "in_time_share": round(max(0.0, 1 - live.missed / live.asked), 6),
        }
        for live in lives[:WORST_MAX]
    )


def _figures(world: World, measured: Measured) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    made, ends_s = world.setup, world.now_s
    hours = ends_s / 3600
    by_location: dict[str, dict[str, float]] = {}
    for location in made.locations:
        devices = sum(shape.devices for shape in made.shapes if shape.location == location.name)
        energy, rented = world.energy_kwh(location.name), world.rent(location.name)
        by_location[location.name] = {
            "devices": devices,
            "gpu_hours": devices * hours,
            "gpu_hours_held": measured.allocated_device_s[location.name] / 3600,
            "gpu_hours_busy": measured.busy_device_s[location.name] / 3600,
            "energy_kwh": energy,
            "cost_of_held": rented,
            "cost_of_fleet": devices * hours * location.price_per_gpu_hour,
            "cost_of_energy": energy * location.price_per_kwh,
            "carbon_kg": energy * location.carbon_g_per_kwh / 1000,
        }
    held = [sample.allocated for sample in measured.timeline]
    devices = sum(shape.devices for shape in made.shapes)
    sums = {key: sum(one[key] for one in by_location.values()) for key in next(iter(by_location.values()))}
    over = max(1e-9, measured.arrived)
    figures = {
        "simulated_s": made.duration_s,
        "services": len(made.services),
        "requests": measured.arrived,
        "answered_share": measured.answered / over,
        "in_time_share": measured.in_time_share,
        "held_share": measured.held / over,
        "refused": measured.refused,
        "timed_out": measured.timed_out,
        "waiting_at_end": measured.waiting + measured.waiting_late,
        "in_flight_at_end": max(0.0, measured.arrived - measured.over - measured.waiting - measured.waiting_late),
        "failed": measured.failed,
        "moved": measured.moved,
        "first_token_p50_s": measured.first_token.at(0.5),
        "first_token_p95_s": measured.first_token.at(0.95),
        "first_token_p99_s": measured.first_token.at(0.99),
        "answer_p50_s": measured.whole.at(0.5),
        "answer_p99_s": measured.whole.at(0.99),
        "devices_held_mean": sum(held) / max(1, len(held)) * devices,
        "devices_held_most": max(held, default=0.0) * devices,
        **sums,
        "plans": measured.control.plans,
        "starts": measured.control.starts,
        "starts_failed": sum(measured.control.starts_failed.values()),
        "rests": measured.control.rests,
        "gave_way": measured.control.gave_way,
        "refused_actions": measured.control.refused_actions,
        "faults": sum(measured.faults.values()),
    }
    return {key: round(value, 6) for key, value in figures.items()}, {
        name: {key: round(value, 6) for key, value in one.items()} for name, one in by_location.items()
    }
