"""What Bastide needs to know of an engine. One more engine is one more file with this shape.

Nothing here or in its neighbours starts, calls or imports an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bastide.domain.instances import Assignment, EngineCounters, LaunchSpec, WeightFile
from bastide.domain.isolation import Mount
from bastide.domain.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class BoxPlace:
    """What boxes on this node have in common: how the agent inside is started, what it needs to see, how they reach us.

    `door`: the host directory with the socket that leads to the gateway (empty: none), `url`: what an app calls it by.
    `volumes`: the host directory of volumes. `kept`: of what is kept of sleeping apps' processes (empty: nothing is). `image_arguments`, `image_mounts`: the same in a root that is not the host's;
    empty where that can't be.
    """

    arguments: tuple[str, ...]
    mounts: tuple[Mount, ...]
    image_arguments: tuple[str, ...] = ()
    image_mounts: tuple[Mount, ...] = ()
    volumes: str = ""
    kept: str = ""
    door: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance will run: directories for its socket, log and kept state, threads to use, how long it may live unclaimed."""

    sockets_directory: str
    logs_directory: str
    state_directory: str
    threads: int
    lease_s: float
    secret: str
    binary: str = ""  # an operator's own program to use instead of the packaged one
    boxes: BoxPlace | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One HTTP request to an engine."""

    method: str
    path: str
    body: bytes = b""


class Translator(Protocol):
    """Pure functions of whatever runs a service: an engine, or apps."""

    name: str

    def refuses(self, spec: ServiceSpec, weights: WeightFile | None) -> str | None:
        """Why this engine can't serve this, or None."""
        ...

    def estimate_bytes(self, spec: ServiceSpec, weights: WeightFile | None) -> int:
        """What an awake instance will hold, before it was ever measured."""
        ...

    def launch(self, assignment: Assignment, place: Place) -> LaunchSpec: ...


@runtime_checkable
class Engine(Translator, Protocol):
    """One that serves models: it is asked over HTTP, counts tokens, and has a canary."""

    def health(self) -> Ask: ...
    def metrics(self) -> Ask: ...
    def counters(self, metrics: str) -> EngineCounters:
        """Read the engine's own counters from what `metrics` answered."""
        ...

    def canary(self, embeddings: bool) -> Ask:
        """A short fixed question with one right answer for ever."""
        ...

    def canary_answer(self, body: bytes) -> tuple[str, EngineCounters]:
        """The comparable part of the answer, and its cost. ValueError where it is garbage."""
        ...

    def save(self, slot: int) -> Ask | None:
        """Keep the prompt cache of a slot in the state directory; None where the engine can't."""
        ...

    def restore(self, slot: int) -> Ask | None: ...
