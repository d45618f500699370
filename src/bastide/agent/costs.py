"""What each rung costs for each model and app on this machine: measured where it was, estimated where it was not yet."""

from __future__ import annotations

from bastide.domain.instances import RungFact
from bastide.domain.lifecycle import Rung
from bastide.policy.sleep import RungCost

# Newer measurements count for three tenths, so that one slow wake on a busy machine does not decide for long.
NEWEST_SHARE = 0.3
# What every wake costs beside what the agent itself can time: the gateway asks it, it asks the keeper. Seen at 1 to 3 ms.
LINE_S = 0.002
# How often a cost that can only be learned by trying is tried: one try on a busy machine may be twice the truth.
REHEARSALS = 3


class CostBook:
    """Facts by content (weights, a build) and rung. Owns the smoothing; takes no measurement itself."""

    def __init__(self) -> None:
        self._facts: dict[tuple[str, Rung], RungFact] = {}

    def know(self, fact: RungFact) -> None:
        """A fact measured earlier on this machine."""
        self._facts[fact.weights_sha256, Rung(fact.rung)] = fact

    def facts(self) -> tuple[RungFact, ...]:
        return tuple(self._facts.values())

    def awake_bytes(self, content: str) -> int | None:
        """What this was measured to hold awake, or None where it never was."""
        fact = self._facts.get((content, Rung.AWAKE))
        return fact.held_bytes if fact is not None and fact.held_bytes else None

    def knows_wake(self, content: str, rung: Rung) -> bool:
        """Whether resting this on `rung` and waking it was measured often enough on this machine."""
        fact = self._facts.get((content, rung))
        return fact is not None and fact.wake_s > 0 and fact.samples >= REHEARSALS

    def cost(self, content: str, awake_bytes: int, rung: Rung) -> RungCost:
        """Bytes held on `rung` and seconds to wake from it, for an instance that holds `awake_bytes` awake."""
        fact = self._facts.get((content, rung))
        guess = _guess(awake_bytes, rung)
        if fact is None:
            return guess
        held_bytes = awake_bytes if rung in (Rung.AWAKE, Rung.FROZEN) else fact.held_bytes
        if rung is Rung.AWAKE or fact.wake_s <= 0:
            return RungCost(held_bytes, guess.wake_s)
        return RungCost(held_bytes, fact.wake_s + LINE_S)

    def learn(
        self,
        content: str,
        rung: Rung,
        *,
        wake_s: float | None = None,
        sink_s: float | None = None,
        held_bytes: int | None = None,
    ) -> None:
        """Take in a measurement of one move."""
        if not content:
            return
        old = self._facts.get((content, rung)) or RungFact(content, rung.value, 0.0, 0.0, 0, 0)
        self._facts[content, rung] = RungFact(
            content,
            rung.value,
            _smooth(old.wake_s, wake_s),
            _smooth(old.sink_s, sink_s),
            old.held_bytes if held_bytes is None else held_bytes,
            old.samples + 1,
        )


def _guess(awake_bytes: int, rung: Rung) -> RungCost:
    # Rates seen on small machines: 1 GB/s in from zram, 3 GB/s to map and touch cached weights, 0.5 GB/s from disk.
    match rung:
        case Rung.AWAKE:
            return RungCost(awake_bytes, 0.0)
        case Rung.FROZEN:
            return RungCost(awake_bytes, 0.002)
        case Rung.LIGHT:
            return RungCost(awake_bytes // 8, 0.02 + awake_bytes / 1e9)
        case Rung.DEEP:
            return RungCost(0, 0.03 + awake_bytes / 3e9)
        case Rung.OFF:
            return RungCost(0, 0.03 + awake_bytes / 5e8)


def _smooth(old: float, new: float | None) -> float:
    if new is None:
        return old
    return new if old == 0.0 else (1 - NEWEST_SHARE) * old + NEWEST_SHARE * new
