"""How a forked process becomes a box, or enters one: plain steps in order, each fatal. Standard library only, loaded by path.

Runs in the fork of a single-threaded parent. It must never leave a descriptor of that parent open, nor go on after a
step that failed: what can't be enforced does not start.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import stat
from typing import Any

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 0x40000, 0x2, 0x4
STAGE = "/tmp"  # hidden under an empty directory of our own, in a mount namespace of our own
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
OOM_SCORE = "600"  # boxes go before engines when memory runs out
FIRST_LISTENER = 3
LIBC = ctypes.CDLL(None, use_errno=True)


def _fatal(what: str) -> None:
    error = ctypes.get_errno()
    raise OSError(error, f"{what}: {os.strerror(error)}")


def listen(path: str) -> int:
    """A listening Unix socket at a host path, for its owner only; inherited by the box."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener.detach()


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [word.encode() if word is not None else None for word in (source, target, kind)]
    if LIBC.mount(*encoded, ctypes.c_ulong(flags), options.encode() if options is not None else None) != 0:
        _fatal(f"{source} can't be shown at {target}")


def stage(paths: list[str], images: list[int], user: int | None) -> list[str]:
    """Every place below one directory that a user without rights can reach; returns their paths.

    A box's user can not walk through our private directories, and needs not: what it is to see is mounted here, in a
    mount namespace that goes with the box. `images`: indexes of those that are files with a file system, which is shown,
    and belongs to `user`.
    """
    if LIBC.unshare(CLONE_NEWNS) != 0:
        _fatal("no mount namespace")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    opened = [os.open(path, os.O_PATH) for path in paths]  # some may lie below what is hidden next
    loops = neighbour("loopmount") if images else None
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=256k")
    places = []
    for index, descriptor in enumerate(opened):
        place = f"{STAGE}/{index}"
        if loops is not None and index in images:
            os.mkdir(place, 0o755)
            loops.mount_file(f"/proc/{os.getpid()}/fd/{descriptor}", place, mount_image, user)
            places.append(place)
            continue
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.mkdir(place, 0o755)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        mount(f"/proc/self/fd/{descriptor}", place, None, MS_BIND | MS_REC)
        places.append(place)
    return places


def mount_image(device: str, place: str) -> None:
    mount(device, place, "ext4", MS_NOSUID | MS_NODEV)


def neighbour(name: str) -> Any:
    """A module beside this one, by its path."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def become_box(box: dict[str, Any], said: int, parent: int, given: dict[str, int] | None = None) -> None:
    """Never returns. `said`: where its own words and those of its tools go (a pipe); `parent`: who must still live.

    `given`: descriptors for its program, by the words that stand for them in `argv`; `stdin` is one of them.
    """
    given = dict(given or {})
    if box.get("restore"):
        neighbour("boxback").bring_back(box, said, parent, become_box)
    try:
        signal.set_wakeup_fd(-1)
        for handled in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(handled, signal.SIG_DFL)
        os.setsid()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
        for path in box["group_files"]:
            with open(path, "w") as file:
                file.write("0")
        listeners = [listen(path) for path in box["listens"]]
        read = [os.open(path, os.O_RDONLY) for path in box["read"]]
        program = os.open(box["program"], os.O_PATH)
        if box["network_namespace"]:
            namespace = os.open(box["network_namespace"], os.O_RDONLY)
            if LIBC.setns(namespace, CLONE_NEWNET) != 0:
                _fatal("its network namespace can't be entered")
        nothing = given.pop("stdin", None)
        if box.get("nobody") is not None:
            # What it has of the host's could not be brought back: no device, but a pipe that nobody writes to.
            given["users"] = neighbour("boxcriu").make_users(box["user"], box["inside_user"], box["nobody"])
            if nothing is None:
                nothing, other = os.pipe()
                os.close(other)
        elif nothing is None:
            nothing = os.open(os.devnull, os.O_RDONLY)
        places = list(box["opened"])
        if box["user"] is not None:
            places = stage(places, box["images"], box["user"])
        elif box["images"]:
            raise PermissionError("a file system in a file can be mounted by root alone")
        # All that is kept goes to known low numbers, above a gap that nothing occupies; then the rest is closed.
        kept = [nothing, said, said, *listeners, *read, *given.values(), program]
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, 512) for number in kept]
        for low, number in enumerate(high):
            os.dup2(number, low)  # the copies are inherited across exec
        os.closerange(len(high), 1 << 16)
        names = {f"{{at:{index}}}": place for index, place in enumerate(places)}
        names |= {f"{{read:{index}}}": str(FIRST_LISTENER + len(listeners) + index) for index in range(len(read))}
        first_given = FIRST_LISTENER + len(listeners) + len(read)
        names |= {f"{{{name}}}": str(first_given + index) for index, name in enumerate(given)}
        program = len(high) - 1
        os.set_inheritable(program, False)
        argv = [names.get(argument, argument) for argument in box["argv"]]
        soft = min(box["open_files_max"], resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o022)
        if box["user"] is not None:
            os.setgroups([])
            os.setresgid(box["user"], box["user"], box["user"])
            os.setresuid(box["user"], box["user"], box["user"])
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: a change of user forgets it
        if os.getppid() != parent:
            os._exit(70)
        os.chdir("/")
        environment = {name: names.get(value, value) for name, value in box["environment"]}
        os.execve(f"/proc/self/fd/{program}", argv, environment)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(said, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(70)


def enter_box(inside: int, user: int | None, argv: list[str], said: int) -> None:
    """In a fork: run a program in the namespaces of the process `inside`, and end with its status. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, 512) for number in (nothing, said, said)]
        for low, number in enumerate(high):
            os.dup2(number, low)
        os.closerange(len(high), 1 << 16)
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        # The user namespace first: it gives the right to enter the others.
        kinds = ("user", "ipc", "uts", "pid", "mnt")  # not its network: what enters needs none, and may not
        for namespace in [os.open(f"/proc/{inside}/ns/{kind}", os.O_RDONLY) for kind in kinds]:
            if LIBC.setns(namespace, 0) != 0:
                _fatal(f"a namespace of process {inside} can't be entered")
            os.close(namespace)
        pid = os.fork()  # only a child is in the new process namespace
        if pid == 0:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.chdir("/")
            os.execve(argv[0], argv, {"PATH": "/", "HOME": "/tmp"})
        _, status = os.waitpid(pid, 0)
        os._exit(min(255, abs(os.waitstatus_to_exitcode(status))))
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(70)


if __name__ == "__main__":  # one box, in the foreground: for self-tests
    import json
    import sys

    become_box(json.loads(sys.argv[1]), os.dup(1), os.getppid())
