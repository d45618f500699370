"""What keeps a wrong decision from becoming a disaster. Pure: rates of change, mass changes, drains, crash loops.

Each guard answers one question about an action that somebody else decided on; none of them decides what would be good.
"""

from __future__ import annotations

from dataclasses import dataclass

from bastide.domain.units import format_duration
from bastide.policy.admission import Bucket, refilled, taken
from bastide.policy.backoff import CRASHES_MAX, STABLE_S, delay_s
from bastide.policy.check import MASS_COUNT_MIN, MASS_SHARE

# So many copies may start on one node at once: they share its disk and its link.
STARTS_PER_NODE = 8
# A node on which so many starts failed within a while is left alone for a while, which doubles each time.
NODE_FAILURES_MAX = 3
NODE_WINDOW_S = 300.0
NODE_ASIDE_S = 60.0
NODE_ASIDE_S_MAX = 3600.0
# A start that takes this many times what is expected of it, and at least so long, hangs.
HANGS_TIMES = 4.0
HANGS_S_MIN = 30.0


def starts_now(wanted: int, bucket: Bucket, per_minute: int, now_s: float) -> tuple[int, Bucket]:
    """How many of the starts that are wanted may go ahead, and the bucket after. The rest waits; nothing is lost.

    The bucket gains `per_minute`, so a herd of wakes is spread and a wake alone never waits.
    """
    bucket = refilled(bucket, per_minute, now_s)
    granted = max(0, min(wanted, int(bucket.level)))
    return granted, taken(bucket, granted)


def node_takes_start(starting: int, at_most: int = STARTS_PER_NODE) -> bool:
    """Whether a node that has `starting` copies on their way takes one more."""
    return starting < at_most


def mass_change(before: int, after: int, confirmed: bool = False) -> str | None:
    """Why a new desired state is not believed: it lacks too many of the services there were. None: it is believed."""
    lost = before - after
    if lost >= MASS_COUNT_MIN and lost > MASS_SHARE * before and not confirmed:
        return f"it lacks {lost} of {before} services at once; if that is right, say so with `bastide confirm`"
    return None


@dataclass(frozen=True, slots=True)
class Drain:
    """Whether a copy that shall go may end now, and why."""

    ends: bool
    reason: str


def drain(in_flight: float, waited_s: float) -> Drain:
    """A busy copy is never ended; it gets nothing new and ends with its last request."""
    if in_flight > 0:
        return Drain(False, f"finishes {in_flight:g} in flight first, for {format_duration(waited_s)} by now")
    return Drain(True, "nothing is in flight")


@dataclass(frozen=True, slots=True)
class Retry:
    """After a failure: how many there were in a row, and in how many seconds it is tried again (None: a person must)."""

    failures: int
    wait_s: float | None
    reason: str


def after_failure(failures: int, lived_s: float) -> Retry:
    """What follows when a copy died after `lived_s`, with `failures` in a row before; long life is forgiven those."""
    failures = 1 if lived_s >= STABLE_S else failures + 1
    if failures >= CRASHES_MAX:
        return Retry(failures, None, f"failed {failures} times in a row; left until somebody changes something")
    wait_s = delay_s(failures)
    return Retry(failures, wait_s, f"failure {failures} in a row; again in {format_duration(wait_s)}")


def hangs_at_s(expected_s: float) -> float:
    """After how long a start that should take `expected_s` is given up and made elsewhere."""
    return max(HANGS_S_MIN, HANGS_TIMES * expected_s)


def hangs(started_for_s: float, expected_s: float) -> bool:
    """Whether a start takes so long that it is given up."""
    return started_for_s > hangs_at_s(expected_s)


@dataclass(frozen=True, slots=True)
class Health:
    """Of a node: when starts failed there lately, how often it was set aside, until when it is."""

    failed_s: tuple[float, ...] = ()
    times: int = 0
    aside_until_s: float = 0.0


def start_failed(health: Health, now_s: float) -> Health:
    """After a start failed on a node, whosever: too many set it aside, so that the next goes elsewhere."""
    failed = (*(at_s for at_s in health.failed_s if now_s - NODE_WINDOW_S <= at_s <= now_s), now_s)
    if len(failed) < NODE_FAILURES_MAX:
        return Health(failed, health.times, health.aside_until_s)
    aside_s = min(NODE_ASIDE_S_MAX, NODE_ASIDE_S * 2**health.times)
    return Health((), min(health.times + 1, 16), now_s + aside_s)


def start_succeeded(health: Health) -> Health:
    """A start went well there: what was before is forgiven."""
    return Health((), 0, health.aside_until_s)
