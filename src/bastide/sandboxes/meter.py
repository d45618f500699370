"""Sandboxes in the ledger: seconds in each phase, in a journal of their own."""

from __future__ import annotations

import contextlib
import itertools
import secrets

from bastide.domain.ledger import InstanceTime
from bastide.domain.sandboxes import Sandbox
from bastide.ports.journal import JournalWriter

SERVICE = "sandboxes"  # what they are listed under in usage


class SandboxMeter:
    def __init__(self, node: str, journal: JournalWriter) -> None:
        self._prefix = f"{node}-sandboxes-{secrets.token_hex(6)}"
        self._journal, self._numbers = journal, itertools.count(1)

    def spent(self, sandbox: Sandbox, seconds: float, at_s: float) -> None:
        if seconds <= 0.0:
            return
        event_id = f"{self._prefix}-{next(self._numbers)}"
        event = InstanceTime(event_id, at_s, sandbox.project, SERVICE, sandbox.sandbox, sandbox.phase.value, seconds)
        with contextlib.suppress(OSError):  # a full disk must not end sandboxes
            self._journal.append(event)

    def close(self) -> None:
        self._journal.close()
