"""A sandbox's files from outside: bytes, streams, whole trees. Paths are the sandbox's own, below its home by default."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bastide.sdk.client import Client

Json = dict[str, Any]
PART_BYTES = 8 * 2**20  # a larger file is written in parts


@dataclass(frozen=True, slots=True)
class Entry:
    """`kind`: file, directory, link or other. `mode`: permission bits. `modified_s`: seconds since the epoch."""

    name: str
    path: str
    kind: str
    size_bytes: int
    mode: int
    modified_s: float
    target: str | None = None


class Files:
    def __init__(self, client: Client, path: str) -> None:
        self._transport, self._path = client.transport, path

    def write(
        self, path: str, content: str | bytes | BinaryIO, *, mode: int | None = None, append: bool = False
    ) -> None:
        """Put a file there, directories made; whole or not at all, unless it is appended to."""
        source: BinaryIO
        if isinstance(content, str):
            source = io.BytesIO(content.encode())
        elif isinstance(content, bytes):
            source = io.BytesIO(content)
        else:
            source = content
        rights = {"mode": f"{mode:o}"} if mode is not None else {}
        first = source.read(PART_BYTES)
        second = source.read(PART_BYTES) if len(first) == PART_BYTES else b""
        if not second:
            self._transport.give("PUT", f"{self._path}/files", {"path": path, "append": append, **rights}, first)
            return
        target = path if append else f"{path}.bastide-part"
        self._transport.give("PUT", f"{self._path}/files", {"path": target, "append": append, **rights}, first)
        while second:
            self._transport.give("PUT", f"{self._path}/files", {"path": target, "append": True}, second)
            second = source.read(PART_BYTES)
        if not append:
            self.move(target, path)

    def read(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return b"".join(self.stream(path, offset=offset, length=length))

    def read_text(self, path: str) -> str:
        return self.read(path).decode()

    def stream(self, path: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of a file, piece by piece."""
        where = {"path": path, "offset": offset, "length": length}
        return self._transport.pieces("GET", f"{self._path}/files", where)

    def list(self, path: str = "~", *, depth: int = 1) -> tuple[Entry, ...]:
        found = self._transport.ask("GET", f"{self._path}/files/list", {"path": path, "depth": depth})
        return tuple(_entry(one) for one in found["entries"])

    def stat(self, path: str) -> Entry:
        """Raises NotFound where nothing is there."""
        return _entry(self._transport.ask("GET", f"{self._path}/files/stat", {"path": path}))

    def exists(self, path: str) -> bool:
        from bastide.domain.errors import NotFound

        try:
            self.stat(path)
        except NotFound:
            return False
        return True

    def move(self, path: str, to: str) -> None:
        self._transport.ask("POST", f"{self._path}/files/move", None, {"path": path, "to": to})

    def remove(self, path: str) -> None:
        """A file, a link, or a whole directory."""
        self._transport.ask("DELETE", f"{self._path}/files", {"path": path})

    def mkdir(self, path: str) -> None:
        self._transport.ask("POST", f"{self._path}/files/mkdir", {"path": path})

    def watch(self, path: str = "~", *, recursive: bool = False) -> Iterator[Json]:
        """What changes there, as it does; the first says that it watches."""
        return self._transport.lines("GET", f"{self._path}/files/watch", {"path": path, "recursive": recursive})

    def upload(self, source: str | Path, path: str = "~") -> None:
        """A file or a whole tree of this machine, laid below the directory `path`. Up to 32 MiB a file and call."""
        source = Path(source)
        members = sorted(source.rglob("*")) if source.is_dir() else [source]
        batch, size = io.BytesIO(), 0
        tar = _tar(batch)
        base = source.parent
        for member in members:
            length = member.lstat().st_size if member.is_file() and not member.is_symlink() else 0
            if length > PART_BYTES:
                with member.open("rb") as file:
                    name = member.relative_to(base).as_posix()
                    self.write(f"{path.rstrip('/')}/{name}", file, mode=member.stat().st_mode & 0o777)
                continue
            if size + length > PART_BYTES:
                tar.close()
                self._transport.give("PUT", f"{self._path}/tree", {"path": path}, batch.getvalue())
                batch, size = io.BytesIO(), 0
                tar = _tar(batch)
            tar.add(member, arcname=member.relative_to(base).as_posix(), recursive=False)
            size += length + 1024
        tar.close()
        self._transport.give("PUT", f"{self._path}/tree", {"path": path}, batch.getvalue())

    def download(self, path: str, target: str | Path) -> Path:
        """A file or a whole tree, laid below the directory `target` of this machine. What would lead out is refused."""
        target = Path(target)
        target.mkdir(parents=True, exist_ok=True)
        stream: Any = _Reader(self._transport.pieces("GET", f"{self._path}/tree", {"path": path}))
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            tar.extractall(target, filter="data")
        return target


class _Reader:
    """Pieces as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        size = len(self._rest) if size < 0 else size
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _tar(target: BinaryIO) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=target, mode="w", format=tarfile.PAX_FORMAT)


def _entry(about: Json) -> Entry:
    return Entry(
        about["name"], about["path"], about["kind"], about["size_bytes"], about["mode"], about["modified_s"],
        about.get("target"),
    )  # fmt: skip
