"""The library: weights kept by their content, each fetched once, verified before anything starts from them.

Owns DATA/weights: `blobs/SHA256` (the files), `references/*.json` (which URL is which file), `partial/` (broken
downloads, gone on with). Local files are used where they are and never copied. How a URL is fetched is a fetcher's
affair; that it is whole and right is checked here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from bastide.domain.errors import InvalidRequest, NotFound, Unavailable
from bastide.domain.instances import WeightFile
from bastide.domain.spec import ModelSource
from bastide.domain.units import format_bytes
from bastide.ports.weights import FetchProgress, KeptWeights, Weights
from bastide.weights.fetching import Fetcher, TooMuch, bounded, hash_file, synced_bytes, too_large
from bastide.weights.gguf_header import NotGguf, read_header

DISK_LEFT_BYTES_MIN = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Reference:
    url: str
    sha256: str
    weights_bytes: int
    path: str
    changed_ns: int  # of a local file, when it was hashed
    fetched_at_s: float


class Library(Weights):
    """`builtin`: path by name, made on demand where it is a function of another. `fetchers`: by URL scheme."""

    def __init__(self, directory: str, builtin: Builtin, fetchers: Mapping[str, Fetcher]) -> None:
        self._blobs = Path(directory) / "blobs"
        self._references = Path(directory) / "references"
        self._partial = Path(directory) / "partial"
        for folder in (self._blobs, self._references, self._partial):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._builtin, self._fetchers = builtin, fetchers
        self._fetching: dict[str, threading.Lock] = {}  # two writers would spoil each other's partial file

    def resolve(self, source: ModelSource) -> WeightFile | None:
        reference = self._reference(source.url)
        if reference is None or (source.sha256 is not None and reference.sha256 != source.sha256):
            return None
        try:
            status = os.stat(reference.path)
        except OSError:
            return None
        if status.st_size != reference.weights_bytes or status.st_mtime_ns != reference.changed_ns:
            return None
        try:
            return _described(reference.path, reference.sha256)
        except (NotGguf, OSError):
            return None

    def inspect(self, source: ModelSource, bytes_max: int | None = None) -> str | None:
        scheme = source.url.partition("://")[0]
        if scheme in ("builtin", "file"):
            try:
                path = self._local(source.url)
                read_header(path)
                weights_bytes = os.path.getsize(path)
                if bytes_max is not None and weights_bytes > bytes_max:
                    return too_large(source.url, weights_bytes, bytes_max)
            except (NotFound, InvalidRequest) as error:
                return error.message
            except NotGguf as error:
                return str(error)
            except OSError as error:
                return f"{source.url} can't be read: {error.strerror}"
            return None
        if scheme not in self._fetchers:
            return f"{scheme}:// can't be fetched here; known are {', '.join(sorted(self._fetchers))}, file, builtin"
        return None

    def fetch(self, source: ModelSource, bytes_max: int, progress: FetchProgress) -> WeightFile:
        with self._fetching.setdefault(source.url, threading.Lock()):
            return self.resolve(source) or self._fetch(source, bytes_max, progress)

    def _fetch(self, source: ModelSource, bytes_max: int, progress: FetchProgress) -> WeightFile:
        scheme = source.url.partition("://")[0]
        if scheme in ("builtin", "file"):
            path = self._local(source.url)
            size = os.path.getsize(path)
            if size > bytes_max:
                raise InvalidRequest(too_large(source.url, size, bytes_max))
            digest = hash_file(path, progress)
        else:
            path, digest = self._download(scheme, source, bytes_max, progress)
        if source.sha256 is not None and digest != source.sha256:
            self._drop_unused(digest)
            raise InvalidRequest(
                f"{source.url} has the checksum {digest}, but the spec asks for {source.sha256}: it is not the file that "
                "was meant, or it was changed on the way"
            )
        try:
            weights = _described(path, digest)
        except NotGguf as error:
            self._drop_unused(digest)
            raise InvalidRequest(str(error)) from None
        self._remember(source.url, weights)
        return weights

    def kept(self) -> tuple[KeptWeights, ...]:
        references = (self._read(path) for path in self._references.glob("*.json"))
        found = [KeptWeights(r.url, r.sha256, r.weights_bytes, r.fetched_at_s) for r in references if r is not None]
        return tuple(sorted(found, key=lambda weights: weights.url))

    def remove(self, url: str) -> int:
        reference = self._reference(url)
        partial_bytes = self._partial_bytes(url)
        if reference is None and not partial_bytes:
            raise NotFound(f"the library has no {url!r}; `bastide models ls` lists what it has")
        self._reference_path(url).unlink(missing_ok=True)
        shutil.rmtree(self._partial_path(url).parent, ignore_errors=True)
        return partial_bytes + (self._drop_unused(reference.sha256) if reference is not None else 0)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _local(self, url: str) -> str:
        if url.startswith("builtin://"):
            return self._builtin.path(url.removeprefix("builtin://"))
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidRequest(f"{url!r} must name an absolute path on this machine: file:///path/model.gguf")
        path = unquote(parts.path)
        if not os.path.isfile(path):
            raise NotFound(f"there is no file {path}")
        return path

    def _download(self, scheme: str, source: ModelSource, bytes_max: int, progress: FetchProgress) -> tuple[str, str]:
        fetcher = self._fetchers.get(scheme)
        if fetcher is None:
            raise InvalidRequest(f"{scheme}:// can't be fetched here")
        remote = fetcher.look(source.url)
        if remote.weights_bytes is not None:
            if remote.weights_bytes > bytes_max:
                raise InvalidRequest(too_large(source.url, remote.weights_bytes, bytes_max))
            free = shutil.disk_usage(self._partial).free
            partial_bytes = self._partial_bytes(source.url)
            if remote.weights_bytes - partial_bytes + DISK_LEFT_BYTES_MIN > free:
                raise InvalidRequest(
                    f"{source.url} holds {format_bytes(remote.weights_bytes)}, but the disk has only {format_bytes(free)} "
                    "free; `bastide models rm` what is not needed"
                )
        if remote.sha256 is not None and source.sha256 is not None and remote.sha256 != source.sha256:
            raise InvalidRequest(
                f"{source.url} has the checksum {remote.sha256}, but the spec asks for {source.sha256}"
            )
        partial = self._partial_path(source.url)
        partial.parent.mkdir(mode=0o700, exist_ok=True)
        tag = partial.with_suffix(".tag")
        if partial.exists() and (remote.tag is None or not tag.exists() or tag.read_text() != remote.tag):
            partial.unlink()  # another version began; the two must not be mixed
        tag.write_text(remote.tag or "")
        try:
            fetcher.fetch(source.url, remote, partial, bounded(source.url, remote, bytes_max, progress))
            size = synced_bytes(partial)
        except TooMuch as error:
            shutil.rmtree(partial.parent, ignore_errors=True)
            raise InvalidRequest(str(error)) from None
        except OSError as error:
            raise Unavailable(f"{source.url} could not be written: {error.strerror or error}") from None
        if remote.weights_bytes is not None and size != remote.weights_bytes:
            raise Unavailable(
                f"{source.url} broke off after {format_bytes(size)} of {format_bytes(remote.weights_bytes)}; "
                "the next try goes on from there",
                retry_after_s=5.0,
            )
        digest = hash_file(str(partial), lambda done, total: None)
        if remote.sha256 is not None and digest != remote.sha256:
            shutil.rmtree(partial.parent, ignore_errors=True)
            raise InvalidRequest(
                f"{source.url} arrived with the checksum {digest}, but its source says {remote.sha256}"
            )
        blob = self._blobs / digest
        if not blob.exists() or blob.stat().st_size != size:  # else another URL brought it: it stays as it is
            os.replace(partial, blob)
        shutil.rmtree(partial.parent, ignore_errors=True)
        return str(blob), digest

    def _drop_unused(self, digest: str) -> int:
        """Remove a blob that no reference names. Returns the bytes given back."""
        blob = self._blobs / digest
        if not blob.exists() or any(weights.sha256 == digest for weights in self.kept()):
            return 0
        size = blob.stat().st_size
        blob.unlink()
        return size

    def _key(self, url: str) -> str:
        return hashlib.sha256(url.encode()).hexdigest()[:32]

    def _reference_path(self, url: str) -> Path:
        return self._references / f"{self._key(url)}.json"

    def _partial_path(self, url: str) -> Path:
        return self._partial / self._key(url) / "file"

    def _partial_bytes(self, url: str) -> int:
        try:
            return self._partial_path(url).stat().st_size
        except OSError:
            return 0

    def _reference(self, url: str) -> _Reference | None:
        return self._read(self._reference_path(url))

    def _read(self, path: Path) -> _Reference | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Reference)
        except (OSError, msgspec.MsgspecError):
            return None

    def _remember(self, url: str, weights: WeightFile) -> None:
        changed_ns = os.stat(weights.path).st_mtime_ns
        reference = _Reference(url, weights.sha256, weights.weights_bytes, weights.path, changed_ns, time.time())
        path = self._reference_path(url)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(asdict(reference)))
        fresh.replace(path)


class Builtin(Protocol):
    """The models that come with Bastide."""

    def path(self, name: str) -> str:
        """Where the weights are, made where they must be. Raises NotFound, which lists the names."""
        ...


def _described(path: str, digest: str) -> WeightFile:
    header = read_header(path)
    return WeightFile(
        path=path,
        weights_bytes=os.path.getsize(path),
        sha256=digest,
        architecture=header.architecture,
        layers=header.layers,
        embedding_length=header.embedding_length,
        kv_heads=header.kv_heads,
        head_length=header.head_length,
        trained_context_tokens=header.context_tokens,
        pools=header.pools,
    )
