"""Weights in the simulator: every URL is there, with the size it was given."""

from __future__ import annotations

import hashlib

from bastide.domain.errors import NotFound
from bastide.domain.instances import WeightFile
from bastide.domain.spec import ModelSource
from bastide.ports.weights import FetchProgress, KeptWeights, Weights


class SimWeights(Weights):
    """`sizes`: bytes by URL. A URL is on the node once it was fetched."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes = sizes
        self._here: dict[str, WeightFile] = {}

    def resolve(self, source: ModelSource) -> WeightFile | None:
        return self._here.get(source.url)

    def inspect(self, source: ModelSource) -> str | None:
        return None if source.url in self._sizes else f"there is nothing at {source.url}"

    def fetch(self, source: ModelSource, bytes_max: int, progress: FetchProgress) -> WeightFile:
        if source.url not in self._sizes:
            raise NotFound(f"there is nothing at {source.url}")
        size = self._sizes[source.url]
        progress(size, size)
        digest = hashlib.sha256(source.url.encode()).hexdigest()
        self._here[source.url] = WeightFile(source.url, size, digest)
        return self._here[source.url]

    def kept(self) -> tuple[KeptWeights, ...]:
        return tuple(KeptWeights(url, file.sha256, file.weights_bytes, 0.0) for url, file in self._here.items())

    def remove(self, url: str) -> int:
        return self._here.pop(url).weights_bytes if url in self._here else 0
