"""When a sandbox ends, when it rests, and how many spare ones are kept warm. Pure: `now_s` comes as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LIGHT_AFTER_S = 20.0
PAUSE_AFTER_S = 600.0
POOL_COOLS_AFTER_S = 900.0


class Step(StrEnum):
    NOTHING = "nothing"
    END = "end"
    REST_LIGHT = "rest lightly"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Idle:
    """What is known of one sandbox: in use now (a call under way), when last used, what its tier can do here."""

    running: bool
    light: bool
    in_use: int
    last_used_s: float
    expires_s: float
    can_light: bool
    can_pause: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """`look_again_s`: when to ask again, seconds since the epoch."""

    step: Step
    reason: str
    look_again_s: float


def next_step(idle: Idle, now_s: float) -> Verdict:
    """What is due for a sandbox. A busy one is never touched, but its lifetime is a promise to whoever pays for it."""
    if now_s >= idle.expires_s:
        return Verdict(Step.END, "its lifetime is over", now_s)
    if idle.in_use or not (idle.running or idle.light):
        return Verdict(Step.NOTHING, "in use" if idle.in_use else "at rest", idle.expires_s)
    idle_s = now_s - idle.last_used_s
    if idle.can_pause and idle_s >= PAUSE_AFTER_S:
        return Verdict(Step.PAUSE, f"idle for {idle_s:.0f} s", idle.expires_s)
    if idle.running and idle.can_light and idle_s >= LIGHT_AFTER_S:
        return Verdict(Step.REST_LIGHT, f"idle for {idle_s:.0f} s", now_s)
    due_s = idle.expires_s
    if idle.can_pause:
        due_s = min(due_s, idle.last_used_s + PAUSE_AFTER_S)
    if idle.running and idle.can_light:
        due_s = min(due_s, idle.last_used_s + LIGHT_AFTER_S)
    return Verdict(Step.NOTHING, f"idle for {idle_s:.0f} s", due_s)


def spares_wanted(spares_max: int, last_create_s: float | None, now_s: float) -> int:
    """How many warm spares to keep: all while sandboxes are being made, none once nobody has for a while."""
    if last_create_s is None or now_s - last_create_s > POOL_COOLS_AFTER_S:
        return 0
    return spares_max
