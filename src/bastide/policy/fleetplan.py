"""From what services want and what a fleet has to what to do about it. Pure, level-triggered, incremental.

Owns the planner's picture of the fleet: copies, the capacity they hold, and which services have to be looked at again. Only
those are planned; a full plan looks at all. What a plan starts is taken from the picture at once, so that the next plan
doesn't give it away twice; what is refused or fails is told (`gone`) and given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from bastide.policy.fleet import Fleet, Request
from bastide.policy.fleetstate import Copy, FleetPlan, Rest, Start, Stop, Unplaced, Wanted
from bastide.policy.placement import NoPlace, Numbers, Placer, Score

# From so many copies of one kind on they are placed together.
TOGETHER_MIN = 4
# Of so many kinds it is kept that they find no place until a node changes.
FULL_MAX = 1024

_Key = TypeVar("_Key", str, int)
Ladder = Callable[[str, tuple[Request, ...]], "Numbers | None"]
Busy = Callable[[str], bool]


class Planner:
    """Plans for one fleet. `score` looks at what nodes have left and nothing else; `price` by node, see Placer. `ladder` answers, by node, in how many seconds a service could
    answer there (None: the same everywhere); `busy`: whether an instance has requests."""

    def __init__(self, fleet: Fleet, score: Score, price: Numbers | None = None) -> None:
        self.fleet = fleet
        self.placer = Placer(fleet, score, price, alike=True)
        self.copies: dict[str, Copy] = {}
        self.wanted: dict[str, Wanted] = {}
        self._by_service: dict[str, dict[str, Copy]] = {}
        self._by_node: dict[int, dict[str, Copy]] = {}
        self._changed: dict[str, None] = {}
        self._unplaced: dict[str, None] = {}
        self._serials: dict[str, int] = {}
        self._full: dict[tuple[Request, ...], int] = {}

    # --- what is known -----------------------------------------------------------------------------------------------

    def want(self, wanted: Wanted) -> None:
        """What a service wants from now on."""
        if self.wanted.get(wanted.service) != wanted:
            self.wanted[wanted.service] = wanted
            self._changed[wanted.service] = None

    def forget(self, service: str) -> None:
        """Nobody declares it any more: what is left of it is a stray."""
        if self.wanted.pop(service, None) is not None or service in self._by_service:
            self._changed[service] = None

    def came(self, copy: Copy) -> bool:
        """A copy is there that the picture lacks. False where what it holds doesn't fit the picture: it is not taken in."""
        if copy.instance in self.copies:
            return True
        if not self._take(copy):
            return False
        serial = copy.instance.rpartition(".")[2]
        if serial.isdigit():
            self._serials[copy.service] = max(self._serials.get(copy.service, 0), int(serial) + 1)
        self._changed[copy.service] = None
        return True

    def gone(self, instance: str) -> None:
        """It ended, or never began."""
        copy = self.copies.get(instance)
        if copy is not None:
            self._give_back(copy)
            self._changed[copy.service] = None
            self._room_came()

    def rested(self, instance: str, holds: Request) -> None:
        """It sleeps now and holds only that; no devices."""
        copy = self.copies.get(instance)
        if copy is not None:
            self._give_back(copy)
            self._take(replace(copy, request=holds, devices=(), resting=True))
            self._room_came()

    def node_lost(self, node: int) -> tuple[Copy, ...]:
        """Nothing is given to it any more, and what it had is gone. Returns that."""
        lost = tuple(self._by_node.get(node, {}).values())
        self.fleet.set_open(node, False)
        for copy in lost:
            self._give_back(copy)
            self._changed[copy.service] = None
        return lost

    def node_back(self, node: int) -> None:
        self.fleet.set_open(node, True)
        self._room_came()

    def again(self, service: str) -> None:
        """Look at this service in the next plan, whatever changed."""
        self._changed[service] = None

    def waits(self) -> bool:
        """Whether somebody found no place and waits for room."""
        return bool(self._unplaced)

    def of(self, service: str) -> Mapping[str, Copy]:
        """Its copies, resting ones included, by instance."""
        return self._by_service.get(service, {})

    def on(self, node: int) -> Mapping[str, Copy]:
        return self._by_node.get(node, {})

    # --- deciding ----------------------------------------------------------------------------------------------------

    def plan(self, ladder: Ladder | None = None, busy: Busy | None = None) -> FleetPlan:
        """What is due for the services that changed."""
        changed = sorted(self._changed)
        self._changed.clear()
        return self._plan(changed, ladder, busy)

    def plan_all(self, ladder: Ladder | None = None, busy: Busy | None = None) -> FleetPlan:
        """What is due for every service there is or was."""
        self._changed.clear()
        return self._plan(sorted(self.wanted.keys() | self._by_service.keys()), ladder, busy)

    def _plan(self, services: Iterable[str], ladder: Ladder | None, busy: Busy | None) -> FleetPlan:
        starts: list[Start] = []
        rests: list[Rest] = []
        stops: list[Stop] = []
        unplaced: list[Unplaced] = []
        together: dict[tuple[Request, ...], list[str]] = {}
        for service in services:
            wanted = self.wanted.get(service)
            copies = self._by_service.get(service, {})
            if wanted is None or wanted.removed:
                why = "nobody declares this service any more" if wanted is None else "the service was removed"
                stops.extend(Stop(name, service, why, wanted is not None) for name in copies)
                continue
            awake = [copy for copy in copies.values() if not copy.resting]
            missing = wanted.copies - len(awake)
            if missing > 0:
                together.setdefault(wanted.ways, []).extend([service] * missing)
            elif missing < 0:
                idle = [copy for copy in awake if busy is None or not busy(copy.instance)]
                why = f"{wanted.copies} wanted, {len(awake)} awake"
                # The youngest go; who is busy stays until it is not.
                rests.extend(Rest(copy.instance, service, why) for copy in idle[missing:])
        # The largest first: what is small still fits beside it, the other way round often not.
        for ways in sorted(together, key=_size, reverse=True):
            self._start(ways, together[ways], ladder, starts, unplaced)
        for one in unplaced:
            self._unplaced[one.service] = None
        return FleetPlan(tuple(starts), tuple(rests), tuple(stops), tuple(unplaced))

    def _start(
        self,
        ways: tuple[Request, ...],
        services: list[str],
        ladder: Ladder | None,
        starts: list[Start],
        unplaced: list[Unplaced],
    ) -> None:
        alone = len(set(services)) == len(services) and not any(name in self._by_service for name in services)
        if ladder is None and len(services) >= TOGETHER_MIN and alone:
            found = self.placer.take_many(ways, len(services))
            for service, (place, devices) in zip(services, found, strict=False):
                copy = Copy(self._name(service), service, place.node, devices, ways[place.way])
                self._hold(copy)
                starts.append(Start(copy, place.reason))
            left = services[len(found) :]
        else:
            left = []
            for service in services:
                if not self._start_one(service, ways, ladder, starts):
                    left.append(service)
        if left:
            reason = self.fleet.missing(ways[0])
            if not reason.endswith(" 0") and ", 0 " not in reason:
                reason += ", and those with room have a copy on that device"
            unplaced.extend(Unplaced(service, left.count(service), reason) for service in dict.fromkeys(left))

    def _start_one(self, service: str, ways: tuple[Request, ...], ladder: Ladder | None, starts: list[Start]) -> bool:
        if self._full.get(ways) == self.fleet.mark:
            return False  # it found no place, and no node has changed since
        wake_s = ladder(service, ways) if ladder is not None else None
        awake = [copy for copy in self._by_service.get(service, {}).values() if not copy.resting]
        place = self.placer.choose_way(ways, wake_s, [copy.node for copy in awake])
        if isinstance(place, NoPlace):
            if len(self._full) >= FULL_MAX:
                self._full.clear()
            self._full[ways] = self.fleet.mark
            return False
        request, device = ways[place.way], place.device
        if request.shares:
            # Two copies on one device compute no more than one does.
            taken = {copy.devices[0] for copy in awake if copy.node == place.node and copy.devices}
            if device in taken:
                free = self.fleet.free_milli[place.node]
                able = [n for n in range(len(free)) if n not in taken and free[n] >= request.device_milli]
                if not able:
                    return False
                device = min(able, key=lambda n: (free[n], n))
        asleep = next((copy for copy in self._resting(service) if copy.node == place.node), None)
        if asleep is not None:
            self._give_back(asleep)
        devices = self.fleet.take(place.node, request, device)
        copy = Copy(self._name(service) if asleep is None else asleep.instance, service, place.node, devices, request)
        self._hold(copy)
        starts.append(Start(copy, place.reason, asleep is not None))
        return True

    def _resting(self, service: str) -> list[Copy]:
        return [copy for copy in self._by_service.get(service, {}).values() if copy.resting]

    def _name(self, service: str) -> str:
        serial = self._serials.get(service, 0)
        self._serials[service] = serial + 1
        return f"{service}.{serial}"

    # --- the picture -------------------------------------------------------------------------------------------------

    def _room_came(self) -> None:
        """Whoever found no place may find one now."""
        if self._unplaced:
            self._changed.update(self._unplaced)
            self._unplaced.clear()

    def _take(self, copy: Copy) -> bool:
        """Its capacity, on the very devices it has."""
        fleet, request = self.fleet, copy.request
        node = copy.node
        whole = not request.shares and request.devices > 0
        if (
            len(copy.devices) != request.devices
            or (copy.devices and bool((fleet.free_milli[node, list(copy.devices)] < request.device_milli).any()))
            or (whole and len(set(copy.devices)) != request.devices)
            or fleet.cpu_free_milli[node] < request.cpu_milli
            or fleet.memory_free_mib[node] < request.memory_mib
        ):
            return False
        fleet.take_on(node, request, copy.devices)
        self._hold(copy)
        return True

    def _hold(self, copy: Copy) -> None:
        self.copies[copy.instance] = copy
        self._by_service.setdefault(copy.service, {})[copy.instance] = copy
        self._by_node.setdefault(copy.node, {})[copy.instance] = copy

    def _give_back(self, copy: Copy) -> None:
        self.fleet.give_back(copy.node, copy.request, copy.devices)
        del self.copies[copy.instance]
        _drop(self._by_service, copy.service, copy.instance)
        _drop(self._by_node, copy.node, copy.instance)


def _drop(index: dict[_Key, dict[str, Copy]], key: _Key, instance: str) -> None:
    del index[key][instance]
    if not index[key]:
        del index[key]


def _size(ways: tuple[Request, ...]) -> tuple[int, int, int]:
    """Whole devices before shares, many before few; of equals the one with more cores."""
    return ways[0].total_milli, ways[0].cpu_milli, ways[0].memory_mib
