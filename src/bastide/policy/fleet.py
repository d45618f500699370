"""The nodes of a fleet as columns of numbers, so that one look can weigh all of them. Pure state: it decides nothing.

Owns what is free on every node and the log of which nodes changed, so that whoever caches a view of the fleet looks again
only at those. Everything is whole numbers: thousandths of a core, thousandths of a device, MiB, watts.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Fleet:
    """Free capacity by node. `free_milli` is nodes x devices; a device a node doesn't have counts as nothing free."""

    def __init__(self, shapes: Sequence[NodeShape]) -> None:
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
        self.changed: list[int] = []  # nodes, in the order they changed

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
        ):
            raise ValueError(f"{request} does not fit {self.shapes[node].name}")
        if request.devices:
            free[list(used)] -= request.device_milli
        self._move(node, request, -1)
        return used if request.devices else ()

    def give_back(self, node: int, request: Request, devices: tuple[int, ...]) -> None:
        """The reverse of `take`, with the devices it returned."""
        if devices:
            self.free_milli[node, list(devices)] += request.device_milli
        self._move(node, request, 1)

    def _move(self, node: int, request: Request, sign: int) -> None:
        self.cpu_free_milli[node] += sign * request.cpu_milli
        self.memory_free_mib[node] += sign * request.memory_mib
        self.power_free_w[node] += sign * request.power_w
        self.instances[node] -= sign
        self.changed.append(node)

    def fits(self, request: Request, nodes: Integers) -> NDArray[np.bool_]:
        """Which of `nodes` can take `request` now."""
        fits: NDArray[np.bool_] = (self.cpu_free_milli[nodes] >= request.cpu_milli) & (
            self.memory_free_mib[nodes] >= request.memory_mib
        )
        if request.power_w:
            fits &= self.power_free_w[nodes] >= request.power_w
        if request.locations:
            fits &= np.isin(self.location[nodes], _indices(self.locations, request.locations))
        if request.devices:
            fits &= (self.free_milli[nodes] >= request.device_milli).sum(axis=1) >= request.devices
            if request.models:
                fits &= np.isin(self.model[nodes], _indices(self.models, request.models))
        return fits

    def missing(self, request: Request) -> str:
        """Why no node takes `request`: what the nodes lack, in the order the filters look, with how many are left."""
        left = np.ones(len(self), dtype=bool)
        looks: list[tuple[str, NDArray[np.bool_]]] = []
        if request.locations:
            wanted = " or ".join(sorted(request.locations))
            looks.append((f"in {wanted}", np.isin(self.location, _indices(self.locations, request.locations))))
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
