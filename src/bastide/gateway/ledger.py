"""The worker's ledger: what it writes to its journal around each request. Owns event ids and late settlements."""

from __future__ import annotations

import asyncio
import itertools
import logging

from bastide.domain.errors import Unavailable
from bastide.domain.ledger import Progress, Reservation, Settlement
from bastide.ports.journal import JournalEvent, JournalWriter

_log = logging.getLogger("bastide.gateway")


class Ledger:
    def __init__(self, journal: JournalWriter, incarnation: str) -> None:
        self._journal, self._incarnation = journal, incarnation
        self._numbers = itertools.count(1)
        self._late: list[JournalEvent] = []
        self._unsynced = False

    def new_id(self) -> str:
        """Unique for ever: the incarnation is drawn anew at every start."""
        return f"{self._incarnation}-{next(self._numbers):x}"

    def reserve(self, reservation: Reservation) -> None:
        """Written before anything is forwarded. Unavailable where it can't be: an uncounted request is refused."""
        try:
            if self._late:
                self._write_late()
            self._journal.append(reservation)
            self._unsynced = True
        except OSError as error:
            raise Unavailable(
                f"usage can't be recorded now ({error.strerror or error}), so no request is taken; free disk space on "
                "the gateway's machine",
                retry_after_s=10.0,
            ) from None

    def progress(self, progress: Progress) -> None:
        try:
            self._journal.append(progress)
            self._unsynced = True
        except OSError:
            pass  # only a crash would need it, and the next one comes in half a second

    def settle(self, settlement: Settlement) -> None:
        """Never lost while this worker lives: what can't be written now is written as soon as it can be."""
        try:
            if self._late:
                self._write_late()
            self._journal.append(settlement)
            self._unsynced = True
        except OSError as error:
            _log.error("a settlement waits, for the journal can't be written: %s", error.strerror or error)
            self._late.append(settlement)

    def _write_late(self) -> None:
        while self._late:
            self._journal.append(self._late[0])
            del self._late[0]

    async def keep_synced(self, every_s: float) -> None:
        """Group what was appended into one sync, off the loop, for a disk may take its time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every_s)
            try:
                if self._late:
                    self._write_late()
                    self._unsynced = True
                if self._unsynced:
                    self._unsynced = False
                    await loop.run_in_executor(None, self._journal.sync)
            except OSError as error:
                self._unsynced = True
                _log.error("the journal can't be synced: %s", error.strerror or error)

    def close(self) -> None:
        try:
            self._write_late()
        except OSError:
            _log.error(
                "%d settlements could not be written; they will be recovered by their last count", len(self._late)
            )
        self._journal.close()
