"""A second look at a fleet's plan, from first principles. Pure, and written without the planner: it must not share its
mistakes, so it keeps its own books of who holds what and adds up anew.

Refused are: what doesn't fit the node or its devices; a device that two would have whole; an instance that is there twice; a
place outside the service's borders or on a node that is closed; more copies than a service may have; and ending many that nobody asked to end, all at once or by
and by within a minute.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bastide.policy.fleet import WHOLE, NodeShape
from bastide.policy.fleetstate import Copy, FleetPlan, Start, Stop

MASS_COUNT_MIN = 5
MASS_SHARE = 0.25
MASS_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Refused:
    """An action that must not be applied, and why."""

    action: Start | Stop
    reason: str


class Books:
    """What is held where, by what was ordered and reported; apart from the planner's picture."""

    def __init__(self) -> None:
        self.at: dict[str, Copy] = {}
        self.on: dict[int, dict[str, Copy]] = {}
        self.awake: Counter[str] = Counter()  # copies by service, those that rest left out
        self._ended: deque[tuple[float, int]] = deque()  # when, how many that nobody asked for

    def holds(self, copy: Copy) -> None:
        """It holds that from now on, whatever it held before."""
        self.ended(copy.instance)
        self.at[copy.instance] = copy
        self.on.setdefault(copy.node, {})[copy.instance] = copy
        self.awake[copy.service] += not copy.resting

    def ended(self, instance: str) -> None:
        copy = self.at.pop(instance, None)
        if copy is not None:
            del self.on[copy.node][instance]
            self.awake[copy.service] -= not copy.resting

    def stopped_unasked(self, now_s: float, count: int) -> None:
        self._ended.append((now_s, count))

    def unasked_since(self, now_s: float) -> int:
        while self._ended and self._ended[0][0] < now_s - MASS_WINDOW_S:
            self._ended.popleft()
        return sum(count for _, count in self._ended)


def check(
    plan: FleetPlan,
    shapes: Sequence[NodeShape],
    books: Books,
    borders: Callable[[str], frozenset[str]],
    is_open: Callable[[int], bool],
    now_s: float,
    confirmed: bool = False,
    location_power_w: Mapping[str, int] | None = None,
    most: Callable[[str], int] | None = None,
) -> tuple[Refused, ...]:
    """Every action that is refused; the rest may be applied. `borders`: locations a service may be in (empty: any);
    `location_power_w`: watts that a location may draw. `most`: copies that a service may have awake."""
    refused: list[Refused] = []
    unasked = [stop for stop in plan.stops if not stop.asked]
    lately = books.unasked_since(now_s)
    there = max(1, len(books.at) + lately)
    many = len(unasked) + lately
    if unasked and many >= MASS_COUNT_MIN and many > MASS_SHARE * there and not confirmed:
        reason = (
            f"{many} of {there} instances would end within a minute and nobody asked for it by name; "
            "if that is right, say so with `bastide confirm`"
        )
        refused.extend(Refused(stop, reason) for stop in unasked)
    accepted: dict[int, list[Copy]] = {}
    seen: set[str] = set()
    drawn: dict[str, int] = {}
    more: Counter[str] = Counter()
    for start in plan.starts:
        copy = start.copy
        why = _why_not(start, shapes, books, borders, is_open, seen, accepted.setdefault(copy.node, []))
        service = start.copy.service
        if why is None and most is not None and books.awake[service] + more[service] >= most(service):
            why = f"{service} has {books.awake[service] + more[service]} copies by the books, and may have {most(service)}"
        why = why or _overdrawn(start, shapes, books, location_power_w or {}, drawn)
        if why is None:
            more[service] += 1
            seen.add(copy.instance)
            accepted[copy.node].append(copy)
        else:
            refused.append(Refused(start, why))
    return tuple(refused)


def _why_not(
    start: Start,
    shapes: Sequence[NodeShape],
    books: Books,
    borders: Callable[[str], frozenset[str]],
    is_open: Callable[[int], bool],
    seen: set[str],
    accepted: Sequence[Copy],
) -> str | None:
    copy, request = start.copy, start.copy.request
    there = books.at.get(copy.instance)
    if copy.instance in seen or (there is not None and not (start.wakes and there.resting)):
        return f"{copy.instance} would be there twice"
    if not 0 <= copy.node < len(shapes) or not is_open(copy.node):
        return f"node {copy.node} is not there or takes nothing now"
    shape = shapes[copy.node]
    allowed = borders(copy.service)
    if allowed and shape.location not in allowed:
        return f"{copy.service} may not be in {shape.location}, only in {', '.join(sorted(allowed))}"
    if request.models and request.devices and shape.model not in request.models:
        return f"{shape.name} has {shape.model}, and {copy.service} needs {' or '.join(sorted(request.models))}"
    if len(copy.devices) != request.devices or len(set(copy.devices)) != len(copy.devices):
        return f"{copy.instance} asks for {request.devices} devices and is given {copy.devices}"
    if any(not 0 <= device < shape.devices for device in copy.devices):
        return f"{shape.name} has no device {max(copy.devices)}"
    company = [one for one in books.on.get(copy.node, {}).values() if one.instance != copy.instance]
    company += accepted
    cpu = request.cpu_milli + sum(one.request.cpu_milli for one in company)
    memory = request.memory_mib + sum(one.request.memory_mib for one in company)
    if cpu > shape.cpu_milli or memory > shape.memory_mib:
        return f"{shape.name} would need {cpu} of {shape.cpu_milli} thousandths of a core, {memory} of {shape.memory_mib} MiB"
    power = request.power_w + sum(one.request.power_w for one in company)
    if shape.power_w is not None and power > shape.power_w:
        return f"{shape.name} would draw {power} W of {shape.power_w}"
    for device in copy.devices:
        used = request.device_milli + sum(one.request.device_milli for one in company if device in one.devices)
        if used > WHOLE:
            return f"device {device} of {shape.name} would be given out {used / WHOLE:g} times"
    return None


def _overdrawn(
    start: Start, shapes: Sequence[NodeShape], books: Books, bounds: Mapping[str, int], drawn: dict[str, int]
) -> str | None:
    """Whether its location would draw more than it may. `drawn`: what is known of it by now, with what was accepted."""
    location = shapes[start.copy.node].location
    if location not in bounds:
        return None
    if location not in drawn:
        there = (copy for copy in books.at.values() if shapes[copy.node].location == location)
        drawn[location] = sum(copy.request.power_w for copy in there)
    known = books.at.get(start.copy.instance)
    more_w = start.copy.request.power_w - (known.request.power_w if known is not None else 0)
    if drawn[location] + more_w > bounds[location]:
        return f"{location} would draw {drawn[location] + more_w} W of {bounds[location]}"
    drawn[location] += more_w
    return None
