"""CRIU, by which the namespace tier keeps processes over a deep sleep: where it is, how it is run, and which boxes it may be let near.

It is root's alone and never required. It runs with the host's rights where a box's files are all there is, so a box that
can write anything which CRIU, its loader or its libraries would believe is not kept.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bastide.adapters.runtime import criuimages, proc
from bastide.domain.isolation import Box, Criu

VERSION_MIN = 4
FACTS_S_MAX = 20.0
# Below these programs look for what they are made of or set up by.
BELIEVED = frozenset(
    {"etc", "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "proc", "sys", "dev", "run", "root"}
)
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True, slots=True)
class Found:
    """`lacks`: why CRIU can't be used here; empty: it may be tried. `mend`: what would help."""

    program: str = ""
    loader: str = ""
    libraries: tuple[str, ...] = ()
    lacks: str = ""
    mend: str = ""

    @property
    def command(self) -> tuple[str, ...]:
        return (self.loader, "--library-path", ":".join(self.libraries), self.program)

    def version(self) -> str:
        said = _output([*self.command, "--version"]) if self.program else ""
        found = re.search(r"Version: (\S+)", said)
        return found[1] if found else ""

    def identity(self) -> str:
        if not self.program:
            return ""
        status = os.stat(self.program)
        return f"{self.program}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def find() -> Found:
    """CRIU_PATH, or beside Bastide's own programs, or from PATH; not proven yet. As another than root: nothing."""
    mend = "bastide doctor --explain criu"
    if os.getuid() != 0:
        return Found(lacks="CRIU needs root", mend=mend)
    beside = os.path.join(os.path.dirname(sys.executable), "criu")
    named = os.environ.get("CRIU_PATH") or (beside if os.access(beside, os.X_OK) else shutil.which("criu"))
    named = named or shutil.which("criu", path="/usr/sbin:/usr/local/sbin")
    if not named or not os.access(named, os.X_OK):
        return Found(lacks="CRIU is not here", mend=mend)
    program = os.path.realpath(named)
    # One with libraries of its own, as scripts/debian-programs lays it: bin/criu leads to lib/criu.
    own = Path(program).parent.parent / "lib" / "criu"
    if (own / "criu").is_file():
        loaders = sorted(own.glob("ld-linux-*.so.*"))
        if not loaders:
            return Found(lacks=f"the CRIU in {own} lacks its loader", mend=mend)
        return _tried(str(own / "criu"), str(loaders[0]), (str(own),), mend)
    loader = _loader(program)
    if not loader:
        return Found(lacks=f"{named} is no program of this machine's own kind but a script, perhaps", mend=mend)
    listed = _output([loader, "--list", program])
    libraries = tuple(dict.fromkeys(os.path.dirname(path) for path in re.findall(r"=> (/\S+)", listed)))
    return _tried(program, loader, libraries, mend)


def _tried(program: str, loader: str, libraries: tuple[str, ...], mend: str) -> Found:
    found = Found(program, loader, libraries)
    version = found.version()
    if not version:
        return Found(lacks=f"{program} does not run", mend=mend)
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < VERSION_MIN:
        return Found(lacks=f"CRIU {version} is too old, {VERSION_MIN} or newer is needed", mend=mend)
    return found


def _loader(program: str) -> str:
    """The loader that an ELF file names; empty where it is none."""
    with open(program, "rb") as file:
        head = file.read(8192)
    named = re.search(rb"\0(/[\w./-]*ld-linux[\w.-]+)\0", head) if head.startswith(b"\x7fELF") else None
    return os.path.realpath(named[1].decode()) if named else ""


def _output(command: list[str]) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=FACTS_S_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout


def prepared(found: Found, directory: Path) -> Criu | str:
    """The same with what it knows of this kernel, found out once a boot; or why it can't be."""
    key = "|".join((found.identity(), proc.boot_id(), platform.release()))
    facts = directory / f"criu-{hashlib.sha256(key.encode()).hexdigest()[:16]}.kdat"
    if not facts.exists():
        for old in directory.glob("criu-*.kdat"):
            old.unlink(missing_ok=True)
        command = [sys.executable, "-I", "-S", criuimages.__file__, str(facts), *found.command]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=FACTS_S_MAX, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"CRIU can't look at this kernel: {error}"
        if ran.returncode != 0 or not facts.exists():
            lines = (ran.stderr or ran.stdout).strip().splitlines()
            return f"CRIU can't work with this kernel: {' | '.join(lines[-2:])[:300]}"
    return Criu(found.program, found.loader, found.libraries, str(facts))


def unkept(box: Box) -> str | None:
    """Why the processes of this box may not be kept by CRIU; None: they may."""
    if box.root:
        return "its root is an image's, which CRIU's own programs would have to trust"
    if box.network_namespace:
        return "it lives behind a wall, whose connections can't be kept"
    for target in (*(scratch.target for scratch in box.scratch), *(m.target for m in box.mounts if m.writable)):
        parts = PurePosixPath(target).parts[1:]
        if target != SHARED_MEMORY and (not parts or parts[0] in BELIEVED or ".." in parts):
            return f"it can write to {target}, where programs look for what they are set up by"
    return None
