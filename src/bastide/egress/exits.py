"""The ways out of the boxes of one process: one each, from before it starts until after it has ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from bastide.domain.errors import Unsupported
from bastide.domain.sandboxes import EgressRules
from bastide.egress.proxy import Proxy
from bastide.egress.wall import Wall, ports_of
from bastide.policy.egress import parse


class Exits:
    """`directory`: below it each box has one of its own, shown inside. `bastide`: (host, port) of our own gateway."""

    def __init__(self, directory: Path, sets: Mapping[str, tuple[str, ...]], bastide: tuple[str, int] | None) -> None:
        self._directory, self._sets, self._bastide = directory, sets, bastide
        self._proxies: dict[str, Proxy] = {}
        self._walls: dict[str, Wall] = {}
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def directory(self, box: str) -> str:
        """Made at once: it must be there when the box starts, though nothing listens in it before `open`."""
        folder = self._directory / box
        folder.mkdir(exist_ok=True)
        os.chmod(folder, 0o755)
        return str(folder)

    def check(self, rules: EgressRules) -> None:
        """Raises InvalidRequest where they can't be read, Unsupported where this tier is not to be had here."""
        parsed = parse(rules.allow, self._sets)
        if rules.tier == "packet":
            ports_of(parsed)
            if os.getuid() != 0:
                raise Unsupported("the packet tier of egress needs Bastide to run as root; the proxy tier does not")

    async def wall(self, box: str, rules: EgressRules, inside: int | None = None) -> str:
        """Build a wall for a box that is about to start, or around one that lives; returns its namespace."""
        wall = Wall(parse(rules.allow, self._sets), self._bastide)
        await wall.build(inside)
        self._walls[box] = wall
        return wall.namespace

    async def open(self, box: str, project: str, rules: EgressRules) -> None:
        """Let out what the rules allow. Raises what `check` raises; then nothing leaves."""
        if box in self._walls:
            return  # it stands since before the box was started
        parsed = parse(rules.allow, self._sets)
        await self.shut(box, keep_directory=True)
        if parsed:
            await self._listen(box, Proxy(parsed, self._bastide))

    async def _listen(self, box: str, proxy: Proxy) -> None:
        await proxy.listen(os.path.join(self.directory(box), "proxy"))
        self._proxies[box] = proxy

    async def change(self, box: str, rules: EgressRules) -> int:
        """From now on; returns how many open connections ended."""
        parsed = parse(rules.allow, self._sets)
        if box in self._walls:
            return await self._walls[box].change(parsed)
        proxy = self._proxies.get(box)
        if proxy is None:
            await self.open(box, "", rules)
            return 0
        return proxy.change(parsed)

    async def shut(self, box: str, *, keep_directory: bool = False) -> None:
        wall = self._walls.pop(box, None)
        if wall is not None:
            await wall.close()
        proxy = self._proxies.pop(box, None)
        if proxy is not None:
            await proxy.close()
        if not keep_directory:
            shutil.rmtree(self._directory / box, ignore_errors=True)

    def forget(self, box: str) -> None:
        """The directory of a box that is gone; one that is still open stays until it is shut."""
        if box not in self._proxies and box not in self._walls:
            shutil.rmtree(self._directory / box, ignore_errors=True)

    def sweep(self, keep: frozenset[str]) -> None:
        """What boxes that are not in `keep` have left."""
        for folder in self._directory.iterdir():
            if folder.name not in keep:
                self.forget(folder.name)

    async def close(self) -> None:
        for box in [*self._proxies, *self._walls]:
            await self.shut(box)
