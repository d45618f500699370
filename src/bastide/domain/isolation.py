"""What an isolated process tree is: its tier, what it sees, what it may use. Pure nouns; adapters/isolation make them true.

A tier is a promise. It is proven by a self-test before it is offered, and an instance that asks for one that does not
hold is refused, never lowered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Tier(StrEnum):
    """How far an instance is kept from its host, weakest first."""

    PROCESS = "process"  # for engines we ship: promises nothing
    NAMESPACE = "namespace"  # kernel namespaces, seccomp, no capabilities: the host's kernel is shared
    GVISOR = "gvisor"  # a kernel of its own in user space: the host's kernel is behind it
    MICROVM = "microvm"  # a machine of its own


@dataclass(frozen=True, slots=True)
class Mount:
    """A host directory or file shown inside. Read-only unless `writable`. `image`: a file whose file system is shown."""

    source: str
    target: str
    writable: bool = False
    image: bool = False


@dataclass(frozen=True, slots=True)
class Scratch:
    """An empty writable directory inside, in memory, that holds at most `bytes_max` and goes with the box."""

    target: str
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the whole tree may use; None: no limit was asked for. A limit that can't be enforced here is refused.

    `memory_bytes` counts what scratch directories hold too. `cpu`: cores. `processes`: threads count as well.
    """

    memory_bytes: int | None = None
    cpu: float | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """One isolated process tree on a node.

    `name`: unique on the node, 1 to 40 of `a-z0-9-`. `arguments`: the program inside and its arguments. `environment`:
    all of it, nothing is inherited; it never shows in a process list. `root`: a host directory that is `/` inside,
    read-only; empty: the host's own /usr. `listens`: names of sockets inside (see ports.isolation.Isolation.address):
    the program finds the one of index N on file descriptor 3 + N where `BASTIDE_LISTEN_FDS` says how many there are, or
    binds it itself below `BASTIDE_LISTEN_DIRECTORY`. `egress_directory`: the host directory where the box's egress proxy listens on the socket
    `proxy`, shown inside at /run/bastide/egress; empty: nothing leaves. `network_namespace`: the path of one to live in,
    made by egress/wall.py; empty: one of its own, with nothing but loopback. `owner`: boxes of one owner run as the same user,
    for they share files; empty: a user of its own.
    """

    name: str
    tier: Tier
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    directory: str = "/"
    root: str = ""
    mounts: tuple[Mount, ...] = ()
    scratch: tuple[Scratch, ...] = ()
    limits: Limits = field(default_factory=Limits)
    listens: tuple[str, ...] = ()
    egress_directory: str = ""
    network_namespace: str = ""
    hostname: str = "box"
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Criu:
    """A CRIU that can be run from inside any mount namespace: by its own loader, with its own directories of libraries.

    `facts`: the file of what it found out of this kernel; boxes show it where CRIU looks for it.
    """

    program: str
    loader: str
    libraries: tuple[str, ...]
    facts: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Processes to bring back from the directory `image`, with what `scratch` directories held."""

    criu: Criu
    image: str


@dataclass(frozen=True, slots=True)
class Save:
    """The tree of the process `inside` (host's number), owned by `user`, to be written to the directory `image`.

    `scratch`: directories inside, in memory, whose content goes with it, at most `scratch_bytes_max` of it.
    """

    criu: Criu
    inside: int
    user: int
    image: str
    scratch: tuple[str, ...]
    scratch_bytes_max: int


@dataclass(frozen=True, slots=True)
class BoxLaunch:
    """How the keeper starts a box: plain steps in a fork, in this order, each fatal when it fails.

    The process joins the groups of `group_files`; sockets of `listens` (host paths) are bound and inherited from
    descriptor 3 on; `opened` places are put where the box's user can reach them (`{at:N}` in `argv` and in `environment`
    becomes the path of the Nth; of those whose index is in `images`, the file system in the file is shown); `read` files are opened (`{read:N}` becomes the descriptor of the Nth); it enters the
    network namespace at `network_namespace`; it becomes `user` (None: stays who it is); then `program` runs as `argv`
    with `environment` and nothing else of ours. `nobody`: not None where the user namespace is made for it, and given as the
    descriptor `{users}`: number 0 inside is this number of the host's, which owns nothing, and `inside_user` is `user`; it then
    has no standard input of the host's. `restore`: its processes are brought back into it, and `argv` is what waits there for them.
    """

    program: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    opened: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    read: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    group_files: tuple[str, ...] = ()
    network_namespace: str = ""
    user: int | None = None
    open_files_max: int = 4096
    nobody: int | None = None
    inside_user: int = 0
    restore: Restore | None = None


@dataclass(frozen=True, slots=True)
class SaveCommand:
    """A program to run in the namespaces of the process `inside`, as `user` (None: who we are); or what CRIU is to `save`."""

    inside: int
    user: int | None
    argv: tuple[str, ...]
    save: Save | None = None


@dataclass(frozen=True, slots=True)
class TierReport:
    """What a self-test found. `limits`: which of memory, cpu, processes can be enforced. `mend`: what would make it hold.

    `pauses_not`: why it holds but can't save processes, where it could; `pauses_mend`: what would let it.
    """

    tier: Tier
    holds: bool
    detail: str
    version: str = ""
    mend: str = ""
    limits: frozenset[str] = frozenset()
    pauses: bool = False  # processes and memory can be saved and brought back
    pauses_not: str = ""
    pauses_mend: str = ""
