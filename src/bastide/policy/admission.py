"""Whether a key may make one more request now. Owns the token bucket and each worker's share of a limit.

Pure: levels and times go in, levels and waits come out. It never keeps state and never reads a clock.
"""

from __future__ import annotations

from typing import NamedTuple


def share(limit: int, rank: int, count: int) -> int:
    """Worker `rank`'s part of a limit split among `count` workers; the parts sum to the limit exactly."""
    return limit // count + (1 if rank < limit % count else 0)


class Bucket(NamedTuple):
    """A bucket as it stood at `at_s`. A level below nought is a debt that time pays off."""

    level: float
    at_s: float


def refilled(bucket: Bucket, per_minute: int, now_s: float) -> Bucket:
    """The bucket at `now_s`: it gains `per_minute` each 60 s and holds at most that many. Time never runs backwards."""
    level, at_s = bucket
    if now_s > at_s:
        level += (now_s - at_s) * per_minute / 60.0
        at_s = now_s
    return Bucket(level if level < per_minute else float(per_minute), at_s)


def wait_s(bucket: Bucket, per_minute: int) -> float:
    """Seconds until one may be taken from this bucket; 0 where it may be now; infinite where it never may."""
    if bucket.level >= 1.0:
        return 0.0
    if per_minute <= 0:
        return float("inf")
    return (1.0 - bucket.level) * 60.0 / per_minute


def taken(bucket: Bucket, amount: float) -> Bucket:
    """The bucket less `amount`. The level may go below nought: a cost known only afterwards is paid off before the next."""
    return Bucket(bucket.level - amount, bucket.at_s)


def retry_after_s(seconds: float) -> float:
    """A wait as it is told to a client: whole seconds, at least one, at most an hour."""
    return float(min(3600, max(1, int(seconds) + (seconds > int(seconds))))) if seconds != float("inf") else 3600.0


def token_estimate(body_bytes: int, choices: int, output_tokens_max: int | None) -> int:
    """A first guess of the tokens a request will use, taken at once and corrected when it is settled.

    Four bytes make about one token; an answer without a bound is guessed at 256 tokens.
    """
    return body_bytes // 4 + choices * (256 if output_tokens_max is None else output_tokens_max)
