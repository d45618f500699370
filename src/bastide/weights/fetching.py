"""Fetching: what a way to reach files elsewhere must do, and the bounds every download is held to.

Must never know a protocol: those are in adapters/weights.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bastide.domain.units import format_bytes
from bastide.ports.weights import FetchProgress

CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Remote:
    """What a source says of a file before it is fetched. `tag` changes when the content does."""

    weights_bytes: int | None
    sha256: str | None = None
    tag: str | None = None


class Fetcher(Protocol):
    """One way to reach files elsewhere."""

    def look(self, url: str) -> Remote:
        """Raises NotFound, Unavailable or Unsupported."""
        ...

    def fetch(self, url: str, remote: Remote, partial: Path, progress: FetchProgress) -> None:
        """Bring `partial` to its whole length, going on from what is there."""
        ...


class TooMuch(Exception):
    """More comes than may be kept."""


def bounded(url: str, remote: Remote, bytes_max: int, progress: FetchProgress) -> FetchProgress:
    """`progress`, that ends a download which grows over what was announced or may be held."""

    def told(done_bytes: int, total_bytes: int | None) -> None:
        if remote.weights_bytes is not None and done_bytes > remote.weights_bytes:
            raise TooMuch(f"{url} sends more than the {format_bytes(remote.weights_bytes)} it announced")
        if done_bytes > bytes_max:
            raise TooMuch(too_large(url, done_bytes, bytes_max))
        progress(done_bytes, total_bytes)

    return told


def synced_bytes(path: Path) -> int:
    """How long a file is, once it is safe on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def too_large(url: str, weights_bytes: int, bytes_max: int) -> str:
    return (
        f"{url} holds {format_bytes(weights_bytes)}, but the device's budget is {format_bytes(bytes_max)}; "
        "raise `--memory` or take a smaller model"
    )


def hash_file(path: str, progress: FetchProgress) -> str:
    digest = hashlib.sha256()
    done, total = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
    return digest.hexdigest()
