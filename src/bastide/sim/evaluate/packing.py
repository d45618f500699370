"""Published placement policies, from their papers' definitions: what E1 runs beside Bastide's. Owns scores and ties.

Every score is a cost (less is better). Scores are whole numbers from 0 to 100, rounded down, as in the scheduler that the
published runs used, and of equal nodes the first in the order of the seed is taken (see `openb`); of equal devices the
first. Within a node a share goes on the device it leaves the least free, but for FGD, which chooses the device too.
"""

from __future__ import annotations

import numpy as np

from bastide.policy.fleet import WHOLE, Fleet, Integers, Request
from bastide.policy.placement import Mix, NoPlace, Numbers, Place, Placer, growth
from bastide.sim.evaluate.lagged import Lagged

BEST = 100  # points


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
    """Devices already shared, the fuller the better; then idle devices of nodes in use; then idle nodes, the smaller the better."""
    device = fitting_device(fleet, request, nodes)
    if not request.devices:
        return np.zeros(len(nodes)), device
    free = fleet.free_milli[nodes]
    idle = (free == WHOLE).sum(axis=1)
    score = np.full(len(nodes), max(BEST // 2 - request.devices, BEST // 3))
    if request.shares:
        left = free[np.arange(len(nodes)), device]
        score = np.where(left < WHOLE, BEST - left * BEST // WHOLE // 10, score)
    score = np.where(idle == fleet.devices[nodes], BEST // 3 - idle, score)
    return -score.astype(np.float64), device


class GpuClustering:
    """Prefers nodes that run requests of the same number of devices (shares are a kind of their own) and no others; then such
    that run others too; then idle nodes; of equals the fullest."""

    def __init__(self, fleet: Fleet) -> None:
        self._runs = np.zeros((len(fleet), 1 + int(fleet.devices.max(initial=0))), dtype=bool)

    def __call__(self, fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]:
        device = fitting_device(fleet, request, nodes)
        if not request.devices:
            return np.zeros(len(nodes)), device
        kinds = self._runs[nodes].sum(axis=1)
        same = self._runs[nodes, self._kind(request)]
        tier = np.where(same, np.where(kinds == 1, 3, 2), np.where(kinds == 0, 1, 0))
        most = int(fleet.devices.max()) * WHOLE
        fuller = BEST // 4 * (most - fleet.free_milli[nodes].sum(axis=1)) // most
        return -(tier * (BEST // 4) + fuller).astype(np.float64), device

    def placed(self, node: int, request: Request) -> None:
        if request.devices:
            self._runs[node, self._kind(request)] = True

    @staticmethod
    def _kind(request: Request) -> int:
        return 0 if request.shares else request.devices


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
    """Any node that fits, and for a share any device of it, by chance. The published runs drew so too, from nodes in an order
    that was not kept."""

    def __init__(self, fleet: Fleet, chance: Lagged) -> None:
        self._chance = chance
        self._named: Integers = np.array(sorted(range(len(fleet)), key=lambda node: fleet.shapes[node].name))
        self._fits = Placer(fleet, lambda fleet, request, nodes: (np.zeros(len(nodes)), np.full(len(nodes), -1)))

    def choose(self, request: Request) -> Place | NoPlace:
        cost, _ = self._fits.view(request)
        able = self._named[np.isfinite(cost)[self._named]]
        if not len(able):
            return NoPlace("no node fits")
        node = int(able[self._chance.below(len(able)) if len(able) > 1 else 0])
        device = -1
        if request.shares:
            devices = np.flatnonzero(self._fits.fleet.free_milli[node] >= request.device_milli).tolist()
            for count, one in enumerate(devices, 1):  # each instead of those before with its share of the chance
                device = one if self._chance.below(count) == 0 else device
        return Place(node, device, 0.0, "by chance")
