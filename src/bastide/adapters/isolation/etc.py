"""The /etc that a box sees: made by us, plus what of the host's is the same everywhere and holds no secret.

One directory, so that showing it is one mount: a box that starts cold would wait for sixteen. What is of the host is a
copy, made anew where the host's has changed; boxes that run keep what they were started with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

USER = 1000
HOME = "/home/user"
# Of the host: certificates, the linker's cache, Debian's alternatives, the time zone, media types.
FROM_HOST = (
    "/etc/ssl/certs", "/etc/ca-certificates", "/etc/pki", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/protocols", "/etc/services",
)  # fmt: skip
FILES = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nuser:x:{USER}:{USER}:user:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": f"root:x:0:\nuser:x:{USER}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost box\n::1 localhost\n",
    "resolv.conf": "# No resolver: names are resolved by the egress proxy, where egress is allowed at all.\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "hostname": "box\n",
}
WALLED = {
    "resolv.conf": "nameserver 127.0.0.53\noptions timeout:2 attempts:2\n"
}  # behind a wall that answers for names


def make(directory: Path, walled: bool) -> Path:
    """The directory to show as /etc, below `directory`; written where it is not there yet. `walled`: behind such a wall."""
    files = {**FILES, **WALLED} if walled else FILES
    made = directory / _signature(files)
    if not made.exists():
        directory.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".", dir=directory))  # another thread may be making it this moment
        _write(part, files)
        for path in (directory, part):
            path.chmod(0o755)
        try:
            part.rename(made)
        except OSError:  # somebody else was quicker
            shutil.rmtree(part, ignore_errors=True)
            if not made.exists():
                raise
    return made


def _signature(files: dict[str, str]) -> str:
    """Differs where what is shown does: our files by content, the host's by when they changed."""
    found = hashlib.sha256(repr(sorted(files.items())).encode())
    for name in FROM_HOST:
        with contextlib.suppress(OSError):
            status = os.stat(name)
            found.update(f"{name} {status.st_ino} {status.st_mtime_ns} {status.st_size};".encode())
    return found.hexdigest()[:16]


def _write(directory: Path, files: dict[str, str]) -> None:
    for name in FROM_HOST:
        source, target = Path(name), directory / name.removeprefix("/etc/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True)
        elif source.exists():
            shutil.copyfile(source, target)
    for name, text in files.items():
        (directory / name).write_text(text)
    for base, folders, names in os.walk(directory):
        for path in (os.path.join(base, name) for name in (*folders, *names)):
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.path.isdir(path) else 0o644)


def shown(directory: Path, targets: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """(what, where) to show: all of it at once, or its entries one by one where something is to be laid among them."""
    if not any(target.startswith("/etc/") for target in targets):
        yield directory, "/etc"
        return
    for entry in sorted(directory.iterdir()):
        yield entry, f"/etc/{entry.name}"
