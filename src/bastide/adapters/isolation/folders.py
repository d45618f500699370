"""Where isolation keeps things on the host: filter, files of /etc, bundles, sockets, and who a box runs as."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from bastide.adapters.isolation import etc, seccomp
from bastide.adapters.isolation.groups import Groups
from bastide.domain.isolation import Box

USERS_FROM = 0x70000000  # far above anybody's accounts; each box of a root's Bastide is a user of its own
USERS = 1 << 16


@dataclass(frozen=True, slots=True)
class Folders:
    """`data`: for files; `sockets`: a short path for sockets; `groups`: this Bastide's control groups."""

    data: Path
    sockets: Path
    groups: Groups

    def make(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
        wanted = seccomp.program(platform.machine())
        if not self.filter.exists() or self.filter.read_bytes() != wanted:
            part = self.filter.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            part.write_bytes(wanted)
            part.replace(self.filter)

    def etc(self, walled: bool) -> Path:
        """What a box sees as /etc."""
        return etc.make(self.data / "etc", walled)

    @property
    def filter(self) -> Path:
        return self.data / "seccomp.bpf"

    def socket(self, box: str, name: str) -> Path:
        """A box's published socket, on the host."""
        return self.sockets / f"{box}.{name}"

    def bundle(self, box: str) -> Path:
        return self.data / "bundles" / box

    def boxes(self) -> set[str]:
        """Names of boxes that have left something here."""
        bundles = self.data / "bundles"
        found = {path.name for path in bundles.iterdir()} if bundles.exists() else set()
        return found | {path.name.rpartition(".")[0] for path in self.sockets.glob("*.*")}

    def remove_box(self, box: str) -> None:
        """Everything of one box."""
        shutil.rmtree(self.bundle(box), ignore_errors=True)
        for path in self.sockets.glob(f"{box}.*"):
            path.unlink(missing_ok=True)


def box_user(box: Box) -> int | None:
    """Who a box runs as: for root a number of its own (or of its owner's), else (None) who we are.

    The number follows from a name, so that a restart finds the same; two names that meet in one number share only
    what namespaces keep apart anyway.
    """
    if os.getuid() != 0:
        return None
    import hashlib

    return USERS_FROM + int.from_bytes(hashlib.sha256((box.owner or box.name).encode()).digest()[:2], "big") % USERS


def interpreter() -> tuple[str, tuple[str, ...]]:
    """The Python that runs Bastide, and the directories a box must see for it to run there."""
    program = os.path.realpath(sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    return program, () if prefix == "/usr" else (prefix,)
