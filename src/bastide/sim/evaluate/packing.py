"""Published placement policies, from their papers' definitions: what E1 runs beside Bastide's. Owns scores and ties.

Every score is a cost (less is better). Scores are whole numbers from 0 to 100, as in the schedulers they come from, and
of equal nodes the first in the list is taken, unless a score says otherwise.
"""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from bastide.policy.fleet import WHOLE, Fleet, Integers, Request
from bastide.policy.placement import Mix, NoPlace, Numbers, Place, Placer, growth

# Far below one point of a score, so that it only ever decides between equals.
TIE = 1e-3


def fitting_device(fleet: Fleet, request: Request, nodes: Integers) -> Integers:
    """For a share, the device that it leaves the least free; -1 for all else."""
    if not request.shares:
        return np.full(len(nodes), -1)
    free = fleet.free_milli[nodes]
    return np.asarray(np.where(free >= request.device_milli, free, WHOLE + 1).argmin(axis=1))


def _left(fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Numbers]:
    """Cores and devices free on the nodes before placing, as shares of the largest node's."""
    cpu = fleet.cpu_free_milli[nodes] / fleet.cpu_milli.max()
    devices = fleet.free_milli[nodes].sum(axis=1) / (fleet.devices.max() * WHOLE)
    return cpu, devices


def best_fit(fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]:
    """The node with the least left after placing, cores and devices weighing the same."""
    cpu, devices = _left(fleet, request, nodes)
    after = (
        cpu - request.cpu_milli / fleet.cpu_milli.max() + devices - request.total_milli / (fleet.devices.max() * WHOLE)
    )
    return -np.floor(100 * (1 - after / 2)), fitting_device(fleet, request, nodes)


def dot_prod(fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]:
    """The node whose free resources have the smallest dot product with the request."""
    cpu, devices = _left(fleet, request, nodes)
    product = cpu * request.cpu_milli / fleet.cpu_milli.max()
    product = product + devices * request.total_milli / (fleet.devices.max() * WHOLE)
    return -np.floor(100 * (1 - product / 2)), fitting_device(fleet, request, nodes)


def gpu_packing(fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]:
    """Devices already shared, then idle devices of nodes in use, then idle nodes; of equals the one with the most cores
    free (as a share of its own)."""
    device = fitting_device(fleet, request, nodes)
    free = fleet.free_milli[nodes]
    in_use = (np.where(free < WHOLE, 1, 0).sum(axis=1) - (free.shape[1] - fleet.devices[nodes])) > 0
    tier = np.where(in_use, 1.0, 2.0)
    if request.shares:
        tier[free[np.arange(len(nodes)), device] < WHOLE] = 0.0
    return tier - TIE * fleet.cpu_free_milli[nodes] / fleet.cpu_milli[nodes], device


class GpuClustering:
    """Prefers nodes that already run requests of the same device size; of equals the one with the fewest cores free."""

    def __init__(self, fleet: Fleet) -> None:
        self._sizes: dict[tuple[int, int], NDArray[np.bool_]] = defaultdict(lambda: np.zeros(len(fleet), dtype=bool))

    def __call__(self, fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]:
        same = self._sizes[self._size(request)][nodes]
        cost = np.where(same, 0.0, 1.0) + TIE * fleet.cpu_free_milli[nodes] / fleet.cpu_milli[nodes]
        return cost, fitting_device(fleet, request, nodes)

    def placed(self, node: int, request: Request) -> None:
        self._sizes[self._size(request)][node] = True

    @staticmethod
    def _size(request: Request) -> tuple[int, int]:
        return request.devices, request.device_milli * 7 // WHOLE if request.shares else WHOLE


class Fgd:
    """The node (and device) whose fragmentation grows least (Weng et al., ATC'23): 100 x the sigmoid of what shrinks."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix

    def __call__(self, fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]:
        grown, able = growth(self._mix, fleet, request, nodes, company=0.0)
        score = np.where(able, np.floor(np.round(100 / (1 + np.exp(np.clip(grown, -30, 30))), 9)), -1.0)
        best = score.argmax(axis=1)
        return -score[np.arange(len(nodes)), best], best if request.shares else np.full(len(nodes), -1)


class AnyPlace:
    """Any node that fits, and for a share any device of it, by chance."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._chance = random.Random(seed)
        self._fits = Placer(fleet, lambda fleet, request, nodes: (np.zeros(len(nodes)), np.full(len(nodes), -1)))

    def choose(self, request: Request) -> Place | NoPlace:
        cost, _ = self._fits.view(request)
        able = np.flatnonzero(np.isfinite(cost))
        if not len(able):
            return NoPlace("no node fits")
        node = int(able[self._chance.randrange(len(able))])
        device = -1
        if request.shares:
            devices = np.flatnonzero(self._fits.fleet.free_milli[node] >= request.device_milli)
            device = int(devices[self._chance.randrange(len(devices))])
        return Place(node, device, 0.0, "by chance")
