"""When a sandbox ends, when it rests, and how many spare ones are kept warm. Pure: `now_s` comes as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

REST_AFTER_S = 20.0
WATCH_S = 5.0  # how long a sandbox that nobody calls is watched before it is stopped
WORKS_CORES = 0.1  # what uses less only waits: gVisor itself takes 0.03 for that
PAUSE_AFTER_S = 600.0
POOL_COOLS_AFTER_S = 900.0


class Step(StrEnum):
    NOTHING = "nothing"
    END = "end"
    WATCH = "watch"  # note what its processes have used so far, to see whether they work by themselves
    REST = "rest"  # stop it, and page it out where that can be
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Idle:
    """What is known of one sandbox: in use now (a call under way), when last used, what its tier can do here.

    `watched_s`: since when it is watched, None: it is not, or has been used since; `cores`: what it used of processors
    since then.
    """

    running: bool
    resting: bool
    in_use: int
    last_used_s: float
    expires_s: float
    can_pause: bool
    watched_s: float | None = None
    cores: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`look_again_s`: when to ask again, seconds since the epoch."""

    step: Step
    reason: str
    look_again_s: float


def next_step(idle: Idle, now_s: float) -> Verdict:
    """What is due for a sandbox. A busy one is never touched, but its lifetime is a promise to whoever pays for it.

    Busy is one that somebody calls, and one whose own processes work though nobody calls.
    """
    if now_s >= idle.expires_s:
        return Verdict(Step.END, "its lifetime is over", now_s)
    if idle.in_use or not (idle.running or idle.resting):
        return Verdict(Step.NOTHING, "in use" if idle.in_use else "at rest", idle.expires_s)
    idle_s = now_s - idle.last_used_s
    reason = f"idle for {idle_s:.0f} s"
    if idle.running:
        if idle_s < REST_AFTER_S - WATCH_S:
            return _later(reason, idle.last_used_s + REST_AFTER_S - WATCH_S, idle)
        if idle.watched_s is None:
            return Verdict(Step.WATCH, reason, min(idle.expires_s, now_s + WATCH_S))
        if now_s < idle.watched_s + WATCH_S:
            return _later(reason, idle.watched_s + WATCH_S, idle)
        if idle.cores >= WORKS_CORES:
            reason = f"nobody calls it, but its processes use {idle.cores:.2g} cores"
            return Verdict(Step.WATCH, reason, min(idle.expires_s, now_s + REST_AFTER_S))
    if idle.can_pause and idle_s >= PAUSE_AFTER_S:
        return Verdict(Step.PAUSE, reason, idle.expires_s)
    if idle.running:
        return Verdict(Step.REST, reason, now_s)
    return _later(reason, idle.last_used_s + PAUSE_AFTER_S if idle.can_pause else idle.expires_s, idle)


def _later(reason: str, due_s: float, idle: Idle) -> Verdict:
    return Verdict(Step.NOTHING, reason, min(idle.expires_s, due_s))


def spares_wanted(spares_max: int, last_create_s: float | None, now_s: float) -> int:
    """How many warm spares to keep: all while sandboxes are being made, none once nobody has for a while."""
    if last_create_s is None or now_s - last_create_s > POOL_COOLS_AFTER_S:
        return 0
    return spares_max
