"""Saved sandboxes on disk. A snapshot counts once its record is there; anything else in its folder is cleared away."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from bastide.domain.errors import NotFound
from bastide.domain.sandboxes import SandboxSpec, Snapshot
from bastide.ports.clock import Clock
from bastide.sandboxes.records import Records


class Snapshots:
    def __init__(self, records: Records, clock: Clock) -> None:
        self._records, self._clock = records, clock
        self._known: dict[str, Snapshot] = {}

    def recover(self, in_use: set[str]) -> None:
        """`in_use`: images that paused sandboxes lie in."""
        self._known = {snapshot.snapshot: snapshot for snapshot in self._records.snapshots(in_use)}

    def all(self, project: str | None) -> tuple[Snapshot, ...]:
        return tuple(s for s in self._known.values() if project is None or s.project == project)

    def of(self, project: str | None, identity: str) -> Snapshot:
        snapshot = self._known.get(identity)
        if snapshot is None or (project is not None and snapshot.project != project):
            raise NotFound(f"there is no snapshot {identity!r}")
        return snapshot

    def lay_aside(self, saved: str) -> str:
        """Keep what was saved, without a record of its own: a paused sandbox's record points to it. Blocks."""
        identity = f"im-{secrets.token_hex(8)}"
        self._records.take_image(identity, Path(saved))
        return identity

    def make(self, project: str, name: str, spec: SandboxSpec, saved: str, environment: str) -> Snapshot:
        """Durable when it returns. Blocks."""
        identity = f"sn-{secrets.token_hex(8)}"
        image = self._records.take_image(identity, Path(saved))
        digest, size = _digest(image)
        snapshot = Snapshot(identity, project, name, spec, self._clock.now_s(), size, digest, environment)
        self._records.keep_snapshot(snapshot)
        self._known[identity] = snapshot
        return snapshot

    def remove(self, identity: str) -> None:
        self._records.remove_snapshot(identity)
        self.forget(identity)

    def forget(self, identity: str) -> None:
        self._known.pop(identity, None)

    def drop(self, image: str) -> None:
        """An image that no sandbox lies in any more; a snapshot of its own stays."""
        if image not in self._known:
            self._records.remove_snapshot(image)


def _digest(image: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for file in sorted(image.iterdir()):
        digest.update(file.name.encode() + b"\0")
        size += os.stat(file).st_size
        with open(file, "rb") as opened:
            while data := opened.read(1 << 20):
                digest.update(data)
    return digest.hexdigest(), size
