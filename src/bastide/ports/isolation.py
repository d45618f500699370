"""Keeping a process tree away from its host. One adapter per tier; the keeper starts what `prepare` describes."""

from __future__ import annotations

from typing import Protocol

from bastide.domain.isolation import Box, BoxLaunch, SaveCommand, Tier


class Isolation(Protocol):
    """Methods are short, synchronous file work; callers on an event loop run them on a thread."""

    tier: Tier

    def refuses(self, box: Box) -> str | None:
        """What of this box can't be enforced here, and what to do about it; None: nothing."""
        ...

    def prepare(self, box: Box) -> BoxLaunch:
        """Make what the box needs on the host (groups, a bundle). Doing it again is fine.

        Raises Unsupported with the words of `refuses`, Unavailable where the host lacks room for it.
        """
        ...

    def connect_path(self, box: Box, name: str, pid: int) -> tuple[str, int]:
        """Where to connect to the socket `name` of a box whose keeper's child is `pid`, and the descriptor to close after.

        It leads to exactly that socket: nothing inside can lay a link to another. Raises OSError where it is not there.
        """
        ...

    def limit(self, box: Box) -> None:
        """Change the limits of a running box to `box.limits`. Raises Unsupported where one can't be enforced."""
        ...

    def usage(self, box: Box, pid: int) -> dict[str, float]:
        """`memory_bytes`, `cpu_s`, `processes`, `out_of_memory_kills` of the tree now."""
        ...

    def resident_bytes(self, box: Box, pid: int) -> int:
        """What the tree holds in memory now, net of what paging out really gave back."""
        ...

    def pids(self, box: Box, pid: int) -> tuple[int, ...]:
        """Every process of the tree, as the host numbers them."""
        ...

    def freeze(self, box: Box, pid: int) -> None:
        """Stop everyone at once; returns when it is so. Raises OSError where it can't be."""
        ...

    def thaw(self, box: Box, pid: int) -> None: ...
    def page_out(self, box: Box, pid: int) -> None:
        """Give the memory of a frozen tree to swap. Raises Unsupported where the kernel does not let us."""
        ...

    def clear(self, box: Box) -> None:
        """Once its processes are gone: everything that `prepare` made goes too. Doing it again is fine."""
        ...

    def sweep(self, keep: frozenset[str]) -> tuple[str, ...]:
        """Clear what boxes that are not in `keep` have left behind; returns their names."""
        ...


class Pausing(Isolation, Protocol):
    """A tier that can save processes with their memory, and bring them back.

    What is brought back stands behind the same walls: same user, no capability gained, same filter and namespaces of the same
    kinds, and it is the keeper's child's to end.
    """

    def identity(self) -> str:
        """Of the programs it stands on: what one saved, another of them may not bring back."""
        ...

    def keeps(self, box: Box) -> bool:
        """Whether this running box can be saved; one that can't is started anew each time."""
        ...

    def save_command(self, box: Box, pid: int) -> SaveCommand:
        """What writes a running, quiet box to `saved_at`; it lives on, or is left stopped until `begin_again`. Run by the keeper."""
        ...

    def saved_at(self, box: Box) -> str:
        """The host directory that `save_command` fills."""
        ...

    def prepare_restore(self, box: Box, image: str) -> BoxLaunch:
        """As `prepare`, from what was saved in the directory `image`."""
        ...

    def hush(self, box: Box) -> None:
        """Before the box is asked to be quiet: it stays so until `begin_again`."""
        ...

    def begin_again(self, box: Box) -> None:
        """A box that was saved, or brought back, may listen again."""
        ...
