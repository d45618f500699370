"""Processes of a box written to a directory by CRIU: steps in forks; boxback.py brings them back. Standard library only, loaded by path.

CRIU runs as a guest in namespaces that bubblewrap made, the same ones at both ends: it never makes a wall, so none can
be made weaker. To save it has the host's root's rights, for only these may read a system-call filter; to bring back it has
none but those over the box's own user namespace. It must never meet anything there that the box can write and that it, or
its loader, would believe: the caller sees to that.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import signal
import stat
from collections.abc import Callable
from typing import Any

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
ROOT_INSIDE = 2  # the process that a box consists of, as the box numbers it: the first after bubblewrap's own
SPACES = ("mnt", "ipc", "uts", "net", "cgroup")
NOTES, SCRATCH = "box.json", "scratch.tar"
COMMON = (
    "--no-default-config", "--manage-cgroups=ignore", "--tcp-close", "-v1",
)  # fmt: skip
LIBC = ctypes.CDLL(None, use_errno=True)


def neighbour(name: str) -> Any:
    """A module beside this one, by its path."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked(do: Callable[[], None]) -> int:
    """A child that does this and ends; its number."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            do()
            code = 0
        except BaseException as error:
            with contextlib.suppress(BaseException):
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return pid


def make_users(user: int, inside_user: int, nobody: int) -> int:
    """A descriptor of a user namespace that `user` owns: 0 is `nobody` there, `inside_user` is `user`; no other can be made in it.

    CRIU needs a root in there to act as; nothing in a box can become it, for boxes have no capability and gain none.
    """
    made_read, made_write = os.pipe()
    mapped_read, mapped_write = os.pipe()

    def live() -> None:
        os.close(mapped_write)
        become(user)
        check(LIBC.unshare(CLONE_NEWUSER), "no user namespace")
        os.write(made_write, b"m")
        os.read(mapped_read, 1)
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        os.write(made_write, b"m")
        os.read(mapped_read, 1)

    pid = forked(live)
    os.close(made_write)
    try:
        if os.read(made_read, 1) != b"m":
            raise OSError("a user namespace can't be made")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{kind}", "w") as file:
                file.write(f"0 {nobody} 1\n{inside_user} {user} 1\n")
        os.write(mapped_write, b"m")
        if os.read(made_read, 1) != b"m":
            raise OSError("a user namespace can't be kept from having others in it")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        for end in (made_read, mapped_read, mapped_write):  # the last lets it go on
            os.close(end)
        status_of(pid)


class Tools:
    """CRIU by descriptors, so that it can be run where no path leads to it."""

    def __init__(self, criu: dict[str, Any], image: str) -> None:
        self.image = os.open(image, os.O_RDONLY | os.O_DIRECTORY)
        self._loader = os.open(criu["loader"], os.O_PATH)
        self._program = os.open(criu["program"], os.O_PATH)
        self._libraries = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in criu["libraries"]]

    @property
    def descriptors(self) -> list[int]:
        return [self.image, self._loader, self._program, *self._libraries]

    def run(self, words: tuple[str, ...], *, nothing: int, said: int, also: int | None = None) -> None:
        """Become it. `nothing` and `said`: its input and output; `also`: one more descriptor that it gets by its number."""
        os.dup2(nothing, 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        for descriptor in (*self.descriptors, *(() if also is None else (also,))):
            os.set_inheritable(descriptor, True)
        libraries = ":".join(f"/proc/self/fd/{descriptor}" for descriptor in self._libraries)
        image = f"/proc/self/fd/{self.image}"
        # Modules are looked for among the images, where there are none: never where the box could have laid some.
        argv = [
            "criu", "--library-path", libraries, f"/proc/self/fd/{self._program}", *words, *COMMON,
            "--images-dir", image, "--libdir", image,
        ]  # fmt: skip
        os.chdir("/")
        os.execve(f"/proc/self/fd/{self._loader}", argv, {"PATH": "/usr/sbin:/usr/bin", "HOME": "/"})


def spaces_of(pid: int, kinds: tuple[str, ...]) -> list[int]:
    return [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]


def enter(spaces: list[int]) -> None:
    for space in spaces:
        check(LIBC.setns(space, 0), "a namespace can't be entered")


def leave_parent(kept: tuple[int, ...]) -> None:
    """Everything of our parent's is let go of, but what goes to 0, 1 and 2."""
    signal.set_wakeup_fd(-1)
    for handled in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(handled, signal.SIG_DFL)
    high = [fcntl.fcntl(number, fcntl.F_DUPFD, 512) for number in kept]
    for low, number in enumerate(high):
        os.dup2(number, low)
    os.closerange(len(high), 1 << 16)


