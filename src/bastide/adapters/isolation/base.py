"""What both tiers do alike, from the host's side: groups, freezing, paging out, counting, clearing up."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from bastide.adapters.isolation import tree
from bastide.adapters.isolation.folders import Folders
from bastide.adapters.runtime import proc
from bastide.domain.errors import Unsupported
from bastide.domain.isolation import Box


class Boxed(ABC):
    """A part of ports.isolation.Isolation. `address` is the tier's own."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    @abstractmethod
    def address(self, box: Box, name: str, pid: int) -> str:
        """The host path of one of its sockets."""

    def connect_path(self, box: Box, name: str, pid: int) -> tuple[str, int]:
        return tree.connect_path(self.address(box, name, pid))

    def limit(self, box: Box) -> None:
        refused = self._folders.groups.lacks(box.limits)
        if refused is not None:
            raise Unsupported(refused)
        if self._folders.groups.enforces:
            self._folders.groups.limit(box.name, box.limits)

    def pids(self, box: Box, pid: int) -> tuple[int, ...]:
        return self._folders.groups.pids(box.name) or tree.descendants(pid)

    def freeze(self, box: Box, pid: int) -> None:
        if self._folders.groups.freezes:
            self._folders.groups.freeze(box.name, True)
        else:
            tree.stop_all(pid)

    def thaw(self, box: Box, pid: int) -> None:
        if self._folders.groups.freezes:
            self._folders.groups.freeze(box.name, False)
        else:
            tree.continue_all(pid)

    def page_out(self, box: Box, pid: int) -> None:
        reason = tree.page_out(self.pids(box, pid))
        if reason is not None:
            raise Unsupported(f"its memory can't be paged out: {reason}")

    def usage(self, box: Box, pid: int) -> dict[str, float]:
        found = self._folders.groups.usage(box.name)
        pids = self.pids(box, pid)
        found.setdefault("processes", float(len(pids)))
        if "memory_bytes" not in found:
            found["memory_bytes"] = float(sum(proc.footprint(one).charge_bytes for one in pids))
        if "cpu_s" not in found:
            found["cpu_s"] = sum(proc.cpu_s(one) for one in pids)
        found["out_of_memory_kills"] = float(self._folders.groups.out_of_memory_kills(box.name))
        return found

    def resident_bytes(self, box: Box, pid: int) -> int:
        """What the tree holds in memory now, shared pages by their share, swapped ones by what zram takes for them."""
        total = 0
        for one in self.pids(box, pid):
            try:
                total += proc.footprint(one).charge_bytes
            except OSError:
                continue
        return total

    def clear(self, box: Box) -> None:
        self._folders.groups.remove(box.name)
        self._folders.remove_box(box.name)

    def sweep(self, keep: frozenset[str]) -> tuple[str, ...]:
        """Clear what boxes that are not in `keep` have left; returns their names."""
        left = set(self._folders.groups.names()) | self._folders.boxes()
        gone = tuple(sorted(left - keep))
        for name in gone:
            self._folders.groups.remove(name)
            self._folders.remove_box(name)
        return gone


def chown(path: str, user: int | None) -> None:
    if user is not None:
        os.chown(path, user, user)
