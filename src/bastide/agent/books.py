"""What the agent writes to its journal: instance time, canaries, and what engines counted. It never stops an engine."""

from __future__ import annotations

import contextlib
import itertools
import secrets

from bastide.agent.effects import Spent
from bastide.domain.instances import EngineCounters
from bastide.domain.ledger import Account, EngineCount, InstanceTime, Outcome, Settlement, Tokens
from bastide.domain.lifecycle import Phase
from bastide.domain.spec import ServiceSpec
from bastide.ports.clock import Clock
from bastide.ports.journal import JournalEvent, JournalWriter


class Books:
    """One agent's entries. Event ids are unique for ever: each life of an agent draws a name of its own."""

    def __init__(self, node: str, journal: JournalWriter, clock: Clock) -> None:
        self._prefix = f"{node}-{secrets.token_hex(6)}"
        self._journal, self._clock = journal, clock
        self._numbers = itertools.count(1)

    def canary(self, spec: ServiceSpec, instance: str, cost: EngineCounters) -> None:
        """A canary's tokens, on the system account."""
        tokens = Tokens(cost.input_tokens, cost.cached_input_tokens, cost.output_tokens)
        self._write(
            Settlement(
                event_id=self._event_id(),
                at_s=self._clock.now_s(),
                project=spec.project,
                service=spec.name,
                model=spec.name,
                key_id="canary",
                instance=instance,
                tokens=tokens,
                cost_pico=0,
                outcome=Outcome.COMPLETE,
                account=Account.SYSTEM,
            )
        )

    def time(self, spec: ServiceSpec, spent: Spent) -> None:
        """Seconds in a phase; awake ones cost what the service's `instance_hour` says."""
        if spent.phase in (Phase.OFF, Phase.FAILED):
            return
        awake = spent.phase is Phase.AWAKE
        cost = round(spent.seconds * spec.price.instance_pico_per_hour / 3600) if awake else 0
        event_id, phase = self._event_id(), spent.phase.value
        self._write(
            InstanceTime(event_id, spent.at_s, spec.project, spec.name, spent.instance, phase, spent.seconds, cost)
        )

    def count(self, spec: ServiceSpec, instance: str, process: str, tokens: Tokens, *, settled: bool) -> None:
        """What one engine process has counted since it started."""
        now_s = self._clock.now_s()
        event_id = self._event_id()
        self._write(EngineCount(event_id, now_s, spec.project, spec.name, instance, process, tokens, settled))

    def sync(self) -> None:
        with contextlib.suppress(OSError):
            self._journal.sync()

    def close(self) -> None:
        self._journal.close()

    def _event_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def _write(self, event: JournalEvent) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop engines; the time is lost, requests are not
            self._journal.append(event)
