"""The journal a gateway worker appends to, and its reader. An append survives kill -9 of the writer once it returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from bastide.domain.ledger import EngineCount, InstanceTime, Progress, Reservation, Settlement

JournalEvent = Reservation | Progress | Settlement | InstanceTime | EngineCount


class JournalWriter(Protocol):
    """One writer per journal. Appends are in order; `sync` bounds what a power cut can take."""

    def append(self, event: JournalEvent) -> None:
        """Hand the event to the kernel. Raises OSError where it could not be (disk full): then nothing is forwarded."""
        ...

    def sync(self) -> None:
        """Make everything appended so far survive a power cut."""
        ...

    def close(self) -> None: ...


class JournalReader(Protocol):
    """Reads journals of any worker, alive or dead, from a position; a torn last line is left for later."""

    def journals(self) -> tuple[str, ...]:
        """Names of the journals that exist, oldest first."""
        ...

    def read(self, journal: str, position: int) -> Iterator[tuple[int, JournalEvent]]:
        """Events after `position`, each with the position behind it."""
        ...

    def is_live(self, journal: str) -> bool:
        """Whether its writer still runs."""
        ...

    def trim(self, journal: str, position: int) -> None:
        """Allow everything up to `position` to be dropped (a live journal's folded past); positions stay true."""
        ...

    def remove(self, journal: str) -> None:
        """Forget a dead writer's journal once all of it is in the store."""
        ...
