"""Mounting a file that holds a file system, in a box's own mount namespace. Standard library only, loaded by path.

A file is never behind two loop devices at once: two kernels' worth of caches over one file would destroy it. Whoever comes
second mounts the first one's device again. A device frees itself when its last mount is gone, whatever ended that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Callable

LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LOOP_GET_STATUS64, LOOP_SET_CAPACITY = 0x4C82, 0x4C0A, 0x4C05, 0x4C07
EXT4_IOC_RESIZE_FS = 0x40086610
LO_FLAGS_AUTOCLEAR = 4
# struct loop_info64: device, inode, rdevice, offset, size limit (64 bits each), number, encryption, key size, flags (32 each)...
INFO = struct.Struct("=5Q4I64s64s32s2Q")
CONFIG_HEAD, CONFIG_TAIL = struct.Struct("=2I"), 64
SUPERBLOCK = 1024  # where ext4's begins, and how long it is
PATH = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
TRIES = 32


def mount_file(path: str, place: str, mount: Callable[[str, str], None], user: int | None) -> None:
    """Mount the file system in the file `path` at `place`, by `mount(device, place)`; all in it belongs to `user` then."""
    image = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(image, fcntl.LOCK_EX)
        status = os.fstat(image)
        small = _lacks(path, status.st_size)
        for _ in range(TRIES):
            shared = _device_of(status)
            if small and shared is None:
                _grow_unused(path)
                small = False
            loop = shared or _new_device(image)
            try:
                mount(f"/dev/{loop}", place)
                break
            except OSError as error:
                if error.errno not in (errno.ENXIO, errno.EINVAL, errno.EBUSY, errno.EIO):
                    raise
                last = error  # the device freed itself just before
        else:
            raise last
        if small:
            _grow_used(loop, place, status.st_size)
    finally:
        fcntl.flock(image, fcntl.LOCK_UN)  # by word: the loop device holds the file open as well
        os.close(image)
    if user is not None:
        _give(place, user)


def _device_of(status: os.stat_result) -> str | None:
    """The loop device that already stands for a file."""
    for name in os.listdir("/sys/block"):
        if name.startswith("loop") and os.path.exists(f"/sys/block/{name}/loop/backing_file"):
            with contextlib.suppress(OSError):
                device = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    info = INFO.unpack(fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(INFO.size)))
                finally:
                    os.close(device)
                if (info[0], info[1]) == (status.st_dev, status.st_ino):
                    return name
    return None


def _new_device(image: int) -> str:
    """A loop device for an open file. It frees itself when nobody has it open or mounted: mount it at once."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(TRIES):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            info = INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, b"", b"", b"", 0, 0)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, CONFIG_HEAD.pack(image, 0) + info + bytes(CONFIG_TAIL))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else took it
                    raise
                continue
            _KEPT.append(device)  # open until the mount has it; this process ends or becomes another then
            return f"loop{number}"
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free")


_KEPT: list[int] = []


def _lacks(path: str, size: int) -> bool:
    """Whether the file has grown since its file system was made."""
    with open(path, "rb") as file:
        file.seek(SUPERBLOCK)
        block = file.read(SUPERBLOCK)
    (low,), (exponent,), (high,) = (struct.unpack_from("<I", block, at) for at in (4, 24, 336))
    blocks: int = low + (high << 32)
    return bool(blocks < size // (1024 << exponent))


def _grow_unused(path: str) -> None:
    """Nobody has it mounted."""
    for argv in (["e2fsck", "-f", "-p", path], ["resize2fs", path]):
        program = next(there for folder in PATH if os.path.exists(there := os.path.join(folder, argv[0])))
        pid = os.posix_spawn(program, argv, {}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status not in (0, 1):  # 1: what was wrong is mended
            raise OSError(errno.EIO, f"{argv[0]} failed on a volume, with status {status}")


def _grow_used(loop: str, place: str, size: int) -> None:
    """It is mounted elsewhere too. Where that takes a right that we lack, it grows when it is mounted alone next."""
    device = os.open(f"/dev/{loop}", os.O_RDWR | os.O_CLOEXEC)
    mounted = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, LOOP_SET_CAPACITY)
        with contextlib.suppress(PermissionError):
            fcntl.ioctl(mounted, EXT4_IOC_RESIZE_FS, struct.pack("=Q", size // os.fstatvfs(mounted).f_bsize))
    finally:
        os.close(device)
        os.close(mounted)


def _give(place: str, user: int) -> None:
    if os.lstat(place).st_uid == user:
        return
    with contextlib.suppress(OSError):  # empty, and in the way of programs that want an empty directory
        os.rmdir(os.path.join(place, "lost+found"))
    for base, folders, files in os.walk(place):
        for name in (*folders, *files):
            os.lchown(os.path.join(base, name), user, user)
    os.chown(place, user, user)
