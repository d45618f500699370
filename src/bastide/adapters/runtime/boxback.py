"""Processes that boxcriu.py has saved, brought back into a fresh box as our own children. Standard library only, loaded by path.

The fresh box is made like every other; CRIU enters it with no rights but those over its user namespace. Nothing here may
leave anything behind: whatever goes wrong ends us, and with us all of the box.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import select
import signal
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
READY = b"ready\n"
# The first process of a fresh box: it waits for as long as we live. What others leave behind is the agent's to bury.
HOLDER = "echo ready; read x"
LIBC = ctypes.CDLL(None, use_errno=True)


def _beside(name: str) -> Any:
    """A module beside this one, by its path."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


steps = _beside("boxcriu")


def bring_back(box: dict[str, Any], said: int, parent: int, become_box: Callable[..., None]) -> None:
    """In a fork: start a fresh box, bring the processes back into it as our own children, and end as they do. Never returns.

    Whatever goes wrong ends all of it: who waits in the fresh box ends with us, and so does every process that came back.
    """
    code = 70
    try:
        steps.leave_parent((os.open(os.devnull, os.O_RDONLY), said, said))
        os.setsid()
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(70)
        for path in box["group_files"]:
            with open(path, "w") as file:
                file.write("0")
        tools = steps.Tools(box["restore"]["criu"], box["restore"]["image"])
        notes = json.loads(_all(os.open(steps.NOTES, os.O_RDONLY, dir_fd=tools.image)))
        scratch = _unpacker(tools.image, box["user"])
        room, inside = _room(box, become_box)
        spaces = steps.spaces_of(inside, (*steps.SPACES, "user"))
        (numbers,) = steps.spaces_of(inside, ("pid",))
        if scratch is not None:
            os.write(scratch[1], str(inside).encode())
            os.close(scratch[1])
            if steps.status_of(scratch[0]) != 0:
                raise OSError("what its directories in memory held can't be laid there again")
        os.fchown(1, box["nobody"], box["nobody"])  # it is opened anew by who is root in there, and nobody here
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        steps.check(LIBC.setns(numbers, 0), "its process namespace can't be entered")  # for children from now on
        if steps.status_of(steps.forked(lambda: _count_from(int(notes["last"])))) != 0:
            raise OSError("its processes can't have the numbers that they had")
        heard, hears = os.pipe2(os.O_CLOEXEC)

        def restore() -> None:
            os.setsid()
            os.setgroups([])
            steps.enter(spaces)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # Its output goes where ours goes, whatever that is by now; what CRIU itself says goes to us.
            words = ("restore", "--unprivileged", "--restore-detached", "--restore-sibling")
            output = os.dup(1)
            tools.run((*words, "--inherit-fd", f"fd[{output}]:{notes['said']}"), nothing=0, said=hears, also=output)

        criu = steps.forked(restore)
        steps.check(LIBC.setns(own, 0), "our own process namespace can't be entered again")
        os.close(hears)
        words = _until_it_ends(criu, heard)
        if steps.status_of(criu) != 0:
            raise OSError("its processes can't be brought back: " + words.decode(errors="replace")[-2000:])
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


def _until_it_ends(pid: int, heard: int) -> bytes:
    """What a child says. Not until nobody can say more: processes that it was bringing back could too, and wait for it for ever where it was killed."""
    ended = os.pidfd_open(pid)
    os.set_blocking(heard, False)
    waits = select.poll()
    waits.register(ended, select.POLLIN)
    waits.register(heard, select.POLLIN)
    said, over = b"", False
    while not over:
        over = any(source == ended for source, _ in waits.poll())
        with contextlib.suppress(BlockingIOError, KeyError):
            while more := os.read(heard, 65536):
                said += more
            waits.unregister(heard)
    os.close(heard)
    os.close(ended)
    return said


def _unpacker(image: int, user: int) -> tuple[int, int] | None:
    """Who lays again what directories in memory held, and where to tell it the process inside; None: they held nothing.

    It does so with no more rights than the box's own user has, and gets ready while the box is made.
    """
    archive = os.open(steps.SCRATCH, os.O_RDONLY | os.O_CLOEXEC, dir_fd=image)
    if os.pread(archive, 1, 0) in (b"", b"\0"):  # an archive of nothing
        return None
    told_read, told_write = os.pipe2(os.O_CLOEXEC)

    def unpack() -> None:
        import tarfile

        os.close(told_write)
        told = _all(told_read)
        if not told:
            return
        steps.enter(steps.spaces_of(int(told), ("mnt",)))
        steps.become(user)
        with open(archive, "rb") as file, tarfile.open(fileobj=file) as tar:
            tar.extraction_filter = staticmethod(lambda member, path: member)  # its own user laid all of it there
            tar.extractall("/")

    pid = steps.forked(unpack)
    os.close(told_read)
    return pid, told_write


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
