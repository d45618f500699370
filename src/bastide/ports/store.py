"""The store: desired state, keys, secrets, decisions, facts and the folded ledger of one location.

Methods are synchronous and short; callers on an event loop run them on a thread. Every write is durable when it
returns. Names are unique within their project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bastide.domain.decisions import Decision
from bastide.domain.instances import RungFact
from bastide.domain.keys import KeyGrant
from bastide.domain.ledger import EngineCount, InstanceTime, Settlement, Tokens
from bastide.domain.plan import DesiredService
from bastide.domain.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class UsageFilter:
    project: str | None = None
    service: str | None = None
    key_id: str | None = None
    since_s: float | None = None
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums over one group. `account` is `user` or `system`; `day` is YYYY-MM-DD in UTC."""

    project: str
    service: str
    key_id: str
    day: str
    account: str
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_pico: int


@dataclass(frozen=True, slots=True)
class TimeRow:
    """Instance-seconds on one phase, and what they cost."""

    project: str
    service: str
    day: str
    phase: str
    seconds: float
    cost_pico: int


class Store(Protocol):
    # Projects
    def projects(self) -> tuple[str, ...]: ...
    def add_project(self, name: str, now_s: float) -> None:
        """Idempotent."""
        ...

    def remove_project(self, name: str) -> None:
        """Conflict where it still has services; NotFound where it does not exist."""
        ...

    # Desired state
    def services(self, project: str | None = None) -> tuple[DesiredService, ...]:
        """Every service, removed ones too until `forget_service`; ordered by project and name."""
        ...

    def service(self, project: str, name: str) -> DesiredService | None: ...

    def declare(self, specs: tuple[ServiceSpec, ...], now_s: float) -> tuple[DesiredService, ...]:
        """Write all or none. An unchanged spec keeps its generation; a changed, new or removed-and-back one gets the next.

        `run_generation` and `serving` follow domain.plan.declared.
        """
        ...

    def mark_serving(self, project: str, name: str, generation: int) -> None:
        """This generation proved itself: it takes the traffic from now on. Ignored for an older one than is serving."""
        ...

    def mark_failed(self, project: str, name: str, generation: int, failure: str) -> None: ...
    def remove_service(self, project: str, name: str, now_s: float) -> None:
        """Desired: gone. NotFound where there is none."""
        ...

    def forget_service(self, project: str, name: str) -> None:
        """Its instances are gone: drop the record (never its usage)."""
        ...

    # Keys and secrets
    def keys(self, project: str | None = None) -> tuple[KeyGrant, ...]: ...
    def put_key(self, grant: KeyGrant) -> None: ...
    def revoke_key(self, key_id: str, now_s: float) -> KeyGrant:
        """NotFound where there is none."""
        ...

    def secrets(self, project: str) -> tuple[tuple[str, float], ...]:
        """Names with the time they were last set, in order of name; never values."""
        ...

    def put_secret(self, project: str, name: str, sealed: bytes, now_s: float) -> None:
        """`sealed` is already encrypted; the store never sees a secret in clear."""
        ...

    def secret(self, project: str, name: str) -> bytes | None: ...
    def remove_secret(self, project: str, name: str) -> None:
        """NotFound where there is none."""
        ...

    # Decisions
    def add_decisions(self, decisions: tuple[Decision, ...]) -> None:
        """Keeps the newest 500 of each service."""
        ...

    def decisions(self, project: str, service: str, limit: int) -> tuple[Decision, ...]:
        """The newest `limit`, oldest first."""
        ...

    # Ledger
    def fold(
        self,
        journal: str,
        position: int,
        settlements: tuple[Settlement, ...],
        times: tuple[InstanceTime, ...],
        counts: tuple[EngineCount, ...] = (),
    ) -> int:
        """In one transaction: add events not yet known by their id, and remember `position` of `journal`. Returns how many were new."""
        ...

    def engine_tokens(self, instance: str) -> Tokens:
        """What all engine processes of this instance have counted: the sum of the newest folded count of each."""
        ...

    def all_engine_tokens(self, project: str | None, service: str | None) -> Tokens:
        """The same over all instances of a project or a service (None: of all)."""
        ...

    def instance_tokens(self, instance: str) -> Tokens:
        """The sum of all settlements of this instance, users and system."""
        ...

    def journal_position(self, journal: str) -> int: ...
    def forget_journal(self, journal: str) -> None: ...
    def usage(self, where: UsageFilter) -> tuple[UsageRow, ...]:
        """Grouped by project, service, key, UTC day and account, in that order."""
        ...

    def instance_time(self, where: UsageFilter) -> tuple[TimeRow, ...]: ...
    def spent_pico(self, key_id: str, since_s: float, event_prefix: str = "") -> int:
        """What a key's settled requests cost since then (its `user` rows), of events whose id starts so."""
        ...

    # Budget slices: what each gateway worker may still spend, granted before it is spent
    def slices(self, key_id: str, window_start_s: float) -> dict[str, int]:
        """Worker -> pico-units granted in this window, in total."""
        ...

    def put_slice(self, key_id: str, window_start_s: float, worker: str, granted_pico: int) -> None: ...

    # Facts measured on this machine
    def facts(self) -> tuple[RungFact, ...]: ...
    def put_fact(self, fact: RungFact) -> None: ...
    def setting(self, name: str) -> str | None: ...
    def put_setting(self, name: str, value: str) -> None: ...

    # Whole
    def check(self) -> None:
        """Raises Unavailable where the store can't be written (disk full, damaged), saying why."""
        ...

    def backup_to(self, path: str) -> None:
        """A consistent copy while others write."""
        ...

    def close(self) -> None: ...
