"""What a directory of code is, by its content: entries, and the digest that both ends compute from them.

Times, owners and the order of packing never count; names, modes (executable or not), links and bytes do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

ENTRIES_MAX = 50_000
SOURCE_BYTES_MAX = 512 * 2**20
DIGEST_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or link below the directory. `path`: with slashes, relative; `content`: SHA-256 of a file, or a link's target."""

    path: str
    kind: str  # "file", "program" (executable) or "link"
    content: str


def digest_of(entries: Iterable[Entry]) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    summed = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.path):
        for part in (entry.kind, entry.path, entry.content):
            summed.update(f"{len(part.encode())}:{part}\n".encode())
    return DIGEST_PREFIX + summed.hexdigest()


def is_digest(text: str) -> bool:
    hexadecimal = text.removeprefix(DIGEST_PREFIX)
    return text.startswith(DIGEST_PREFIX) and len(hexadecimal) == 64 and set(hexadecimal) <= set("0123456789abcdef")


def path_problem(path: str) -> str | None:
    """Why an entry may not be called so, or None."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "" in parts or "." in parts or "\0" in path:
        return f"{path!r} is no relative path inside the directory"
    return None
