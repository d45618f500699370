"""Instances: what a node is told to run, what it reports back, and what an engine needs to start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from bastide.domain.apps import Build, ConfigFile, Health
from bastide.domain.isolation import Box
from bastide.domain.lifecycle import Phase
from bastide.domain.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Weights on this node: a file in the content-addressed store, its size and checksum, and what its header says."""

    path: str
    weights_bytes: int
    sha256: str
    architecture: str = ""
    layers: int = 0
    embedding_length: int = 0
    kv_heads: int = 0
    head_length: int = 0
    trained_context_tokens: int = 0
    pools: bool = False  # it says itself how embeddings are pooled


@dataclass(frozen=True, slots=True)
class Assignment:
    """One instance that a node shall have: of a model (`weights`) or of an app (`build`).

    `keep_awake`: it is among the least replicas and never sleeps.
    """

    instance: str
    generation: int
    index: int
    spec: ServiceSpec
    weights: WeightFile | None
    keep_awake: bool = False
    build: Build | None = None

    @property
    def content(self) -> str:
        """What it runs, by its content: what is measured of one instance of it is true of every other."""
        if self.weights is not None:
            return self.weights.sha256
        return self.build.key if self.build is not None else ""

    @property
    def reserved_bytes(self) -> int:
        """What is set aside for it whatever it holds. An app's `memory` is a limit that is enforced, not a reservation."""
        return 0 if self.build is not None else self.spec.resources.memory_bytes or 0


@dataclass(frozen=True, slots=True)
class Serving:
    """What is run inside a box once it stands. `environment` holds secrets: it never leaves memory, and no argument does.

    `directory` and `port` are as they are inside. `files` are laid before it starts.
    """

    argv: tuple[str, ...]
    directory: str
    port: int
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[ConfigFile, ...] = ()
    health: Health = field(default_factory=Health)


@dataclass(frozen=True, slots=True)
class Owned:
    """A directory on the host that is a service's own. `bytes_max`: what it may hold; None: it is not bounded."""

    path: str
    bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """How to start one engine process: pure data made by engines/, carried out by a runtime adapter.

    Either `child` names one of our child scripts (forked warm, handed `config` as JSON) or `argv` is a program to run.
    `socket`: the Unix socket it will listen on. `secret`: the bearer token it will ask for; it never travels in
    arguments. `lease_s`: how long it lives on when nobody claims it. `slots`: how many prompt-cache slots it has.
    """

    instance: str
    engine: str
    socket: str
    secret: str
    child: str = ""
    config: str = ""
    argv: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    log: str = ""
    state_directory: str = ""
    lease_s: float = 60.0
    start_s_max: float = 300.0
    slots: int = 0
    embeddings: bool = False
    read_ahead: tuple[str, ...] = ()  # files worth having in the page cache before the start
    box: Box | None = None  # where it runs isolated; `serving` is run inside then
    serving: Serving | None = None
    owned: tuple[Owned, ...] = ()  # what of its mounts is its own: volumes
    egress: tuple[str, ...] = ()  # where the box may connect to; empty: nowhere
    egress_tier: str = "proxy"


@dataclass(frozen=True, slots=True)
class ToldDigest:
    """What an app was told in confidence, as digests by name: enough to see whether it still holds, not to tell it again."""

    salt: str
    digests: tuple[tuple[str, str], ...]

    @staticmethod
    def of(salt: str, name: str, value: str) -> str:
        return hashlib.sha256("\0".join((salt, name, value)).encode()).hexdigest()

    def holds(self, given: Mapping[str, str]) -> bool:
        """Whether all of this was told just so."""
        told = dict(self.digests)
        return all(told.get(name) == self.of(self.salt, name, value) for name, value in given.items())


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, known beyond doubt: numbers are reused, start times (clock ticks since boot) and the boot are not."""

    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an instance holds now, in bytes: PSS in RAM (anonymous and file-backed apart), swapped, and what the swap costs.

    `charge_bytes` is what it counts for on the device's budget: its PSS plus its share of zram. Weights that an ended
    process left in the page cache are in no footprint: they give way by themselves.
    """

    anonymous_bytes: int = 0
    file_bytes: int = 0
    swapped_bytes: int = 0
    zram_bytes: int = 0

    @property
    def charge_bytes(self) -> int:
        return self.anonymous_bytes + self.file_bytes + self.zram_bytes

    @property
    def resident_bytes(self) -> int:
        return self.anonymous_bytes + self.file_bytes


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """The engine's own count since its process started."""

    input_tokens: int = 0  # cached ones included
    cached_input_tokens: int = 0
    output_tokens: int = 0
    requests_in_flight: int = 0


@dataclass(frozen=True, slots=True)
class InstanceReport:
    """What the agent says of one instance. `since_s`: seconds since the epoch; `memory_bytes`: RAM held now, measured."""

    instance: str
    project: str
    service: str
    generation: int
    node: str
    phase: Phase
    reason: str
    since_s: float
    pid: int | None = None
    memory_bytes: int = 0
    in_flight: int = 0
    woke_from: str = ""
    last_used_s: float | None = None
    failures: int = 0
    proven: bool = False  # it has been ready once in this generation
    note: str = ""
    kept: bool = False  # on the deep rung: its processes were saved, and go on with what they were told
    counters: EngineCounters = field(default_factory=EngineCounters)


@dataclass(frozen=True, slots=True)
class RungFact:
    """What one rung costs and gives back for one model or app on this machine, measured.

    `weights_sha256`: what it is of, by content (Assignment.content); for an app the key of its build.
    """

    weights_sha256: str
    rung: str
    wake_s: float
    sink_s: float
    held_bytes: int
    samples: int = 1
