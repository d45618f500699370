"""Code on this node: sources kept by their content, and what they are built to. Methods block; callers run them on a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from bastide.domain.apps import AppSpec, Build

BuildProgress = Callable[[str], None]  # what is happening, one line at a time


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection gave back."""

    removed: int
    given_back_bytes: int


class Builds(Protocol):
    def has_source(self, digest: str) -> bool: ...

    def take_source(self, digest: str, tar: BinaryIO) -> int:
        """Keep an uploaded directory; returns its bytes. Whole or not at all.

        Raises InvalidRequest where it is not what its digest says, holds what can't be kept, or is over the limits.
        """
        ...

    def resolve(self, app: AppSpec) -> Build | None:
        """What it is built to, where that is on this node already. Quick."""
        ...

    def build(self, app: AppSpec, progress: BuildProgress) -> Build:
        """Build it, once however often it is asked for.

        Raises InvalidRequest (what the user can mend: it can't be found out what to run, a dependency has no wheel),
        NotFound (the source is not here), Unavailable (the index can't be reached), Unsupported (a tool is missing).
        """
        ...

    def log(self, app: AppSpec) -> str:
        """What the newest build of it said."""
        ...

    def collect(self, used: Iterable[AppSpec], kept_s: float) -> Collected:
        """Remove what none of these needs and nobody has used for `kept_s`."""
        ...
