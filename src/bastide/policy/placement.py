"""On which node, and on which of its devices, an instance is placed. Pure: filter, score, choose, and say why.

The cost of a place is how much device capacity it takes away from what is expected to come. It has four parts, all in
devices, so that they can be added and explained:

- *stranded*: the growth of what the expected mix could not use on that node. For each class of the mix it counts, as
  Weng et al. do (FGD, ATC'23), the idle devices the class cannot use there; and beyond that paper the idle devices the
  node's free cores would not feed, were the class to fill the node. A node whose cores run out before its devices is
  seen coming while it still can be avoided, not when the last core is gone.
- *spread*: idle devices left on the node, so that of equal places the fuller node wins and empty nodes stay whole.
- *scarce*: what the device's model is worth to those who can use no other.
- *wake*: seconds until it can answer there, from the wake ladder (awake, light, deep here, cached, a neighbour, the source).

A node's cost for a class is kept until that node changes: a decision costs what changed since the last one like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bastide.policy.fleet import WHOLE, Fleet, Integers, Request

Numbers = NDArray[np.float64]

# The most popular classes that make up this share of the mix are looked at; the rest would cost time and say little.
MIX_SHARE = 0.95
# A class fills a node with company that needs fewer cores: its own need, this much discounted, bounds what cores feed.
COMPANY = 1.5
# What one idle device left behind costs: once by count, once as share of the node. Small beside what is stranded.
SPREAD_PER_DEVICE = 0.05 / 8
SPREAD_PER_SHARE = 0.05
# What a device of a model costs, when those who can use only that model would fill all there is of it.
SCARCE = 0.3
# A second copy on the node of the first falls with it; worth this many devices to avoid.
APART = 1.0
# Costs are told apart to a billionth of a device.
DIGITS = 9
# Ten seconds of waking are worth a tenth of a device: enough to go where the weights are, not to break up a node.
WAKE_PER_S = 0.01


@dataclass(frozen=True, slots=True)
class Mix:
    """What is expected to come: classes by popularity, and how sought each device model is by those who need it.

    `able`, classes x models of the fleet: where a class may run. `scarcity` by model: the share of that model's devices which
    requests that name it would take, were the fleet full.
    """

    cpu_milli: Numbers
    devices: Numbers
    device_milli: Numbers
    popularity: Numbers
    able: NDArray[np.bool_]
    scarcity: dict[str, float]

    @staticmethod
    def expected(requests: Iterable[tuple[Request, float]], fleet: Fleet, models_apart: bool = False) -> Mix:
        """From requests and how often each comes. Popularities of those looked at sum to 1; an empty mix strands nothing.

        `models_apart`: what names its models is a class of its own. Left out, for scarcity says it already, at less cost.
        """
        counts: dict[tuple[int, int, int, tuple[str, ...]], float] = {}
        sought = np.zeros(len(fleet.models))
        by_model = np.bincount(fleet.model, weights=fleet.devices, minlength=len(fleet.models))
        total = 0.0
        for request, count in requests:
            models = tuple(sorted(request.models)) if models_apart and request.devices else ()
            key = (request.cpu_milli, request.device_milli if request.devices else 0, request.devices, models)
            counts[key] = counts.get(key, 0.0) + count
            total += request.total_milli * count
            named = [index for index, model in enumerate(fleet.models) if model in request.models]
            if request.devices and named and by_model[named].sum() > 0:
                sought[named] += request.total_milli * count * by_model[named] / by_model[named].sum()
        ranked = sorted(counts.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        kept: list[tuple[tuple[int, int, int, tuple[str, ...]], float]] = []
        covered, everything = 0.0, sum(counts.values())
        for pair in ranked:
            if covered >= MIX_SHARE * everything:
                break
            kept.append(pair)
            covered += pair[1]
        classes = np.array([key[:3] for key, _ in kept], dtype=np.float64).reshape(len(kept), 3)
        able = np.array([[not key[3] or model in key[3] for model in fleet.models] for key, _ in kept], dtype=bool)
        able = able.reshape(len(kept), len(fleet.models))
        popularity = np.array([count for _, count in kept], dtype=np.float64) / max(covered, 1e-12)
        share = sought / total * by_model.sum() / np.maximum(by_model, 1) if total else sought
        scarcity = {model: float(share[index]) for index, model in enumerate(fleet.models)}
        return Mix(classes[:, 0].copy(), classes[:, 2].copy(), classes[:, 1].copy(), popularity, able, scarcity)

    def fitting(self, fleet: Fleet, nodes: Integers, free: Numbers) -> NDArray[np.bool_]:
        """Nodes x devices x classes: which devices of `nodes`, with so much `free`, are large enough and of a model for a class."""
        large = free[:, :, None] >= np.maximum(self.device_milli, 1.0)
        return large if self.able.all() else large & self.able[:, fleet.model[nodes]].T[:, None, :]


@dataclass(frozen=True, slots=True)
class Place:
    """Chosen: `node` by index, `devices` it will have, `cost` in devices (see the module), and why."""

    node: int
    device: int  # for a share; -1 else
    cost: float
    reason: str
    way: int = 0  # which of the ways it was asked for in


@dataclass(frozen=True, slots=True)
class NoPlace:
    """No node can take it."""

    reason: str


class Score(Protocol):
    """Costs of placing `request` on each of `nodes`, which all fit it, and for a share on which device (else -1)."""

    def __call__(self, fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]: ...


def usable(mix: Mix, cpu: Numbers, used: Numbers, count: Numbers, company: float = COMPANY) -> Numbers:
    """Thousandths of devices the mix could use, by popularity, on nodes with `cpu` free.

    `used` and `count` (last axis: classes): capacity on devices large enough for each class, and how many such there are.
    `company` 0: cores only have to suffice for one of the class, as in FGD.
    """
    cpu = cpu[..., None]
    able = (mix.devices > 0) & (count >= mix.devices) & (cpu >= mix.cpu_milli)
    if company > 0:
        fed = company * mix.devices * mix.device_milli / np.maximum(mix.cpu_milli, 1.0) * cpu
        used = np.minimum(used, fed)
    return np.asarray(np.where(able, used, 0.0) @ mix.popularity)


def stranded(mix: Mix, fleet: Fleet, nodes: Integers, company: float = COMPANY) -> Numbers:
    """Idle thousandths of devices on `nodes` that the mix could not use, by popularity."""
    free = fleet.free_milli[nodes].astype(np.float64)
    large = mix.fitting(fleet, nodes, free)
    used = (free[:, :, None] * large).sum(axis=1)
    return np.asarray(
        free.sum(axis=1) - usable(mix, fleet.cpu_free_milli[nodes].astype(np.float64), used, large.sum(axis=1), company)
    )


def growth(
    mix: Mix, fleet: Fleet, request: Request, nodes: Integers, company: float = COMPANY
) -> tuple[Numbers, NDArray[np.bool_]]:
    """How much more would be stranded with `request` on each of `nodes` (which fit it), in devices, by device it may share.

    Nodes x 1 for whole devices and none; nodes x devices for a share, with the mask of devices that can take it.
    """
    free = fleet.free_milli[nodes].astype(np.float64)
    cpu = fleet.cpu_free_milli[nodes].astype(np.float64)
    large = mix.fitting(fleet, nodes, free)
    parts = free[:, :, None] * large
    used, count = parts.sum(axis=1), large.sum(axis=1)
    before = usable(mix, cpu, used, count, company)
    after_cpu = cpu - request.cpu_milli
    if not request.shares:
        # Whole devices: every class that may run there fits these.
        taken = request.devices * mix.able[:, fleet.model[nodes]].T
        after = usable(mix, after_cpu, used - taken * WHOLE, count - taken, company)
        grown = (before - after - request.total_milli)[:, None]
        return grown / WHOLE, np.ones((len(nodes), 1), dtype=bool)
    left = free - request.device_milli
    large_after = mix.fitting(fleet, nodes, left)
    used_after = used[:, None, :] - parts + left[:, :, None] * large_after
    count_after = count[:, None, :] - large.astype(np.int64) + large_after
    after = usable(mix, np.broadcast_to(after_cpu[:, None], left.shape), used_after, count_after, company)
    return (before[:, None] - after - request.device_milli) / WHOLE, left >= 0


def costs(mix: Mix) -> Score:
    """The score that Bastide places by: stranded, spread and scarce (waking is added at the choice, for it changes)."""

    def score(fleet: Fleet, request: Request, nodes: Integers) -> tuple[Numbers, Integers]:
        grown, able = growth(mix, fleet, request, nodes)
        grown = np.where(able, np.round(grown, DIGITS), np.inf)
        best = grown.argmin(axis=1)
        idle = (fleet.free_milli[nodes].sum(axis=1) - request.total_milli) / WHOLE
        spread = idle * (SPREAD_PER_DEVICE + SPREAD_PER_SHARE / np.maximum(fleet.devices[nodes], 1))
        sought = np.array([mix.scarcity.get(model, 0.0) for model in fleet.models])
        scarce = SCARCE * sought[fleet.model[nodes]] * request.total_milli / WHOLE
        cost = grown[np.arange(len(nodes)), best] + spread + scarce
        # Sums differ in their last bits with how many nodes are looked at together; equals must stay equal.
        return np.round(cost, DIGITS), best if request.shares else np.full(len(nodes), -1)

    return score


@dataclass(slots=True)
class _View:
    """What one class of request costs on every node, and how much of the fleet's log it has seen."""

    cost: Numbers
    device: Integers
    seen: int