def save(order: dict[str, Any], said: int) -> None:
    """In a fork: write a box whole, and leave its processes stopped; where it can't be, they go on. Never returns."""
    code = 70
    try:
        import tarfile  # while the host's files can be seen

        images = neighbour("criuimages")
        leave_parent((os.open(os.devnull, os.O_RDONLY), said, said))
        inside = int(order["inside"])
        tools = Tools(order["criu"], order["image"])
        notes = {"said": os.readlink(f"/proc/{inside}/fd/1")}
        spaces = spaces_of(inside, ("pid", *SPACES))
        enter(spaces)
        _last_of_all()  # raises where they can't be kept
        user = int(order["user"])

        def dump() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # Its real user is the box's: whoever may not raise limits may read them of their own processes alone.
            os.setresgid(user, 0, 0)
            os.setresuid(user, 0, 0)
            words = ("dump", "--tree", str(ROOT_INSIDE), "--leave-stopped", "--network-lock", "skip")
            tools.run(words, nothing=0, said=2)

        code = status_of(forked(dump))
        if code == 0:
            code = 70
            try:
                notes["last"] = str(_last_of_all())  # now that nobody begins another
                code = _scratch_kept(tarfile, tools.image, user, order["scratch"], int(order["scratch_bytes_max"]))
                if code == 0:
                    images.write(tools.image, NOTES, json.dumps(notes).encode())
                    images.as_guest(tools.image, ROOT_INSIDE)
            finally:
                if code != 0:
                    status_of(forked(lambda: os.kill(-1, signal.SIGCONT)))  # all of the box, for that is where it is
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _last_of_all() -> int:
    """In a box's mount namespace: the highest number of a process or thread there. Raises OSError where one is no part of the tree."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    threads: list[int] = []
    for number in numbers:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            threads += map(int, os.listdir(f"/proc/{number}/task"))
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{number}/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[1] == b"1" and number != ROOT_INSIDE:
                raise OSError("one of its processes belongs to nobody, and can't be saved with the others")
    return max([*numbers, *threads])


def _scratch_kept(tarfile: Any, image: int, user: int, places: list[str], bytes_max: int) -> int:
    """What directories in memory hold goes into one archive, read with no more rights than the box's own user has."""
    archive = os.open(SCRATCH, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=image)

    def pack() -> None:
        become(user)
        left = bytes_max
        with open(archive, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for place in places:
                device = os.lstat(place).st_dev
                for folder, folders, files in os.walk(place, onerror=_raise):
                    folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == device]
                    for path in (os.path.join(folder, name) for name in (*folders, *files)):
                        about = os.lstat(path)
                        if stat.S_ISSOCK(about.st_mode) or about.st_dev != device:
                            continue  # CRIU makes sockets anew; what is mounted there is there again
                        left -= about.st_size if stat.S_ISREG(about.st_mode) else 0
                        if left < 0:
                            raise OSError("the files in its directories in memory are larger than these")
                        tar.add(path, recursive=False)

    return status_of(forked(pack))


def _raise(error: OSError) -> None:
    raise error


if __name__ == "__main__":  # for self-tests
    import sys

    save(json.loads(sys.argv[1]), os.dup(1))
