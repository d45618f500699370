"""What control of several nodes needs from outside: time to come back at, the nodes' agents, and what is asked of services.

Calls answer at once, with what is known by then. What comes of a start or an end is reported later, or never: control looks at
inventories for what it was not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bastide.policy.autoscale import Load
from bastide.policy.fleet import NodeShape
from bastide.policy.fleetstate import Copy
from bastide.ports.clock import Clock


class Timer(Clock, Protocol):
    """A clock that calls back."""

    def at(self, when_s: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call it then, by `monotonic_s`; what lies in the past is called soon."""
        ...

    def soon(self, act: Callable[[], None]) -> bool:
        """Something changed: call it in a moment, for many changes at once. False where that was lost."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A start is on its way and should take so long. `heard` False: it was ordered, and nobody said whether it was done."""

    expected_s: float
    heard: bool = True


@dataclass(frozen=True, slots=True)
class NotBegun:
    """A start was refused."""

    reason: str


class Instance(Protocol):
    """A copy as its agent sees it at this moment, or saw it when it last told; asked for anew each time, never kept. Its name is that
    of its service, a dot and a number. `state`: starting, awake, sinking (going to rest), resting, or gone."""

    @property
    def copy(self) -> Copy: ...
    @property
    def state(self) -> str: ...
    @property
    def in_flight(self) -> float:
        """Requests it answers now, or their mean where they come in streams."""
        ...

    @property
    def draining(self) -> bool:
        """It ends once nothing is in flight."""
        ...

    @property
    def ready_s(self) -> float:
        """Since when it is awake, by `monotonic_s`."""
        ...

    @property
    def idle_since_s(self) -> float: ...
    @property
    def wake_s(self) -> float:
        """What it takes to wake it here once it rests, as measured."""
        ...


class Node(Protocol):
    """A node as its agent sees it: what is there, and what that takes of it."""

    @property
    def shape(self) -> NodeShape: ...
    @property
    def instances(self) -> Mapping[str, Instance]: ...
    @property
    def used_milli(self) -> Sequence[int]:
        """By device, in thousandths."""
        ...

    @property
    def memory_mib(self) -> int: ...


class Nodes(Protocol):
    """The agents of all nodes. A node is named by its place among the fleet's shapes."""

    def node(self, index: int) -> Node: ...
    def up(self, index: int) -> bool: ...
    def answers(self, index: int) -> bool:
        """Whether it is up and can be reached."""
        ...

    def find(self, service: str, instance: str) -> Instance | None: ...
    def idle(self) -> Iterable[Instance]:
        """Awake copies without work, who is idle longest first."""
        ...

    def asleep(self, index: int) -> Iterable[Instance]:
        """Those that rest in that node's memory, the one that sleeps longest first."""
        ...

    def holders(self, weights: str) -> Sequence[int]:
        """Nodes that have these weights on their disk."""
        ...

    def link_s(self, location: str) -> float:
        """For how long the link from the source to that location is taken."""
        ...

    def inventory(self, index: int) -> tuple[Mapping[str, Copy], float]:
        """What a node says it has, and when that was seen."""
        ...

    def start(self, copy: Copy) -> Begun | NotBegun:
        """Start it, or wake it where it rests. To ask twice changes nothing."""
        ...

    def rest(self, copy: Copy) -> bool:
        """Step down to the next rung that holds. False where it is busy, or not awake."""
        ...

    def stop(self, copy: Copy) -> None:
        """It ends, after what is in flight."""
        ...

    def end(self, copy: Copy) -> None:
        """It ends now; what is in flight moves."""
        ...


class Demand(Protocol):
    """What is asked of one service, as its gateways and agents report it."""

    def copies_there(self) -> int:
        """Awake, or on their way."""
        ...

    def awake_there(self) -> int: ...
    def busy(self) -> bool:
        """Whether requests are being answered."""
        ...

    def instances(self) -> Iterable[Instance]:
        """All there are, asleep or not."""
        ...

    def waits_since_s(self) -> float | None:
        """Since when the first request waits; None where none does."""
        ...

    def load(self, now_s: float) -> Load:
        """All of it, but what is expected. Asked at each look: what was late is forgotten by a part then."""
        ...

    def expected_per_s(self, now_s: float, idle_s: float) -> float:
        """Requests a second to expect of it, as learned, after so long without any."""
        ...
