"""A root that is not the host's: what of it is shown where, and how Bastide's own Python runs in it whatever C library it has."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bastide.domain.errors import Unsupported
from bastide.domain.isolation import Mount

OWN = ("proc", "dev", "sys", "tmp", "run")  # made for every box, never taken from a root
SHOWN_USR = "/run/bastide/usr"  # the host's own programs and libraries, for our agent alone
SHOWN_PREFIX = "/run/bastide/python"
_LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}


@dataclass(frozen=True, slots=True)
class Shown:
    """One entry of a view. `source` empty: an empty directory; `link` not empty: a symbolic link that says so."""

    target: str
    source: str = ""
    link: str = ""


def view(root: Path, targets: Iterable[str]) -> Iterator[Shown]:
    """What to show, in order, so that the root is there read-only and something can be laid at each of `targets`.

    A directory that lacks a place for one is made anew, with all that it holds shown in it one by one.
    """
    missing = {
        parts for target in targets if not os.path.lexists(root / target.lstrip("/")) for parts in _above(target)
    }
    yield from _below(root, "", missing)


def _above(target: str) -> Iterator[str]:
    """The directories above a place, without the top."""
    return (str(path) for path in PurePosixPath(target).parents if str(path) != "/")


def _below(root: Path, base: str, missing: set[str]) -> Iterator[Shown]:
    for name in sorted(os.listdir(root / base.lstrip("/"))):
        if not base and name in OWN:
            continue
        target = f"{base}/{name}"
        path = root / target.lstrip("/")
        if path.is_symlink():
            yield Shown(target, link=os.readlink(path))
        elif path.is_dir() and target in missing:
            yield Shown(target)
            yield from _below(root, target, missing)
        else:
            yield Shown(target, source=str(path))


def foreign_interpreter() -> tuple[tuple[str, ...], tuple[Mount, ...]]:
    """(the words before a Python's own arguments, what must be shown) to run this Python in a root of any origin.

    The host's loader is named as the program, and finds the host's libraries by a path that it is told: what the root holds
    plays no part, and what is started from there later uses the root's own. Raises Unsupported where the host is laid out strangely.
    """
    loader = os.path.realpath(_LOADERS.get(platform.machine(), ""))
    program, prefix = os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix)
    if not loader.startswith("/usr/") or not os.path.isfile(loader):
        raise Unsupported("roots of another origin need a host whose loader is below /usr, on x86-64 or arm64")
    mounts = [Mount("/usr", SHOWN_USR)]
    at = SHOWN_USR
    if prefix != "/usr":
        mounts.append(Mount(prefix, SHOWN_PREFIX))
        at = SHOWN_PREFIX
    # The Python's own first: the host may have another one of the same name.
    libraries = (f"{at}/lib", os.path.dirname(loader).replace("/usr", SHOWN_USR, 1), f"{SHOWN_USR}/lib")
    shown = program.replace(prefix, at, 1)
    return (
        loader.replace("/usr", SHOWN_USR, 1),
        "--library-path",
        ":".join(libraries),
        "--argv0",
        shown,
        shown,
    ), tuple(mounts)
