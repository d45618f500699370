"""Where everything of one Bastide lies. Owns the layout of the data directory; everything in it is for its owner only."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bastide.domain.errors import Unavailable

# A Unix socket's path holds at most 107 bytes; engines' sockets have names of 25.
SOCKETS_PATH_MAX = 70


@dataclass(frozen=True, slots=True)
class Places:
    """`data`: the data directory, absolute."""

    data: Path

    @property
    def database(self) -> Path:
        return self.data / "bastide.db"

    @property
    def secrets_key(self) -> Path:
        return self.data / "secrets.key"

    @property
    def admin_key(self) -> Path:
        return self.data / "admin.key"

    @property
    def lock(self) -> Path:
        return self.data / "lock"

    @property
    def running(self) -> Path:
        """What runs now: URL and process identifiers, for the command line and for the next start."""
        return self.data / "running.json"

    @property
    def journals(self) -> Path:
        return self.data / "journals"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def weights(self) -> Path:
        return self.data / "weights"

    @property
    def assignments(self) -> Path:
        return self.data / "assignments"

    @property
    def sockets(self) -> Path:
        """In the data directory where its path is short enough, else in the temporary directory."""
        inside = self.data / "sockets"
        return inside if len(str(inside)) <= SOCKETS_PATH_MAX else Path(tempfile.gettempdir()) / self.private_name

    @property
    def memory_state(self) -> str:
        """Where prompt caches of sleeping instances are kept: in memory, never on a disk. Empty: nowhere."""
        shared = Path("/dev/shm")
        return str(shared / self.private_name) if os.access(shared, os.W_OK) else ""

    @property
    def isolation(self) -> Path:
        """Bundles, filters and what self-tests found."""
        return self.data / "isolation"

    @property
    def sandboxes(self) -> Path:
        """Records of sandboxes, and their snapshots."""
        return self.data / "sandboxes"

    @property
    def templates(self) -> Path:
        """An operator's own templates of sandboxes: each a directory that is `/` inside."""
        return self.data / "templates"

    @property
    def sandboxes_http(self) -> str:
        return str(self.sockets / "sandboxes")

    @property
    def sandboxes_doors(self) -> str:
        return str(self.sockets / "doors")

    @property
    def boxes_keeper_socket(self) -> str:
        return str(self.sockets / "boxes")

    @property
    def egress(self) -> Path:
        """Below it, the directories where boxes' egress proxies listen."""
        return self.sockets / "e"

    @property
    def private_name(self) -> str:
        """Names this data directory on the whole machine."""
        return f"bastide-{os.getuid()}-{hashlib.sha256(str(self.data).encode()).hexdigest()[:12]}"

    @property
    def agent_socket(self) -> str:
        return str(self.sockets / "agent")

    @property
    def control_socket(self) -> str:
        return str(self.sockets / "control")

    @property
    def control_http(self) -> str:
        return str(self.sockets / "api")

    @property
    def keeper_socket(self) -> str:
        return str(self.sockets / "keeper")

    @property
    def door(self) -> Path:
        """A directory of its own, for boxes see all of it: the socket `gateway` in it leads to the gateway."""
        return self.sockets / "door"

    @property
    def builds(self) -> Path:
        return self.data / "builds"

    @property
    def volumes(self) -> Path:
        return self.data / "volumes"

    @property
    def routes(self) -> Path:
        return self.data / "routes.json"

    def make(self) -> None:
        """Every directory, mode 0700. Raises Unavailable where one can't be made or is not ours."""
        kept = (self.data, self.journals, self.logs, self.weights, self.assignments, self.sockets)
        folders = [*kept, Path(self.memory_state)] if self.memory_state else [*kept]
        for folder in folders:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = folder.lstat()
                if status.st_uid != os.getuid():
                    raise Unavailable(f"{folder} belongs to somebody else; choose another directory with --data")
                if folder != self.data and status.st_mode & 0o077:
                    folder.chmod(0o700)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(13, "not writable")
            except OSError as error:
                raise Unavailable(
                    f"the directory {folder} can't be used: {error.strerror or error}; choose another with --data"
                ) from None


def default_data() -> Path:
    """BASTIDE_DATA, or ~/.bastide."""
    return Path(os.environ.get("BASTIDE_DATA") or Path.home() / ".bastide").absolute()
