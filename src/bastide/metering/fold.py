"""Folding: what gateways and agents wrote to their journals becomes the ledger in the store, exactly once.

Owns the reading side. Events are known by their id, and the position read to is kept in the same transaction, so that
a crash between any two lines neither loses nor doubles anything. Only whole, dead journals are removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bastide.domain.ledger import (
    Account,
    EngineCount,
    InstanceTime,
    Outcome,
    Progress,
    Reservation,
    Settlement,
    Tokens,
    recover,
)
from bastide.ports.journal import JournalReader
from bastide.ports.store import Store

BATCH_EVENTS = 2000


@dataclass(slots=True)
class _Open:
    """Reservations of one journal that are not settled yet, with their last running counts."""

    reservations: dict[str, Reservation] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)


class Folder:
    """Folds every journal the reader knows. One folder per store."""

    def __init__(self, store: Store, reader: JournalReader) -> None:
        self._store, self._reader = store, reader
        self._open: dict[str, _Open] = {}
        self._positions: dict[str, int] = {}

    def fold(self) -> int:
        """Fold what is new. Returns how many events were. Raises what the store raises; then nothing is lost."""
        new = 0
        counted: dict[str, EngineCount] = {}
        # Counts are read before the settlements they cover: an agent's journal first, then everybody's to the end.
        names = sorted(self._reader.journals(), key=lambda name: not name.startswith("agent"))
        for name in names:
            alive = self._reader.is_live(name)  # asked first: what a dead writer wrote is all there
            new += self._fold_one(name, counted)
            if not alive:
                new += self._settle_dead(name)
                self._reader.remove(name)
                self._store.forget_journal(name)
                self._positions.pop(name, None)
        for count in counted.values():
            new += self._audit(count)
        return new

    def _fold_one(self, name: str, counted: dict[str, EngineCount]) -> int:
        waiting = self._open.get(name)
        if waiting is None:
            # After a restart the open reservations are found by reading from the start; known events are not doubled.
            waiting, self._positions[name] = self._open.setdefault(name, _Open()), 0
        settlements: list[Settlement] = []
        times: list[InstanceTime] = []
        counts: list[EngineCount] = []
        position, new = self._positions[name], 0
        for after, event in self._reader.read(name, self._positions[name]):
            position = after
            match event:
                case Reservation():
                    waiting.reservations[event.event_id] = event
                case Progress():
                    waiting.progress[event.event_id] = event
                case Settlement():
                    waiting.reservations.pop(event.event_id, None)
                    waiting.progress.pop(event.event_id, None)
                    settlements.append(event)
                case InstanceTime():
                    times.append(event)
                case EngineCount():
                    counts.append(event)
                    if event.settled:
                        counted[event.instance] = event
            if len(settlements) + len(times) >= BATCH_EVENTS:
                new += self._store.fold(name, position, tuple(settlements), tuple(times), tuple(counts))
                settlements, times, counts = [], [], []
        if settlements or times or counts:
            new += self._store.fold(name, position, tuple(settlements), tuple(times), tuple(counts))
        self._positions[name] = position
        return new

    def _settle_dead(self, name: str) -> int:
        waiting = self._open.pop(name, _Open())
        settled = tuple(
            recover(reservation, waiting.progress.get(event_id), reservation.at_s)
            for event_id, reservation in waiting.reservations.items()
        )
        return self._store.fold(name, self._positions.get(name, 0), settled, ()) if settled else 0

    def _audit(self, count: EngineCount) -> int:
        """Book what the engines counted and nobody was billed for on the system account, so that the sums agree.

        What a gateway's crash, a hang-up's last token or a retry left over ends here. Where the ledger has more than
        the engines say (an engine was killed before its count could be read) there is nothing to book.
        """
        ledger, engine = self._store.instance_tokens(count.instance), self._store.engine_tokens(count.instance)
        missing = Tokens(
            max(0, engine.input_tokens - ledger.input_tokens),
            max(0, engine.cached_input_tokens - ledger.cached_input_tokens),
            max(0, engine.output_tokens - ledger.output_tokens),
        )
        if missing == Tokens():
            return 0
        settlement = Settlement(
            event_id=f"audit-{count.event_id}",
            at_s=count.at_s,
            project=count.project,
            service=count.service,
            model=count.service,
            key_id="audit",
            instance=count.instance,
            tokens=missing,
            cost_pico=0,
            outcome=Outcome.RECOVERED,
            account=Account.SYSTEM,
        )
        return self._store.fold("audit", 0, (settlement,), ())
