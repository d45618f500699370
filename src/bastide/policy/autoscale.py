"""How many copies of a service should be awake. Pure: several signals ask, the largest wins, up at once, down slowly.

The signals: requests in flight and queued; tokens a second; memory for context; first tokens that come late while requests
wait; and what the forecast expects by the time a copy started now would be ready. A steady load of R requests asks for room
for R + sqrt(R) / 2 of them: chance alone makes it that much more from time to time (square-root staffing). Down it goes only
to the most that was needed within a window, and by half at most, so that a pause is not taken for the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# What was needed within this time is kept.
DOWN_WINDOW_S = 300.0
# Going down, at least this part stays, and the next step waits this long.
DOWN_PART = 0.5
DOWN_EVERY_S = 60.0
# The mean in flight is taken over about this long.
MEAN_S = 60.0
STAFFING = 0.5
# First tokens that come late ask for more where this part of the slots is taken.
CROWDED = 0.25
CROWDED_MAX = 2.0  # or so many for each copy, however many it would take


@dataclass(frozen=True, slots=True)
class Load:
    """What a service has to do now. `tokens_per_s`, `requests_per_s` and `cpu_cores` of all copies; `kv_share`: part of the memory for context in use, mean
    over copies; `first_token_s`: of late ones of the last minute; `expected`: in flight, by the forecast; `warm`: it is
    worth keeping one awake though nobody asks (see keepalive)."""

    in_flight: float
    queued: float
    awake: int
    starting: int = 0
    tokens_per_s: float = 0.0
    kv_share: float = 0.0
    first_token_s: float = 0.0
    expected: float = 0.0
    warm: bool = False
    requests_per_s: float = 0.0
    cpu_cores: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """What one copy should carry, and how many there may be. 0: that signal is not looked at."""

    in_flight: float
    least: int = 0
    most: int = 1
    tokens_per_s: float = 0.0
    kv_share: float = 0.85
    first_token_s: float = 0.0
    requests_per_s: float = 0.0
    cpu_cores: float = 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered between two looks: needs of the last window (falling), the mean in flight, the last step down."""

    peaks: tuple[tuple[float, int], ...] = ()
    mean: float = 0.0
    seen_s: float | None = None
    stepped_down_s: float = -math.inf


@dataclass(frozen=True, slots=True)
class Scale:
    """So many copies, and why."""

    copies: int
    reason: str


def needed(load: Load, target: Target, mean: float) -> Scale:
    """How many copies hold the target now. The largest of what the signals ask for; of equals the first."""
    slots = max(target.in_flight, 1e-9)
    asks = [(_up((load.in_flight + load.queued) / slots), "in flight and queued")]
    if mean > slots:  # one copy has the room that chance asks for, or there is nothing to share it with
        asks.append((_up((mean + STAFFING * math.sqrt(mean)) / slots), "a steady load"))
    if target.tokens_per_s and (load.in_flight or load.queued):  # a rate fades away, it never becomes nought
        asks.append((_up(load.tokens_per_s / target.tokens_per_s), "tokens a second"))
    if target.requests_per_s:
        asks.append((_up(load.requests_per_s / target.requests_per_s), "requests a second"))
    if target.cpu_cores:
        asks.append((_up(load.cpu_cores / target.cpu_cores), "processor use"))
    if target.kv_share and load.awake:
        asks.append((_up(load.awake * load.kv_share / target.kv_share), "memory for context"))
    late = target.first_token_s and load.first_token_s > target.first_token_s
    # Late for want of copies, not because one prompt is long: others wait, or share what there is.
    crowded = load.queued > 0 or load.in_flight > min(CROWDED * slots, CROWDED_MAX) * load.awake
    if late and crowded and not load.starting:
        asks.append((load.awake + max(1, load.awake // 2), "first tokens come late"))
    asks.append((_up(load.expected / slots), "what is expected"))
    if load.warm:
        asks.append((1, "its next request may come any minute"))
    asks.append((target.least, "the least there must be"))
    copies, why = max(asks, key=lambda ask: ask[0])
    if copies > target.most:
        return Scale(target.most, f"{why} asks for {copies}, and {target.most} is the most")
    return Scale(copies, why if copies else "nobody asks")


def scale(load: Load, target: Target, memory: Memory, now_s: float) -> tuple[Scale, Memory]:
    """How many copies from now on, and what to remember. `now_s` may jump back: then the window starts anew."""
    seen_s = memory.seen_s
    if seen_s is None or now_s < seen_s:
        memory, seen_s = Memory(mean=load.in_flight), now_s
    part = 1.0 - math.exp(-(now_s - seen_s) / MEAN_S)
    mean = memory.mean + part * (load.in_flight - memory.mean)
    need = needed(load, target, mean)
    peaks = _peaks(memory.peaks, now_s, need.copies)
    now = load.awake + load.starting
    stepped_down_s = memory.stepped_down_s
    chosen = need
    if need.copies < now:
        kept = min(target.most, max(need.copies, *(copies for _, copies in peaks)))
        if kept <= 1:  # how long the last one stays is for keep-alive to say, and `warm` says it
            kept = need.copies
        # Down to one at once where one is enough: halves are for fleets, not for a pair.
        floor = max(kept, math.ceil(now * DOWN_PART) if now > 2 else kept)
        if now <= target.most and floor < now and now_s - stepped_down_s < DOWN_EVERY_S:
            floor = now
        if floor < now:
            stepped_down_s = now_s
        chosen = Scale(min(now, floor), need.reason if floor == need.copies else f"down slowly: {need.reason}")
        if chosen.copies > target.most:
            chosen = Scale(target.most, f"{target.most} is the most")
    return chosen, Memory(peaks, mean, now_s, stepped_down_s)


def _up(copies: float) -> int:
    return math.ceil(round(copies, 9))


def _peaks(peaks: tuple[tuple[float, int], ...], now_s: float, copies: int) -> tuple[tuple[float, int], ...]:
    """Needs that may still be the most of some window to come: falling, each with its last moment. So at most `most`."""
    kept = [(at_s, most) for at_s, most in peaks if at_s >= now_s - DOWN_WINDOW_S and most > copies]
    return (*kept, (now_s, copies))
