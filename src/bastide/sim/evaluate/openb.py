"""A fleet and its workloads from the columns of the openb trace (Weng et al., ATC'23). Owns reading and shuffling.

By seed, requests come in the order of the published runs, and nodes stand in theirs, in which the first of equals is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bastide.domain.errors import InvalidRequest
from bastide.policy.fleet import WHOLE, NodeShape, Request
from bastide.sim.evaluate.lagged import Lagged
from bastide.sim.evaluate.table import csv_rows, find, parquet_rows, whole

NODES = "openb_nodes_gpu.csv.gz"
WORKLOADS = "openb_pods_workloads.parquet"
# Requests are appended until they ask for this much of the fleet, or left out until they ask for no more.
ASKED = 1.3
# Between requests and nodes the published runs drew for other ends, as many as it happened. With ten, five of six are met to
# the figure.
DRAWN_BETWEEN = 10


@dataclass(frozen=True, slots=True)
class Workload:
    """Classes of requests, and for each request of the trace (by its name) the index of its class."""

    name: str
    classes: tuple[Request, ...]
    members: tuple[int, ...]

    def popularity(self) -> list[tuple[Request, float]]:
        counts = np.bincount(np.array(self.members), minlength=len(self.classes))
        return [(request, float(count)) for request, count in zip(self.classes, counts, strict=True)]

    def arranged(self, shapes: Sequence[NodeShape], seed: int) -> tuple[list[int], list[NodeShape], Lagged]:
        """Classes in the order of arrival, and nodes in theirs: all shuffled, then random clones until enough is asked for.
        And the generator, for whoever draws on."""
        asks = [request.total_milli for request in self.classes]
        if not any(asks[index] for index in self.members):
            raise InvalidRequest(f"workload {self.name} asks for no devices at all")
        chance = Lagged(seed)
        chance.word()  # said in their log
        enough = ASKED * WHOLE * sum(shape.devices for shape in shapes)
        order = list(self.members)
        chance.shuffle(order)
        total = sum(asks[index] for index in order)
        while total > enough:
            total -= asks[order.pop(chance.below(len(order)))]
        while total < enough:
            index = self.members[chance.below(len(self.members))]
            if total + self.classes[index].device_milli > enough:
                break
            total += asks[index]
            order.append(index)
        for _ in range(DRAWN_BETWEEN):
            chance.word()
        named = sorted(shapes, key=lambda shape: shape.name)
        places = chance.permutation(len(named))
        arranged = [shape for _, shape in sorted(zip(places, named, strict=True), key=lambda pair: pair[0])]
        return order, arranged, chance


def read_nodes(directory: Path, tiles: int = 1) -> tuple[NodeShape, ...]:
    """The nodes, `tiles` times over."""
    path = find(directory, NODES)
    shapes: list[NodeShape] = []
    for line, row in csv_rows(path, ("sn", "cpu_milli", "memory_mib", "gpu", "model")):
        cpu, memory, devices = (
            whole(row[column], least, f"{path}, line {line}, {column}")
            for column, least in (("cpu_milli", 1), ("memory_mib", 1), ("gpu", 0))
        )
        shapes.append(NodeShape(row["sn"], cpu, memory, devices, row["model"]))
    if not any(shape.devices for shape in shapes):
        raise InvalidRequest(f"{path} has no node with a device")
    return tuple(shapes) * tiles


def workload_names(directory: Path) -> list[str]:
    rows = parquet_rows(find(directory, WORKLOADS), "select distinct workload from trace order by 1")
    return [str(name) for (name,) in rows]


def read_workload(directory: Path, name: str) -> Workload:
    """One workload of the file. Raises InvalidRequest where there is none of that name, or a row makes no sense."""
    path = find(directory, WORKLOADS)
    rows = parquet_rows(
        path,
        "select name, cpu_milli, memory_mib, num_gpu, gpu_milli, coalesce(gpu_spec, '') from trace where workload = ?",
        (name,),
    )
    if not rows:
        known = ", ".join(workload_names(directory))
        raise InvalidRequest(f"there is no workload {name!r} in {path}; there are: {known}")
    classes: dict[Request, int] = {}
    members: list[int] = []
    for number, (pod, *values, spec) in enumerate(sorted(rows), 1):
        columns = ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
        cpu, memory, devices, milli = (
            whole(value, 0, f"{path}, workload {name}, row {number} ({pod}), {column}")
            for value, column in zip(values, columns, strict=True)
        )
        if devices and (not 0 < milli <= WHOLE or (devices > 1 and milli != WHOLE)):
            raise InvalidRequest(f"{path}, workload {name}, row {number} ({pod}): {devices} x {milli} is no request")
        models = frozenset(filter(None, str(spec).split("|"))) if devices else frozenset()
        request = Request(cpu, memory, devices, milli if devices else 0, models)
        members.append(classes.setdefault(request, len(classes)))
    return Workload(name, tuple(classes), tuple(members))
