"""Packing a directory for a deploy: what goes in, what is left out, and the digest that says whether the server has it.

Left out: what .bastideignore and .gitignore name (in any directory, by git's rules), version control, and what is made
anew from the rest (virtual environments, node_modules, caches).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from bastide.domain.errors import InvalidRequest
from bastide.domain.sources import ENTRIES_MAX, SOURCE_BYTES_MAX, Entry, digest_of
from bastide.domain.units import format_bytes

IGNORE_FILES = (".gitignore", ".bastideignore")
ALWAYS = (
    ".git/", ".hg/", ".svn/", "__pycache__/", "*.pyc", ".venv/", "venv/", "node_modules/", ".mypy_cache/",
    ".pytest_cache/", ".ruff_cache/", ".DS_Store", ".bastideignore", ".gitignore",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packed:
    """A directory's entries and their digest. `tar` makes what is uploaded."""

    directory: Path
    digest: str
    entries: tuple[Entry, ...]
    source_bytes: int

    def tar(self) -> IO[bytes]:
        """An open temporary file, at its beginning. Raises InvalidRequest where a file can no longer be read."""
        made = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
        try:
            with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for entry in self.entries:
                    member = tarfile.TarInfo(entry.path)
                    if entry.kind == "link":
                        member.type, member.linkname = tarfile.SYMTYPE, entry.content
                        tar.addfile(member)
                        continue
                    member.mode = 0o755 if entry.kind == "program" else 0o644
                    with open(self.directory / entry.path, "rb") as file:
                        member.size = os.fstat(file.fileno()).st_size
                        tar.addfile(member, file)
        except OSError as error:
            made.close()
            raise InvalidRequest(f"{self.directory} changed while it was packed: {error}") from None
        made.seek(0)
        return made


def pack(directory: Path) -> Packed:
    """What of a directory is deployed. Raises InvalidRequest where it can't be: no directory, too large, a strange file."""
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is no directory")
    entries: list[Entry] = []
    total = 0
    for path, relative in _walk(directory):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            entries.append(Entry(_text(relative, relative), "link", _text(os.readlink(path), relative)))
        elif stat.S_ISREG(status.st_mode):
            total += status.st_size
            if total > SOURCE_BYTES_MAX:
                raise InvalidRequest(
                    f"{directory} is over {format_bytes(SOURCE_BYTES_MAX)}; leave large files out by .bastideignore"
                )
            kind = "program" if status.st_mode & 0o100 else "file"
            entries.append(Entry(_text(relative, relative), kind, _sum(path)))
        if len(entries) > ENTRIES_MAX:
            raise InvalidRequest(f"{directory} holds over {ENTRIES_MAX} files; leave some out by .bastideignore")
    if not entries:
        raise InvalidRequest(f"{directory} holds nothing to deploy")
    return Packed(directory, digest_of(entries), tuple(sorted(entries, key=lambda entry: entry.path)), total)


def pack_file(path: Path) -> Packed:
    """One file, as a directory that holds nothing else: an archive of an image."""
    size = path.stat().st_size
    if size > SOURCE_BYTES_MAX:
        raise InvalidRequest(f"{path} is over {format_bytes(SOURCE_BYTES_MAX)}")
    entries = (Entry(_text(path.name, path.name), "file", _sum(path)),)
    return Packed(path.parent, digest_of(entries), entries, size)


def _text(name: str, entry: str) -> str:
    """`name`, of or in `entry`, which must be text: digests and archives are made of it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        what = "has a name that is" if name == entry else "leads to a name that is"
        raise InvalidRequest(
            f"{os.fsencode(entry)!r} {what} not UTF-8, and can't be deployed; rename it, or leave it out by .bastideignore"
        ) from None
    return name


def _sum(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidRequest(f"{path} can't be read: {error.strerror}") from None


@dataclass(slots=True)
class Rules:
    """Patterns of one directory; `base` is its path below the top, "" for the top itself."""

    base: str
    patterns: list[tuple[re.Pattern[str], bool, bool]] = field(
        default_factory=list
    )  # pattern, negated, directories only

    def add(self, lines: Iterator[str]) -> None:
        for line in lines:
            pattern = line.rstrip("\n").rstrip()
            if not pattern or pattern.startswith("#"):
                continue
            negated = pattern.startswith("!")
            pattern = pattern[1:] if negated else pattern
            only_folders = pattern.endswith("/")
            self.patterns.append((_compiled(pattern.rstrip("/")), negated, only_folders))

    def says(self, path: str, is_folder: bool) -> bool | None:
        """True: left out, False: taken after all, None: nothing."""
        below = path[len(self.base) + 1 :] if self.base else path
        answer = None
        for pattern, negated, only_folders in self.patterns:
            if (is_folder or not only_folders) and pattern.fullmatch(below):
                answer = not negated
        return answer


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Git's patterns: one with a slash is anchored, `**` crosses directories, `*` and `?` do not."""
    anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    made, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            made, at = made + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            made, at = made + ".*", at + 2
        elif pattern[at] == "*":
            made, at = made + "[^/]*", at + 1
        elif pattern[at] == "?":
            made, at = made + "[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            made += "[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]"
            at = end + 1
        else:
            at += pattern[at] == "\\" and at + 1 < len(pattern)
            made, at = made + re.escape(pattern[at]), at + 1
    try:
        return re.compile(made if anchored else f"(?:.*/)?{made}")
    except re.error:
        return re.compile(re.escape(pattern))


def _walk(directory: Path) -> Iterator[tuple[Path, str]]:
    top = Rules("")
    top.add(iter(ALWAYS))
    waiting: list[tuple[str, list[Rules]]] = [("", [top])]
    while waiting:
        base, rules = waiting.pop()
        here = directory / base
        own = Rules(base)
        for name in IGNORE_FILES:
            file = here / name
            if file.is_file() and not file.is_symlink():
                own.add(iter(file.read_text(errors="replace").splitlines()))
        rules = [*rules, own] if own.patterns else rules
        try:
            names = sorted(os.listdir(here))
        except OSError as error:
            raise InvalidRequest(f"{here} can't be read: {error.strerror}") from None
        for name in names:
            path, relative = here / name, f"{base}/{name}" if base else name
            is_folder = path.is_dir() and not path.is_symlink()
            said = [answer for rule in rules if (answer := rule.says(relative, is_folder)) is not None]
            if said and said[-1]:
                continue
            if is_folder:
                waiting.append((relative, rules))
            else:
                yield path, relative
