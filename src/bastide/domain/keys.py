"""API keys and what they allow. Owns the grant and the text form of a key; stores only hashes, never the key itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

KEY_PREFIX = "bst_"


class BudgetWindow(StrEnum):
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use; None means no limit of that kind. Budgets are in pico-units per UTC day or month."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    in_flight_max: int | None = None
    budget_pico: int | None = None
    budget_window: BudgetWindow = BudgetWindow.MONTH


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """A key as the platform keeps it. `models` empty: every model of the project. `expires_at_s`: seconds since the epoch."""

    key_id: str
    key_hash: str
    project: str
    name: str = ""
    admin: bool = False
    deploys: bool = False  # may declare, scale and look into the services of its project
    sandboxes: bool = False  # may make and use sandboxes in its project; who deploys may anyway
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    expires_at_s: float | None = None
    created_at_s: float = 0.0
    revoked_at_s: float | None = None
    account: str = ""  # the key whose limits, budget and line in the ledger it shares; empty: its own

    @property
    def billed_to(self) -> str:
        return self.account or self.key_id

    def refuses(self, now_s: float) -> str | None:
        """Why this key may not be used now, or None where it may."""
        if self.revoked_at_s is not None:
            return "this API key was revoked"
        if self.expires_at_s is not None and now_s >= self.expires_at_s:
            return "this API key has expired"
        return None

    @property
    def may_sandbox(self) -> bool:
        return self.admin or self.deploys or self.sandboxes

    def allows_model(self, model: str) -> bool:
        return not self.models or model in self.models


def hash_key(key: str) -> str:
    """SHA-256 in hexadecimal. Keys carry 256 random bits, so a slow password hash would add nothing."""
    return hashlib.sha256(key.encode()).hexdigest()


def window_start_s(window: BudgetWindow, now_s: float) -> float:
    """When the budget window that holds `now_s` began (UTC), in seconds since the epoch."""
    day = int(now_s // 86400)
    if window is BudgetWindow.DAY:
        return day * 86400.0
    return (day - _day_of_month(day) + 1) * 86400.0


def _day_of_month(days_since_epoch: int) -> int:
    # Civil-from-days (proleptic Gregorian), so that the domain needs no clock library.
    z = days_since_epoch + 719468
    day_of_era = z % 146097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_index = (5 * day_of_year + 2) // 153
    return day_of_year - (153 * month_index + 2) // 5 + 1