# Of many copies placed at once, so many go out before the costs of where they went are looked at anew: the smaller, the
# nearer to one by one, and the slower.
ROUND_MIN = 32
ROUND_PART = 2
# Below this many nodes, finding those that are alike takes longer than it saves.
ALIKE_MIN = 128
# Views kept; the one not used for longest goes.
VIEWS_MAX = 1024


class Placer:
    """Chooses places by a score. Keeps costs by class of request; a node is looked at again only once it has changed.

    `price` by node: what a device costs there beside others; places are told apart by price x (what is lost + what is used).
    `alike`: the score looks at nothing of a node but what it has left, so that nodes alike need to be looked at once.
    """

    def __init__(self, fleet: Fleet, score: Score, price: Numbers | None = None, alike: bool = False) -> None:
        self.fleet, self.score, self.price, self.alike = fleet, score, price, alike
        self._views: dict[Request, _View] = {}
        self._anywhere: dict[Request, Request] = {}

    def view(self, request: Request) -> tuple[Numbers, Integers]:
        """Costs by node (infinite where it does not fit) and the device a share would have there."""
        fleet = self.fleet
        view = self._views.pop(request, None)
        if view is None:
            view = _View(np.full(len(fleet), np.inf), np.full(len(fleet), -1), -1)
            if len(self._views) >= VIEWS_MAX:
                del self._views[next(iter(self._views))]
        self._views[request] = view  # the last used is the last to go
        if view.seen == fleet.mark:
            return view.cost, view.device
        stale = fleet.changed_since(view.seen) if view.seen >= 0 else np.arange(len(fleet))
        view.seen = fleet.mark
        fits = fleet.fits(request, stale)
        view.cost[stale[~fits]] = np.inf
        able = stale[fits]
        if len(able):
            view.cost[able], view.device[able] = self._scored(request, able)
        return view.cost, view.device

    def _scored(self, request: Request, able: Integers) -> tuple[Numbers, Integers]:
        """Their scores; where many are looked at, those that are alike are once."""
        if not self.alike or len(able) < ALIKE_MIN:
            return self.score(self.fleet, request, able)
        _, first, which = np.unique(self.fleet.likeness(able), return_index=True, return_inverse=True)
        cost, device = self.score(self.fleet, request, able[first])
        return cost[which], device[which]

    def _valued(self, ways: Sequence[Request], wake_s: Sequence[float] | Numbers | None) -> tuple[Numbers, Integers]:
        """What each node costs by the cheapest of the ways it can take, and which way that is."""
        best: Numbers | None = None
        which: Integers = np.zeros(len(self.fleet), dtype=np.int64)
        for number, way in enumerate(ways):
            # Where it may be changes no cost: one view serves all who ask for the same.
            anywhere = self._anywhere.get(way)
            if anywhere is None:
                anywhere = self._anywhere[way] = replace(way, locations=frozenset()) if way.locations else way
            cost, _ = self.view(anywhere)
            if self.price is not None:
                cost = self.price * (cost + way.total_milli / WHOLE)
            if way.locations:
                cost = np.where(self.fleet.allowed(way.locations), cost, np.inf)
            if self.fleet.power_bounded and way.power_w:
                cost = np.where(self.fleet.powered(way), cost, np.inf)
            if best is None:
                best = cost
            else:
                which = np.where(cost < best, number, which)
                best = np.minimum(best, cost)
        assert best is not None
        return best if wake_s is None else best + WAKE_PER_S * np.asarray(wake_s, dtype=np.float64), which

    def choose(self, request: Request, wake_s: Sequence[float] | Numbers | None = None) -> Place | NoPlace:
        """The place of least cost; of equals the first node. `wake_s` by node: seconds until it could answer there."""
        return self.choose_way((request,), wake_s)

    def choose_way(
        self, ways: Sequence[Request], wake_s: Sequence[float] | Numbers | None = None, apart: Sequence[int] = ()
    ) -> Place | NoPlace:
        """As `choose`, for what can run in more than one way (such as on other models of device); tells which.

        `apart`: nodes that have a copy of it already; they are taken where no other is nearly as good.
        """
        total, which = self._valued(ways, wake_s)
        if apart:
            total = total.copy()
            total[list(apart)] += APART
        node = int(total.argmin()) if len(total) else -1
        if node < 0 or not np.isfinite(total[node]):
            return NoPlace(self.fleet.missing(ways[0]))
        return self._place(node, total, which, ways, wake_s)

    def _place(
        self,
        node: int,
        total: Numbers,
        which: Integers,
        ways: Sequence[Request],
        wake_s: Sequence[float] | Numbers | None,
    ) -> Place:
        way = int(which[node])
        device = int(self._views[self._anywhere[ways[way]]].device[node])
        waking = "" if wake_s is None else f", answers there in {wake_s[node]:.3g} s"
        reason = f"{self.fleet.shapes[node].name} loses the least: {total[node]:+.3f} of a device{waking}"
        return Place(node, device, float(total[node]), reason, way)

    def take_many(self, ways: Sequence[Request], count: int) -> list[tuple[Place, tuple[int, ...]]]:
        """Places for so many copies at once, taken, with the devices of each; fewer where no more fit.

        In rounds: the cheapest nodes get one copy each, then those are looked at anew.
        """
        found: list[tuple[Place, tuple[int, ...]]] = []
        while len(found) < count:
            total, which = self._valued(ways, None)
            able = np.flatnonzero(np.isfinite(total))
            left = count - len(found)
            goes = min(left, len(able), max(ROUND_MIN, left // ROUND_PART))
            dearest_w = max(way.power_w for way in ways)
            if self.fleet.power_bounded and dearest_w:
                left_w = self.fleet.location_power_free_w
                # What one takes of a location's power, the next lacks: no more than the tightest one with any left holds.
                goes = min(goes, int(left_w[left_w >= dearest_w].min(initial=dearest_w * goes + 1) // dearest_w))
            if goes == 0:
                break
            nearest = able[np.argpartition(total[able], goes - 1)[:goes]] if goes < len(able) else able
            nearest = nearest[np.lexsort((nearest, total[nearest]))]
            for way in range(len(ways)):
                nodes = nearest[which[nearest] == way]
                if len(nodes):
                    places = [self._place(node, total, which, ways, None) for node in nodes.tolist()]
                    device = self._views[self._anywhere[ways[way]]].device[nodes]
                    found.extend(zip(places, self.fleet.take_each(nodes, ways[way], device), strict=True))
        return found
