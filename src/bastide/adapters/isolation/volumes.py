"""Directories that outlive a box. One with a size is a file system in a file of that size: the only bound that holds.

The file is sparse, and takes what is in it. Where loop devices can't be used, a size is refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from bastide.adapters.runtime import boxstart
from bastide.domain.errors import Conflict, NoRoom, Unavailable, Unsupported
from bastide.domain.instances import Owned
from bastide.domain.units import format_bytes
from bastide.engines.app import VOLUME_SUFFIX

PROGRAM_S_MAX = 120.0
BYTES_MIN = 8 * 2**20
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def make(owned: Owned, user: int | None) -> None:
    """Have the volume there, as it was declared, for `user`. Raises what is in the way, plainly."""
    directory, file = Path(owned.path), Path(owned.path + VOLUME_SUFFIX)
    if owned.bytes_max is None:
        if file.exists():
            raise Conflict(
                f"the volume {directory.name!r} was made with a size, and has none now; give it one ({format_bytes(file.stat().st_size)} or more)"
            )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user is not None:
            _give(directory, user)
        return
    if directory.exists():
        raise Conflict(
            f"the volume {directory.name!r} was made without a size, so none can be enforced; leave `size` out, or take another name"
        )
    if file.exists():
        _grow(file, owned.bytes_max)
        return
    refused = sizes_refused()
    if refused is not None:
        raise Unsupported(refused)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_suffix(f".part-{os.getpid()}")
    try:
        _make_file(part, owned.bytes_max)
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)


TRY = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("boxstart", sys.argv[1])
module = module_from_spec(spec)
spec.loader.exec_module(module)
module.stage([sys.argv[2]], [0], None)
"""


@cache
def sizes_refused() -> str | None:
    """Why a volume's size can't be enforced here; None: it can. Tried once, for real."""
    if os.getuid() != 0:
        return "a volume's size is enforced by a file system of its own, which takes root here; leave `size` out"
    if shutil.which("mkfs.ext4", path=PATH) is None:
        return "a volume's size needs mkfs.ext4, which is not on this machine: apt-get install e2fsprogs"
    with tempfile.TemporaryDirectory(prefix="bastide-volume-") as folder:
        file = Path(folder) / "try"
        try:
            _make_file(file, BYTES_MIN)
        except (OSError, Unavailable) as error:
            return f"a file system can't be made here: {error}"
        tried = subprocess.run(
            [sys.executable, "-I", "-S", "-c", TRY, boxstart.__file__, str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
    if tried.returncode != 0:
        why = (tried.stderr.strip().splitlines() or ["?"])[-1][-200:]
        return f"a volume's size is enforced by a loop device, and none can be mounted here ({why}); leave `size` out"
    return None


def _make_file(file: Path, size: int) -> None:
    try:
        with open(file, "xb") as made:
            made.truncate(max(size, BYTES_MIN))
    except OSError as error:
        raise NoRoom(
            f"the disk takes no volume of {format_bytes(size)}: {error.strerror}; say a smaller size"
        ) from None
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(file))


def _grow(file: Path, size: int) -> None:
    """It never becomes smaller: a deploy that asks for that is refused, a rollback to a smaller size keeps what there is."""
    if size <= file.stat().st_size:
        return
    os.truncate(file, size)  # its file system grows when it is mounted next


def _run(name: str, *arguments: str) -> None:
    program = shutil.which(name, path=PATH)
    if program is None:
        raise Unsupported(f"a volume's size needs {name}, which is not on this machine: apt-get install e2fsprogs")
    ran = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_S_MAX,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode != 0:
        said = (ran.stderr or ran.stdout).strip()[-300:]
        if "space" in said.lower():
            raise NoRoom(f"there is no room on the disk for the volume: {said}")
        raise Unavailable(f"{name} failed on a volume: {said}")


def _give(directory: Path, user: int) -> None:
    """A volume and all in it are the service's own user's."""
    if directory.lstat().st_uid == user:
        return
    for base, folders, files in os.walk(directory):
        for name in (*folders, *files):
            os.lchown(os.path.join(base, name), user, user)
    os.chown(directory, user, user)
