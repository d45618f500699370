"""Metering as one thing: folds in the background and on demand, and grants slices. One lock: the two never cross."""

from __future__ import annotations

import asyncio
import logging
import threading

from bastide.domain.errors import BastideError
from bastide.domain.keys import KeyGrant
from bastide.metering.budgets import Budgets
from bastide.metering.fold import Folder
from bastide.ports.journal import JournalReader
from bastide.ports.store import Store

FOLD_S = 2.0
_log = logging.getLogger("bastide.metering")


class Meter:
    """`reader`: the journals of this location."""

    def __init__(self, store: Store, reader: JournalReader) -> None:
        self._folder = Folder(store, reader)
        self._budgets = Budgets(store, self._folder, lambda incarnation: reader.is_live(f"gateway-{incarnation}"))
        self._lock = threading.Lock()

    def fold(self) -> int:
        """Bring the store up to date with the journals. Returns how many events were new."""
        with self._lock:
            return self._folder.fold()

    def slice(self, key: KeyGrant, incarnation: str, window_start_s: float, need_pico: int, ask_pico: int) -> int:
        """See Budgets.slice."""
        with self._lock:
            return self._budgets.slice(key, incarnation, window_start_s, need_pico, ask_pico)

    async def fold_forever(self) -> None:
        """Every two seconds: what a reader of the ledger waits for at most, and little work when nothing is new."""
        while True:
            try:
                await asyncio.to_thread(self.fold)
            except (BastideError, OSError) as error:
                _log.warning("usage could not be folded, nothing is lost: %s", error)
            await asyncio.sleep(FOLD_S)
