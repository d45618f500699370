"""Weights in the simulator: every URL is there, with the size it was given."""

from __future__ import annotations

import hashlib

from bastide.domain.errors import InvalidRequest, NotFound
from bastide.domain.instances import WeightFile
from bastide.domain.spec import ModelSource
from bastide.ports.weights import FetchProgress, KeptWeights, Weights


class SimWeights(Weights):
    """`sizes`: bytes by URL. A URL is on the node once it was fetched."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes = sizes
        self._here: dict[str, WeightFile] = {}

    def resolve(self, source: ModelSource) -> WeightFile | None:
        here = self._here.get(source.url)
        return here if here is not None and source.sha256 in (None, here.sha256) else None

    def inspect(self, source: ModelSource, bytes_max: int | None = None) -> str | None:
        return None if source.url in self._sizes else f"there is nothing at {source.url}"

    def fetch(self, source: ModelSource, bytes_max: int, progress: FetchProgress) -> WeightFile:
        if source.url not in self._sizes:
            raise NotFound(f"there is nothing at {source.url}")
        size = self._sizes[source.url]
        if size > bytes_max:
            raise InvalidRequest(f"{source.url} holds {size} bytes, over the budget of {bytes_max}")
        digest = hashlib.sha256(source.url.encode()).hexdigest()
        if source.sha256 not in (None, digest):
            raise InvalidRequest(f"{source.url} has the checksum {digest}, not {source.sha256}")
        progress(size, size)
        self._here[source.url] = WeightFile(source.url, size, digest)
        return self._here[source.url]

    def kept(self) -> tuple[KeptWeights, ...]:
        return tuple(KeptWeights(url, file.sha256, file.weights_bytes, 0.0) for url, file in sorted(self._here.items()))

    def remove(self, url: str) -> int:
        if url not in self._here:
            raise NotFound(f"{url} is not on the node")
        return self._here.pop(url).weights_bytes
