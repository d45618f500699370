"""Backups: one tar file with the store, the key of its secrets and a manifest of checksums. Weights are not in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path

from bastide import __version__
from bastide.domain.errors import Conflict, InvalidRequest
from bastide.ports.store import Store

DATABASE, SECRETS_KEY, ADMIN_KEY, MANIFEST = "bastide.db", "secrets.key", "admin.key", "manifest.json"
MEMBERS = (DATABASE, SECRETS_KEY, ADMIN_KEY)


def write_backup(store: Store, data_directory: str, path: str) -> None:
    """Write it while others write to the store. Raises Unavailable where the disk is full."""
    with tempfile.TemporaryDirectory(dir=data_directory) as folder:
        copy = str(Path(folder) / DATABASE)
        store.backup_to(copy)
        sources = {DATABASE: copy} | {
            name: str(Path(data_directory) / name)
            for name in (SECRETS_KEY, ADMIN_KEY)
            if (Path(data_directory) / name).exists()
        }
        sums = {name: _digest(source) for name, source in sources.items()}
        manifest = json.dumps({"bastide": __version__, "made_at_s": int(time.time()), "sha256": sums}).encode()
        with tarfile.open(path, "w") as tar:
            entry = tarfile.TarInfo(MANIFEST)
            entry.size, entry.mode = len(manifest), 0o600
            tar.addfile(entry, io.BytesIO(manifest))
            for name, source in sources.items():
                tar.add(source, name, filter=_private)
    os.chmod(path, 0o600)


def restore_backup(path: str, data_directory: str) -> dict[str, object]:
    """Lay a backup out in an empty data directory. Returns its manifest.

    Raises Conflict where there is data already, InvalidRequest where the file is no whole backup.
    """
    target = Path(data_directory)
    if (target / DATABASE).exists():
        raise Conflict(f"{data_directory} holds a Bastide already; restore into an empty directory with --data")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    laid: list[Path] = []
    try:
        with tarfile.open(path) as tar:
            member = tar.extractfile(MANIFEST)
            if member is None:
                raise KeyError(MANIFEST)
            manifest: dict[str, object] = json.loads(member.read(2**20))
            sums = manifest["sha256"]
            assert isinstance(sums, dict)
            for name in MEMBERS:
                if name not in sums:
                    continue
                source = tar.extractfile(name)
                if source is None:
                    raise KeyError(name)
                fresh = target / f"{name}.restoring"
                descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                laid.append(fresh)
                with os.fdopen(descriptor, "wb") as file:
                    while chunk := source.read(2**20):
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                if _digest(str(fresh)) != sums[name]:
                    raise InvalidRequest(f"{path} is damaged: {name} does not have the checksum in its manifest")
        for fresh in laid:
            fresh.rename(target / fresh.name.removesuffix(".restoring"))
        return manifest
    except (tarfile.TarError, KeyError, ValueError, AssertionError, EOFError):
        raise InvalidRequest(f"{path} is no Bastide backup, or not a whole one") from None
    finally:
        for fresh in laid:
            fresh.unlink(missing_ok=True)


def _private(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o600, 0, 0, "", ""
    return entry


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
