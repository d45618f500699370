"""The nouns of a fleet's plan: what is wanted, what is there, what to do. Pure; shared by the planner and its check, which
share nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from bastide.policy.fleet import Request


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many copies of a service awake, each run in any one of these ways. `ways` differ by model of device.

    `removed`: somebody removed the service by name.
    """

    service: str
    copies: int
    ways: tuple[Request, ...]
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """An instance on a node, with what it holds there. `resting`: it sleeps, and `request` is what it holds asleep."""

    instance: str
    service: str
    node: int
    devices: tuple[int, ...]
    request: Request
    resting: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Start a copy, or wake the one that rests there (`wakes`): then the instance is that one."""

    copy: Copy
    reason: str
    wakes: bool = False


@dataclass(frozen=True, slots=True)
class Rest:
    """A copy more than is wanted steps down; it is idle, and can wake again."""

    instance: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """A copy ends. `asked`: because somebody asked for it by name."""

    instance: str
    service: str
    reason: str
    asked: bool


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Copies that have no place now, and why."""

    service: str
    copies: int
    reason: str


@dataclass(frozen=True, slots=True)
class FleetPlan:
    starts: tuple[Start, ...] = ()
    rests: tuple[Rest, ...] = ()
    stops: tuple[Stop, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
