"""The nodes of a fleet as columns of numbers, so that one look can weigh all of them. Pure state: it decides nothing.

Owns what is free on every node and the log of which nodes changed, so that whoever caches a view of the fleet looks again
only at those. The log is bounded: who has not looked for long looks at everything. Everything is whole numbers: thousandths
of a core, thousandths of a device, MiB, watts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
WHOLE = 1000  # thousandths in one device


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What a node has when it is empty. `power_w`: watts it may draw beyond its idle draw; None where nobody bounds it."""

    name: str
    cpu_milli: int
    memory_mib: int
    devices: int
    model: str
    location: str = "here"
    power_w: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What an instance asks for: cores and memory, and `devices` devices with `device_milli` thousandths of each.

    Below a whole device (`devices` 1, `device_milli` < 1000) it shares one; above, devices must be whole and unused.
    `models` and `locations` empty: any. `power_w`: what it draws at full load.
    """

    cpu_milli: int
    memory_mib: int
    devices: int = 0
    device_milli: int = 0
    models: frozenset[str] = frozenset()
    locations: frozenset[str] = frozenset()
    power_w: int = 0

    @property
    def shares(self) -> bool:
        return self.devices == 1 and self.device_milli < WHOLE

    @property
    def total_milli(self) -> int:
        return self.devices * self.device_milli


UNBOUNDED_W = 2**40
# The log of changes is cut once it is this many times as long as there are nodes (and at least so long).
LOG_NODES = 2
LOG_MIN = 1024
# So many requests' reasons for finding no place are kept.
LACKS_MAX = 1024
LIKENESS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64).astype(np.int64)


class Fleet:
    """Free capacity by node. `free_milli` is nodes x devices; a device a node doesn't have counts as nothing free.

    `open`: nodes that may be given something; a lost or drained node is closed. `location_power_w`: watts that all nodes of
    a location may draw together, beyond their idle draw; a location not named is not bounded.
    """

    def __init__(self, shapes: Sequence[NodeShape], location_power_w: Mapping[str, int] | None = None) -> None:
        self.shapes = tuple(shapes)
        width = max((shape.devices for shape in shapes), default=0)
        self.devices: Integers = np.array([shape.devices for shape in shapes], dtype=np.int64)
        self.cpu_free_milli: Integers = np.array([shape.cpu_milli for shape in shapes], dtype=np.int64)
        self.memory_free_mib: Integers = np.array([shape.memory_mib for shape in shapes], dtype=np.int64)
        self.power_free_w: Integers = np.array(
            [UNBOUNDED_W if shape.power_w is None else shape.power_w for shape in shapes], dtype=np.int64
        )
        self.cpu_milli = self.cpu_free_milli.copy()
        self.free_milli: Integers = np.where(np.arange(width)[None, :] < self.devices[:, None], WHOLE, 0).astype(
            np.int64
        )
        self.instances: Integers = np.zeros(len(shapes), dtype=np.int64)
        self.models = tuple(dict.fromkeys(shape.model for shape in shapes))
        self.locations = tuple(dict.fromkeys(shape.location for shape in shapes))
        self.model: Integers = np.array([self.models.index(shape.model) for shape in shapes], dtype=np.int64)
        self.location: Integers = np.array([self.locations.index(shape.location) for shape in shapes], dtype=np.int64)
        self.capacity_milli = int(self.devices.sum()) * WHOLE
        self.open: NDArray[np.bool_] = np.ones(len(shapes), dtype=bool)
        bounds = location_power_w or {}
        self.location_power_free_w: Integers = np.array(
            [bounds.get(name, UNBOUNDED_W) for name in self.locations], dtype=np.int64
        )
        self.power_bounded = bool(bounds)
        # Factors that no sums of small numbers are likely to make equal, all of 64 bits (splitmix's and its powers).
        self._factors: Integers = np.cumprod(np.full(width, LIKENESS[2]), dtype=np.int64)
        self._changed: list[int] = []  # nodes, in the order they changed
        self._dropped = 0  # how many of the log's beginning are gone
        self._lacks: dict[Request, tuple[int, str]] = {}  # where the log stood, and what was missing then

    def __len__(self) -> int:
        return len(self.shapes)

    def take(self, node: int, request: Request, device: int = -1) -> tuple[int, ...]:
        """Give `request` its place on `node`; a share goes on `device`. Returns the devices it has.

        Raises ValueError where it doesn't fit: a caller that has not looked must not overbook.
        """
        free = self.free_milli[node]
        if request.shares:
            used: tuple[int, ...] = (device,)
        else:
            used = tuple(int(index) for index in np.flatnonzero(free == WHOLE)[: request.devices])
        if (
            len(used) < request.devices
            or (request.devices > 0 and bool((free[list(used)] < request.device_milli).any()))
            or self.cpu_free_milli[node] < request.cpu_milli
            or self.memory_free_mib[node] < request.memory_mib
            or self.power_free_w[node] < request.power_w
            or self.location_power_free_w[self.location[node]] < request.power_w
        ):
            raise ValueError(f"{request} does not fit {self.shapes[node].name}")
        if request.devices:
            free[list(used)] -= request.device_milli
        self._move(node, request, -1)
        return used if request.devices else ()

    def take_on(self, node: int, request: Request, devices: tuple[int, ...]) -> None:
        """`take` on these very devices; the caller has looked that it fits."""
        if devices:
            self.free_milli[node, list(devices)] -= request.device_milli
        self._move(node, request, -1)

    def give_back(self, node: int, request: Request, devices: tuple[int, ...]) -> None:
        """The reverse of `take`, with the devices it returned."""
        if devices:
            self.free_milli[node, list(devices)] += request.device_milli
        self._move(node, request, 1)

    def _move(self, node: int, request: Request, sign: int) -> None:
        self.cpu_free_milli[node] += sign * request.cpu_milli
        self.memory_free_mib[node] += sign * request.memory_mib
        self.power_free_w[node] += sign * request.power_w
        self.location_power_free_w[self.location[node]] += sign * request.power_w
        self.instances[node] -= sign
        self._note((node,))

    def take_each(self, nodes: Integers, request: Request, device: Integers) -> list[tuple[int, ...]]:
        """`take` on many nodes at once, one copy on each; the caller has looked that it fits. Returns the devices of each."""
        if request.shares:
            self.free_milli[nodes, device] -= request.device_milli
            used: list[tuple[int, ...]] = [(one,) for one in device.tolist()]
        elif request.devices:
            unused = self.free_milli[nodes] == WHOLE
            chosen = unused & (unused.cumsum(axis=1) <= request.devices)
            self.free_milli[nodes] -= np.where(chosen, request.device_milli, 0)
            used = [tuple(one) for one in np.nonzero(chosen)[1].reshape(len(nodes), request.devices).tolist()]
        else:
            used = [()] * len(nodes)
        self.cpu_free_milli[nodes] -= request.cpu_milli
        self.memory_free_mib[nodes] -= request.memory_mib
        if request.power_w:
            self.power_free_w[nodes] -= request.power_w
            np.subtract.at(self.location_power_free_w, self.location[nodes], request.power_w)
        self.instances[nodes] += 1
        self._note(nodes.tolist())
        return used

    def set_open(self, node: int, is_open: bool) -> None:
        """Whether the node may be given something. What it has stays until it is given back."""
        if bool(self.open[node]) != is_open:
            self.open[node] = is_open
            self._note((node,))

    def _note(self, nodes: Sequence[int]) -> None:
        self._changed.extend(nodes)
        if len(self._changed) > max(LOG_MIN, LOG_NODES * len(self)):
            half = len(self._changed) // 2
            del self._changed[:half]
            self._dropped += half

    @property
    def mark(self) -> int:
        """Where the log of changes stands now."""
        return self._dropped + len(self._changed)

    def changed_since(self, mark: int) -> Integers:
        """Nodes that changed since the log stood at `mark`, each once and in order; all where the log is cut there."""
        if mark < self._dropped:
            return np.arange(len(self))
        return np.array(sorted(set(self._changed[mark - self._dropped :])), dtype=np.int64)

    def fits(self, request: Request, nodes: Integers) -> NDArray[np.bool_]:
        """Which of `nodes` can take `request` now."""
        fits: NDArray[np.bool_] = (
            self.open[nodes]
            & (self.cpu_free_milli[nodes] >= request.cpu_milli)
            & (self.memory_free_mib[nodes] >= request.memory_mib)
        )
        if request.power_w:
            fits &= self.power_free_w[nodes] >= request.power_w
            if self.power_bounded:
                fits &= self.powered(request)[nodes]
        if request.locations:
            fits &= np.isin(self.location[nodes], _indices(self.locations, request.locations))
        if request.devices:
            fits &= (self.free_milli[nodes] >= request.device_milli).sum(axis=1) >= request.devices
            if request.models:
                fits &= np.isin(self.model[nodes], _indices(self.models, request.models))
        return fits

    def likeness(self, nodes: Integers) -> Integers:
        """A number for each node; nodes with the same have the same model and the same left of cores and devices."""
        likeness = self.cpu_free_milli[nodes] * LIKENESS[0] + self.model[nodes] * LIKENESS[1] + self.devices[nodes]
        return np.asarray(likeness + (self.free_milli[nodes] * self._factors).sum(axis=1))

    def powered(self, request: Request) -> NDArray[np.bool_]:
        """Which nodes are at a location that has the power left."""
        return np.asarray((self.location_power_free_w >= request.power_w)[self.location])

    def allowed(self, locations: frozenset[str]) -> NDArray[np.bool_]:
        """Which nodes are at one of these locations."""
        return np.isin(self.location, _indices(self.locations, locations))

    def missing(self, request: Request) -> str:
        """Why no node takes `request`: what the nodes lack, in the order the filters look, with how many are left.

        Told again as long as no node changes: in a full fleet everybody who waits asks, whenever anybody does.
        """
        mark, said = self._lacks.get(request, (-1, ""))
        if mark != self.mark:
            if len(self._lacks) >= LACKS_MAX:
                self._lacks.clear()
            mark, said = self._lacks[request] = self.mark, self._missing(request)
        return said

    def _missing(self, request: Request) -> str:
        left = np.ones(len(self), dtype=bool)
        looks: list[tuple[str, NDArray[np.bool_]]] = [("open", self.open)]
        if request.locations:
            wanted = " or ".join(sorted(request.locations))
            looks.append((f"in {wanted}", self.allowed(request.locations)))
        if request.devices and request.models:
            wanted = " or ".join(sorted(request.models))
            looks.append((f"with {wanted}", np.isin(self.model, _indices(self.models, request.models))))
        if request.devices:
            enough = (self.free_milli >= request.device_milli).sum(axis=1) >= request.devices
            size = (
                f"{request.device_milli / WHOLE:g} of a device"
                if request.shares
                else f"{request.devices} unused devices"
            )
            looks.append((f"with {size} free", enough))
        looks.append((f"with {request.cpu_milli / 1000:g} cores free", self.cpu_free_milli >= request.cpu_milli))
        looks.append((f"with {request.memory_mib} MiB free", self.memory_free_mib >= request.memory_mib))
        looks.append((f"with {request.power_w} W free", self.power_free_w >= request.power_w))
        looks.append((f"at a location with {request.power_w} W left", self.powered(request)))
        said, before = [f"of {len(self)} nodes"], len(self)
        for what, passes in looks:
            left &= passes
            count = int(left.sum())
            if count < before:
                said.append(f"{count} {what}")
            before = count
            if count == 0:
                break
        return ", ".join(said)


def _indices(known: tuple[str, ...], wanted: frozenset[str]) -> list[int]:
    return [index for index, name in enumerate(known) if name in wanted]
