"""Weights on this node: fetched once, verified, kept by their content. Methods block; callers run them on a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bastide.domain.instances import WeightFile
from bastide.domain.spec import ModelSource

FetchProgress = Callable[[int, int | None], None]  # bytes done, bytes in all where that is known


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """One file in the library, and the URL it was fetched as."""

    url: str
    sha256: str
    weights_bytes: int
    fetched_at_s: float


class Weights(Protocol):
    def resolve(self, source: ModelSource) -> WeightFile | None:
        """The verified file, where it is on this node already; None where it must be fetched. Quick."""
        ...

    def inspect(self, source: ModelSource, bytes_max: int | None = None) -> str | None:
        """What can be said to be wrong at once (no such file, not GGUF, truncated, over `bytes_max`), without fetching.

        None: nothing.
        """
        ...

    def fetch(self, source: ModelSource, bytes_max: int, progress: FetchProgress) -> WeightFile:
        """Have it here. Goes on where a broken download stopped.

        Raises NotFound, InvalidRequest (not GGUF, wrong checksum, over `bytes_max`, disk too small), Unavailable
        (the source can't be reached; retry helps), Unsupported (an extra is missing: says how to install it).
        """
        ...

    def kept(self) -> tuple[KeptWeights, ...]:
        """In order of URL."""
        ...

    def remove(self, url: str) -> int:
        """Forget it; returns bytes given back (0 where another URL has the same content). NotFound where unknown."""
        ...
