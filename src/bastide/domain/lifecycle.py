"""How awake an instance is, and how it may change. Owns the rungs, the phases and the one transition table.

The diagram in docs/ is made from `TRANSITIONS`; nothing else may decide what follows what.
"""

from __future__ import annotations

from enum import StrEnum


class Rung(StrEnum):
    """How awake an instance is, warmest first."""

    AWAKE = "awake"
    FROZEN = "frozen"  # process tree stopped, memory kept
    LIGHT = "light"  # frozen and paged out
    DEEP = "deep"  # process gone, its state kept: prompt-cache slots, weights in the page cache
    OFF = "off"  # nothing kept but the record

    @property
    def depth(self) -> int:
        """0 for awake to 4 for off."""
        return _DEPTH[self]

    @property
    def has_process(self) -> bool:
        return _DEPTH[self] <= 2


_DEPTH = {rung: depth for depth, rung in enumerate(Rung)}


class Phase(StrEnum):
    """What an instance is doing now. The five rungs at rest, and the moves between them."""

    OFF = "off"
    STARTING = "starting"
    AWAKE = "awake"
    SINKING = "sinking"  # stepping down; no request may reach it
    FROZEN = "frozen"
    LIGHT = "light"
    DEEP = "deep"
    WAKING = "waking"
    STOPPING = "stopping"
    FAILED = "failed"  # waits for its back-off to end, or for a person

    @property
    def rung(self) -> Rung | None:
        """The rung an instance rests on in this phase; None while it moves or has failed."""
        return _RESTING.get(self)


_RESTING = {
    Phase.OFF: Rung.OFF,
    Phase.AWAKE: Rung.AWAKE,
    Phase.FROZEN: Rung.FROZEN,
    Phase.LIGHT: Rung.LIGHT,
    Phase.DEEP: Rung.DEEP,
}


class Happening(StrEnum):
    """What may happen to an instance."""

    START = "start"
    READY = "ready"
    SINK = "sink"  # the agent begins a step down
    RESTED_FROZEN = "rested frozen"
    RESTED_LIGHT = "rested light"
    RESTED_DEEP = "rested deep"
    RESTED_OFF = "rested off"
    WAKE = "wake"
    STOP = "stop"
    DIED = "died"
    BACKOFF_OVER = "back-off over"


TRANSITIONS: dict[tuple[Phase, Happening], Phase] = {
    (Phase.OFF, Happening.START): Phase.STARTING,
    (Phase.DEEP, Happening.START): Phase.STARTING,
    (Phase.STARTING, Happening.READY): Phase.AWAKE,
    (Phase.STARTING, Happening.DIED): Phase.FAILED,
    (Phase.STARTING, Happening.STOP): Phase.STOPPING,
    (Phase.AWAKE, Happening.SINK): Phase.SINKING,
    (Phase.AWAKE, Happening.STOP): Phase.STOPPING,
    (Phase.AWAKE, Happening.DIED): Phase.FAILED,
    (Phase.SINKING, Happening.RESTED_FROZEN): Phase.FROZEN,
    (Phase.SINKING, Happening.RESTED_LIGHT): Phase.LIGHT,
    (Phase.SINKING, Happening.RESTED_DEEP): Phase.DEEP,
    (Phase.SINKING, Happening.RESTED_OFF): Phase.OFF,
    (Phase.SINKING, Happening.READY): Phase.AWAKE,  # the step failed and was undone
    (Phase.SINKING, Happening.DIED): Phase.FAILED,
    (Phase.FROZEN, Happening.WAKE): Phase.WAKING,
    (Phase.FROZEN, Happening.SINK): Phase.SINKING,
    (Phase.FROZEN, Happening.STOP): Phase.STOPPING,
    (Phase.FROZEN, Happening.DIED): Phase.OFF,
    (Phase.LIGHT, Happening.WAKE): Phase.WAKING,
    (Phase.LIGHT, Happening.SINK): Phase.SINKING,
    (Phase.LIGHT, Happening.STOP): Phase.STOPPING,
    (Phase.LIGHT, Happening.DIED): Phase.OFF,
    (Phase.DEEP, Happening.SINK): Phase.SINKING,
    (Phase.DEEP, Happening.STOP): Phase.STOPPING,
    (Phase.WAKING, Happening.READY): Phase.AWAKE,
    (Phase.WAKING, Happening.DIED): Phase.FAILED,
    (Phase.WAKING, Happening.STOP): Phase.STOPPING,
    (Phase.STOPPING, Happening.RESTED_OFF): Phase.OFF,
    (Phase.STOPPING, Happening.DIED): Phase.OFF,
    (Phase.FAILED, Happening.BACKOFF_OVER): Phase.OFF,
    (Phase.FAILED, Happening.STOP): Phase.OFF,
}


class ImpossibleTransition(Exception):
    """A happening that the table does not allow in this phase: a fault in Bastide itself."""


def after(phase: Phase, happening: Happening) -> Phase:
    """The phase that follows. Raises ImpossibleTransition where the table has no row."""
    try:
        return TRANSITIONS[phase, happening]
    except KeyError:
        raise ImpossibleTransition(
            f"{happening.value!r} cannot happen to an instance that is {phase.value!r}"
        ) from None


class ServicePhase(StrEnum):
    """What a service is doing, as `ps` shows it."""

    PENDING = "pending"  # accepted, nothing started yet
    DEPLOYING = "deploying"  # a generation is being proven
    READY = "ready"  # at least one instance awake
    WAKING = "waking"  # none awake yet, one on its way
    ASLEEP = "asleep"  # proven; all instances sleep
    FAILED = "failed"  # no generation can serve; the reason says why
    REMOVING = "removing"


def service_phase(phases: tuple[Phase, ...]) -> ServicePhase:
    """The phase of a proven service from the phases of the instances of its serving generation."""
    if any(phase is Phase.AWAKE for phase in phases):
        return ServicePhase.READY
    if any(phase in (Phase.STARTING, Phase.WAKING) for phase in phases):
        return ServicePhase.WAKING
    if phases and all(phase is Phase.FAILED for phase in phases):
        return ServicePhase.FAILED
    return ServicePhase.ASLEEP
