"""Processes of a box written to a directory by CRIU, and brought back into a fresh box: steps in forks. Standard library only, loaded by path.

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
READY = b"ready\n"
# Waits in a fresh box while processes are brought back into it, then buries what they leave behind. It ends with us.
HOLDER = "echo ready; read x || exit; sleep 2147483647 & wait"
COMMON = (
    "--no-default-config", "--manage-cgroups=ignore", "--tcp-close", "-v1",
)  # fmt: skip
LIBC = ctypes.CDLL(None, use_errno=True)


def _neighbour(name: str) -> Any:
    """A module beside this one, by its path."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _forked(do: Callable[[], None]) -> int:
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
        _become(user)
        _check(LIBC.unshare(CLONE_NEWUSER), "no user namespace")
        os.write(made_write, b"m")
        os.read(mapped_read, 1)
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        os.write(made_write, b"m")
        os.read(mapped_read, 1)

    pid = _forked(live)
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
        _status(pid)


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


def _spaces(pid: int, kinds: tuple[str, ...]) -> list[int]:
    return [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]


def _enter(spaces: list[int]) -> None:
    for space in spaces:
        _check(LIBC.setns(space, 0), "a namespace can't be entered")


def _low(kept: tuple[int, ...]) -> None:
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

        images = _neighbour("criuimages")
        _low((os.open(os.devnull, os.O_RDONLY), said, said))
        inside = int(order["inside"])
        tools = Tools(order["criu"], order["image"])
        notes = {"said": os.readlink(f"/proc/{inside}/fd/1")}
        spaces = _spaces(inside, ("pid", *SPACES))
        _enter(spaces)
        notes["last"] = str(max(int(name) for name in os.listdir("/proc") if name.isdigit()))
        user = int(order["user"])

        def dump() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # Its real user is the box's: whoever may not raise limits may read them of their own processes alone.
            os.setresgid(user, 0, 0)
            os.setresuid(user, 0, 0)
            words = ("dump", "--tree", str(ROOT_INSIDE), "--leave-stopped", "--network-lock", "skip")
            tools.run(words, nothing=0, said=2)

        code = _status(_forked(dump))
        if code == 0:
            code = 70
            try:
                code = _scratch_kept(tarfile, tools.image, user, order["scratch"], int(order["scratch_bytes_max"]))
                if code == 0:
                    images.write(tools.image, NOTES, json.dumps(notes).encode())
                    images.as_guest(tools.image, ROOT_INSIDE)
            finally:
                if code != 0:
                    _status(_forked(lambda: os.kill(-1, signal.SIGCONT)))  # all of the box, for that is where it is
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _scratch_kept(tarfile: Any, image: int, user: int, places: list[str], bytes_max: int) -> int:
    """What directories in memory hold goes into one archive, read with no more rights than the box's own user has."""
    archive = os.open(SCRATCH, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=image)

    def pack() -> None:
        _become(user)
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

    return _status(_forked(pack))


def _raise(error: OSError) -> None:
    raise error


# --- bringing back -----------------------------------------------------------------------------------------------------


def bring_back(box: dict[str, Any], said: int, parent: int, become_box: Callable[..., None]) -> None:
    """In a fork: start a fresh box, bring the processes back into it as our own children, and end as they do. Never returns.

    Whatever goes wrong ends all of it: who waits in the fresh box ends with us, and so does every process that came back.
    """
    code = 70
    try:
        _low((os.open(os.devnull, os.O_RDONLY), said, said))
        os.setsid()
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(70)
        for path in box["group_files"]:
            with open(path, "w") as file:
                file.write("0")
        tools = Tools(box["restore"]["criu"], box["restore"]["image"])
        notes = json.loads(_all(os.open(NOTES, os.O_RDONLY, dir_fd=tools.image)))
        room, inside = _room(box, become_box)
        spaces = _spaces(inside, (*SPACES, "user"))
        (users,) = _spaces(inside, ("pid",))
        _unpacked(tools.image, box["user"], spaces[0])
        os.fchown(1, box["nobody"], box["nobody"])  # it is opened anew by who is root in there, and nobody here
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        _check(LIBC.setns(users, 0), "its process namespace can't be entered")  # for children from now on
        if _status(_forked(lambda: _count_from(int(notes["last"])))) != 0:
            raise OSError("its processes can't have the numbers that they had")
        heard, hears = os.pipe2(os.O_CLOEXEC)

        def restore() -> None:
            os.setsid()
            os.setgroups([])
            _enter(spaces)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # Its output goes where ours goes, whatever that is by now; what CRIU itself says goes to us.
            words = ("restore", "--unprivileged", "--restore-detached", "--restore-sibling")
            output = os.dup(1)
            tools.run((*words, "--inherit-fd", f"fd[{output}]:{notes['said']}"), nothing=0, said=hears, also=output)

        criu = _forked(restore)
        _check(LIBC.setns(own, 0), "our own process namespace can't be entered again")
        os.close(hears)
        words = _all(heard)
        if _status(criu) != 0:
            raise OSError("its processes can't be brought back: " + words.decode(errors="replace")[-2000:])
        os.write(room[1], b"\n")
        del tools
        _let_go(said=(1, 2), kept=(room[1],))
        ended = 0
        while ended in (0, criu):
            ended, status = os.wait()
        code = 70 if ended == room[0] else os.waitstatus_to_exitcode(status)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _room(box: dict[str, Any], become_box: Callable[..., None]) -> tuple[tuple[int, int], int]:
    """A fresh box in which nothing but a shell waits: ((its process, what holds it), its first process inside)."""
    hold_read, hold_write = os.pipe2(os.O_CLOEXEC)
    told_read, told_write = os.pipe2(os.O_CLOEXEC)
    said_read, said_write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        become_box({**box, "restore": None}, said_write, parent, {"stdin": hold_read, "info": told_write})
    for end in (hold_read, told_write, said_write):
        os.close(end)
    said = b""
    while not said.endswith(READY):
        more = os.read(said_read, 4096)
        if not more:
            raise OSError(f"a fresh box can't be made: {said.decode(errors='replace')[-1000:]}")
        said += more
    os.close(said_read)
    told = b""
    while not told.endswith((b"}", b"}\n")):
        told += os.read(told_read, 4096) or b"}"
    inside = int(json.loads(told)["child-pid"])
    return (pid, hold_write), inside


def _all(source: int) -> bytes:
    """Everything until its end."""
    with open(source, "rb") as file:
        return file.read()


def _unpacked(image: int, user: int, space: int) -> None:
    """Directories in memory hold again what they held; laid there with no more rights than the box's own user has."""
    archive = os.open(SCRATCH, os.O_RDONLY, dir_fd=image)
    if os.pread(archive, 1, 0) in (b"", b"\0"):  # an archive of nothing
        return
    import tarfile

    def unpack() -> None:
        _enter([space])
        _become(user)
        with open(archive, "rb") as file, tarfile.open(fileobj=file) as tar:
            tar.extraction_filter = staticmethod(lambda member, path: member)  # its own user laid all of it there
            tar.extractall("/")

    if _status(_forked(unpack)) != 0:
        raise OSError("what its directories in memory held can't be laid there again")


def _count_from(last: int) -> None:
    """In the box: the next process gets a number that none of those to come back has."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(last + 1))


def _let_go(said: tuple[int, ...], kept: tuple[int, ...]) -> None:
    """Of everything else: what is left of us only waits."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, *said, *kept):
            with contextlib.suppress(OSError):
                os.close(int(name))


if __name__ == "__main__":  # for self-tests
    import sys

    save(json.loads(sys.argv[1]), os.dup(1))
