"""What is remembered of sandboxes and snapshots: one file each, whole or not there, so that a kill at any line loses nothing.

Owns DATA/sandboxes. A record that returned from `keep` survives a power cut; environments in it are sealed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from bastide.domain.sandboxes import Sandbox, Snapshot


class Records:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._sandboxes, self._snapshots = directory / "records", directory / "snapshots"
        self._writing = threading.Lock()
        for folder in (self._sandboxes, self._snapshots):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def sandboxes(self) -> tuple[Sandbox, ...]:
        """All of them; a file that can't be read is set aside, not lost."""
        found = []
        for file in sorted(self._sandboxes.glob("*.json")):
            try:
                found.append(msgspec.json.decode(file.read_bytes(), type=Sandbox))
            except (OSError, msgspec.MsgspecError):
                file.rename(file.with_suffix(".damaged"))
        return tuple(found)

    def keep(self, identity: str, newest: Callable[[], Sandbox | None], *, durable: bool = True) -> None:
        """Write what `newest` gives at that moment, so that of two writers none puts an older one back; None: nothing.

        `durable`: it survives a power cut; else a kill of this process only.
        """
        with self._writing:
            sandbox = newest()
            if sandbox is not None:
                _write(self._sandboxes / f"{identity}.json", msgspec.json.encode(sandbox), durable)

    def forget(self, sandbox: str) -> None:
        with self._writing, contextlib.suppress(FileNotFoundError):
            os.unlink(self._sandboxes / f"{sandbox}.json")

    def snapshots(self, in_use: set[str]) -> tuple[Snapshot, ...]:
        """Whole ones; what a kill left half made is removed. `in_use`: images without a record that are needed."""
        found = []
        for folder in sorted(self._snapshots.iterdir()):
            about = folder / "snapshot.json"
            if about.exists():
                found.append(msgspec.json.decode(about.read_bytes(), type=Snapshot))
            elif folder.name not in in_use:
                shutil.rmtree(folder, ignore_errors=True)
        return tuple(found)

    def image(self, snapshot: str) -> Path:
        """Where the saved state of a snapshot lies."""
        return self._snapshots / snapshot / "image"

    def take_image(self, snapshot: str, saved: Path) -> Path:
        """Move the files of a saved image to their place, on disk when it returns. The directory they came from stays."""
        target = self.image(snapshot)
        target.mkdir(parents=True)
        target.chmod(0o755)  # below a directory that is ours alone, shown to the box that is brought back
        for file in saved.iterdir():
            kept = target / file.name
            shutil.move(str(file), str(kept))
            with open(kept, "rb") as opened:
                os.fchmod(opened.fileno(), 0o644)
                os.fsync(opened.fileno())
        folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        return target

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        _write(self._snapshots / snapshot.snapshot / "snapshot.json", msgspec.json.encode(snapshot), True)

    def remove_snapshot(self, snapshot: str) -> None:
        about = self._snapshots / snapshot / "snapshot.json"
        about.unlink(missing_ok=True)  # first: what is half removed is no snapshot
        shutil.rmtree(self._snapshots / snapshot, ignore_errors=True)


def _write(path: Path, data: bytes, durable: bool) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
