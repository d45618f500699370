"""Keeping a process tree away from its host. One adapter per tier; the keeper starts what `prepare` describes."""

from __future__ import annotations

from typing import Protocol

from bastide.domain.isolation import Box, BoxLaunch, Tier, TierReport


class Isolation(Protocol):
    """Methods are short, synchronous file work; callers on an event loop run them on a thread."""

    tier: Tier

    def self_test(self) -> TierReport:
        """Run something in it and see that its walls stand. Takes up to seconds; never raises."""
        ...

    def refuses(self, box: Box) -> str | None:
        """What of this box can't be enforced here, and what to do about it; None: nothing."""
        ...

    def prepare(self, box: Box) -> BoxLaunch:
        """Make what the box needs on the host (groups, a bundle). Doing it again is fine.

        Raises Unsupported with the words of `refuses`, Unavailable where the host lacks room for it.
        """
        ...

    def address(self, box: Box, name: str, pid: int) -> str:
        """Host path of the socket `name` of a box whose keeper's child is `pid`. Connect with ports... `connect_path`."""
        ...

    def limit(self, box: Box) -> None:
        """Change the limits of a running box to `box.limits`. Raises Unsupported where one can't be enforced."""
        ...

    def usage(self, box: Box, pid: int) -> dict[str, float]:
        """`memory_bytes`, `cpu_s`, `processes` of the tree now."""
        ...

    def pids(self, box: Box, pid: int) -> tuple[int, ...]:
        """Every process of the tree, as the host numbers them."""
        ...

    def clear(self, box: Box) -> None:
        """Once its processes are gone: everything that `prepare` made goes too. Doing it again is fine."""
        ...
