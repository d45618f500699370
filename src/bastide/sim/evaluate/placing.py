"""E1: requests placed one by one on a fleet, none leaving. Owns the run and its metrics, not the decisions.

A request that some node can take is placed at once; one that fits nowhere is dropped. Metrics, in percent of the
fleet's devices: `alloc_at_X` is what is allocated when requests for X % have arrived; `frag_pct_of_total_at_X` is
the fragmentation of FGD's definition; `decision_us_mean` is microseconds per decision.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bastide.domain.errors import InvalidRequest
from bastide.policy.fleet import WHOLE, Fleet, NodeShape
from bastide.policy.placement import Mix, Place, Placer, costs, stranded
from bastide.sim.evaluate.lagged import Lagged
from bastide.sim.evaluate.openb import Workload, read_nodes, read_workload, workload_names
from bastide.sim.evaluate.packing import AnyPlace, Fgd, GpuClustering, best_fit, dot_prod, gpu_packing

POLICIES = ("random", "dot_prod", "gpu_clustering", "gpu_packing", "best_fit", "fgd", "bastide")
ALLOC_AT = (90, 95, 100, 130)
FRAG_AT = (50, 80, 100)


def chooser(policy: str, fleet: Fleet, mix: Mix, fragments: Mix, chance: Lagged) -> Placer | AnyPlace:
    """The policy of that name on that fleet. `fragments`: the mix as FGD has it, with the models that its classes name."""
    match policy:
        case "random":
            return AnyPlace(fleet, chance)
        case "dot_prod":
            return Placer(fleet, dot_prod)
        case "gpu_clustering":
            return Placer(fleet, GpuClustering(fleet))
        case "gpu_packing":
            return Placer(fleet, gpu_packing)
        case "best_fit":
            return Placer(fleet, best_fit)
        case "fgd":
            return Placer(fleet, Fgd(fragments))
        case "bastide":
            return Placer(fleet, costs(mix))
    raise InvalidRequest(f"there is no policy {policy!r} in E1; there are: {', '.join(POLICIES)}")


def run(shapes: Sequence[NodeShape], workload: Workload, policy: str, seed: int) -> dict[str, Any]:
    """One row: every request of the workload, in the order of `seed`."""
    order, shapes, chance = workload.arranged(shapes, seed)
    fleet = Fleet(shapes)
    mix = Mix.expected(workload.popularity(), fleet)
    fragments = Mix.expected(workload.popularity(), fleet, models_apart=True)
    chosen = chooser(policy, fleet, mix, fragments, chance)
    clustering = chosen.score if isinstance(chosen, Placer) and isinstance(chosen.score, GpuClustering) else None
    everywhere = np.arange(len(fleet))
    row: dict[str, Any] = {"workload": workload.name, "policy": policy, "seed": seed}
    marks = sorted({*ALLOC_AT, *FRAG_AT})
    arrived = allocated = decisions = dropped = 0
    took_s = 0.0

    def note(mark: int) -> None:
        if mark in ALLOC_AT:
            row[f"alloc_at_{mark}"] = round(100 * allocated / fleet.capacity_milli, 4)
        if mark in FRAG_AT:
            lost = float(stranded(fragments, fleet, everywhere, company=0.0).sum())
            row[f"frag_pct_of_total_at_{mark}"] = round(100 * lost / fleet.capacity_milli, 4)

    for index in order:
        request = workload.classes[index]
        began = time.perf_counter()
        place = chosen.choose(request)
        took_s += time.perf_counter() - began
        decisions += 1
        arrived += request.total_milli
        if isinstance(place, Place):
            fleet.take(place.node, request, place.device)
            allocated += request.total_milli
            if clustering is not None:
                clustering.placed(place.node, request)
        else:
            dropped += 1
        while marks and arrived * 100 >= marks[0] * fleet.capacity_milli:
            note(marks.pop(0))
    for mark in marks:  # rounding may leave the last mark a hair away
        note(mark)
    row["decision_us_mean"] = round(took_s / decisions * 1e6, 1)
    row["devices"] = fleet.capacity_milli // WHOLE
    row["dropped"] = dropped
    return row


def rows(
    data: Path, workloads: Sequence[str], policies: Sequence[str], seeds: Sequence[int], tiles: int = 1
) -> Iterator[dict[str, Any]]:
    """A row per workload, policy and seed. Empty sequences stand for all."""
    for policy in policies:
        if policy not in POLICIES:
            raise InvalidRequest(f"there is no policy {policy!r} in E1; there are: {', '.join(POLICIES)}")
    shapes = read_nodes(data, tiles)
    for name in workloads or workload_names(data):
        workload = read_workload(data, name)
        for policy in policies or POLICIES:
            for seed in seeds:
                yield run(shapes, workload, policy, seed)
