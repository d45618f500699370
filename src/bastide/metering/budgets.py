"""Budget slices: what each gateway worker may still spend of a key's budget, granted before it is spent.

What live workers were granted and what ended ones spent never sum to more than the budget, so it can't be overrun,
however many workers there are and whenever they die. Whether a worker lives is told by the lock on its journal, never
by its connection: a cut line must not let its slice be spent twice.
"""

from __future__ import annotations

from collections.abc import Callable

from bastide.domain.errors import NotFound
from bastide.domain.keys import KeyGrant
from bastide.metering.fold import Folder
from bastide.policy.budget import grant
from bastide.ports.store import Store


class Budgets:
    """Grants slices. `is_live(incarnation)` says whether a gateway worker's life still goes on."""

    def __init__(self, store: Store, folder: Folder, is_live: Callable[[str], bool]) -> None:
        self._store, self._folder, self._is_live = store, folder, is_live

    def slice(self, key: KeyGrant, incarnation: str, window_start_s: float, need_pico: int, ask_pico: int) -> int:
        """How many pico-units this worker may spend in this window in all. Raises NotFound where there is no budget."""
        budget = key.limits.budget_pico
        if budget is None:
            raise NotFound(f"key {key.key_id} has no budget")
        granted = self._store.slices(key.key_id, window_start_s)
        ended = [name for name in granted if name != incarnation and not self._is_live(name)]
        if ended:
            # An ended worker's slice shrinks to what it spent, which its journal tells to the last event.
            self._folder.fold()
            for name in ended:
                spent = self._store.spent_pico(key.key_id, window_start_s, event_prefix=f"{name}-")
                if spent != granted[name]:
                    self._store.put_slice(key.key_id, window_start_s, name, spent)
                    granted[name] = spent
        more = grant(budget - sum(granted.values()), need_pico, ask_pico)
        total = granted.get(incarnation, 0) + more
        if more:
            self._store.put_slice(key.key_id, window_start_s, incarnation, total)
        return total
