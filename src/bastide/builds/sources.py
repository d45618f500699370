"""Uploaded directories, kept by their content. Owns what may be in one, and that it is whole or not there at all.

Nothing of it is ever run here, and no link in it is ever followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from bastide.domain.errors import InvalidRequest, TooLarge, Unavailable
from bastide.domain.sources import ENTRIES_MAX, SOURCE_BYTES_MAX, Entry, digest_of, is_digest, path_problem
from bastide.domain.units import format_bytes

CHUNK = 1 << 20


class Sources:
    """`directory`: holds one directory a source, named by its digest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, digest: str) -> Path:
        """Raises InvalidRequest where it is no digest."""
        if not is_digest(digest):
            raise InvalidRequest(f"{digest[:100]!r} is no digest; it must be sha256: and 64 hexadecimal digits")
        return self._directory / digest.partition(":")[2]

    def has(self, digest: str) -> bool:
        return is_digest(digest) and self.path(digest).is_dir()

    def take(self, digest: str, tar: BinaryIO) -> int:
        target = self.path(digest)
        if target.is_dir():
            return 0
        part = self._directory / f"{target.name}.part-{secrets.token_hex(4)}"
        try:
            part.mkdir(mode=0o755, parents=True)
            part.chmod(0o755)
            entries, size = _laid_out(tar, part)
            found = digest_of(entries)
            if found != digest:
                raise InvalidRequest(
                    f"what was uploaded is {found}, not {digest}; it changed while it was packed, or on the way"
                )
            with contextlib.suppress(FileExistsError):
                part.rename(target)
            return size
        except tarfile.TarError as error:
            raise InvalidRequest(f"what was uploaded is no tar file: {error}") from None
        except OSError as error:
            if target.is_dir():
                return 0  # somebody else was faster with the same
            raise Unavailable(f"the source can't be kept: {error.strerror or error}") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _laid_out(tar: BinaryIO, part: Path) -> tuple[list[Entry], int]:
    """Lay the members out below `part`; returns what they are."""
    entries: list[Entry] = []
    size = 0
    seen: set[str] = set()
    with tarfile.open(fileobj=tar, mode="r|") as archive:
        for member in archive:
            if member.isdir():
                continue
            wrong = path_problem(member.name)
            if wrong is None and member.name in seen:
                wrong = f"{member.name!r} is there twice"
            if wrong is not None:
                raise InvalidRequest(wrong)
            seen.add(member.name)
            path = part / member.name
            _folders(part, member.name)
            if member.issym():
                os.symlink(member.linkname, path)
                entries.append(Entry(member.name, "link", member.linkname))
            elif member.isreg():
                size += member.size
                content = archive.extractfile(member)
                assert content is not None
                entries.append(_file(path, member.name, bool(member.mode & 0o100), content))
            else:
                raise InvalidRequest(f"{member.name!r} is neither a file nor a link; leave it out by .bastideignore")
            if len(entries) > ENTRIES_MAX:
                raise TooLarge(f"the directory holds over {ENTRIES_MAX} files; leave some out by .bastideignore")
            if size > SOURCE_BYTES_MAX:
                raise TooLarge(
                    f"the directory is over {format_bytes(SOURCE_BYTES_MAX)}; leave large files out by .bastideignore"
                )
    return entries, size


def _folders(part: Path, name: str) -> None:
    """Make the directories of an entry, and see that none of them is a link that was laid before."""
    at = part
    for word in name.split("/")[:-1]:
        at = at / word
        try:
            at.mkdir(mode=0o755)
            at.chmod(0o755)
        except FileExistsError:
            if at.is_symlink() or not at.is_dir():
                raise InvalidRequest(f"{name!r} lies below something that is no directory") from None


def _file(path: Path, name: str, program: bool, content: object) -> Entry:
    summed = hashlib.sha256()
    with open(path, "xb") as file:
        while data := content.read(CHUNK):  # type: ignore[attr-defined]
            summed.update(data)
            file.write(data)
    path.chmod(0o755 if program else 0o644)
    return Entry(name, "program" if program else "file", summed.hexdigest())
