"""Sandboxes: isolated computers made on request. What one is, and the phases of its life."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bastide.domain.isolation import Limits, Tier

TIMEOUT_S = 300.0
TIMEOUT_S_MAX = 30 * 24 * 3600.0
DISK_BYTES = 256 * 2**20


class SandboxPhase(StrEnum):
    """`creating` and `saving` are only ever seen after a kill: what was not acknowledged is undone."""

    CREATING = "creating"
    RUNNING = "running"
    FROZEN = "frozen"  # stopped, its memory kept; any use wakes it
    LIGHT = "light"  # stopped and paged out; any use wakes it
    PAUSED = "paused"  # saved with its processes and ended; `resume`, or any use, brings it back
    ENDED = "ended"  # being cleared away


RESTING = (SandboxPhase.FROZEN, SandboxPhase.LIGHT)


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What may leave: each entry a name (`*.example.org` too), a CIDR, or the name of a set, with `:PORT` at will.

    Empty: nothing leaves. `tier`: `proxy` (no root; HTTP and CONNECT clients) or `packet` (root; any TCP client).
    """

    allow: tuple[str, ...] = ()
    tier: str = "proxy"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What was asked for. `template`: a name, or `snapshot:ID`. `disk_bytes`: of its home directory, held in memory."""

    template: str = "python"
    tier: Tier = Tier.GVISOR
    timeout_s: float = TIMEOUT_S
    metadata: tuple[tuple[str, str], ...] = ()
    egress: EgressRules = EgressRules()
    limits: Limits = field(default_factory=Limits)
    disk_bytes: int = DISK_BYTES


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One sandbox as its host keeps it. `box`: the name of its current process tree (a resumed one has a new name).

    `environment` is sealed. Times are in seconds since the epoch.
    """

    sandbox: str
    project: str
    key_id: str
    spec: SandboxSpec
    phase: SandboxPhase
    box: str
    created_s: float
    expires_s: float
    environment: str = ""
    image: str = ""  # the snapshot it was begun from, or lies in while paused
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saved sandbox: processes, memory and files. `bytes`: on disk; `sha256`: of its files, so that damage is seen."""

    snapshot: str
    project: str
    name: str
    spec: SandboxSpec
    created_s: float
    size_bytes: int
    sha256: str
    environment: str = ""
