"""What of CRIU's images and caches is made by us: whose user namespace they speak of, and what CRIU knows of this kernel.

Standard library only, loaded by path. Never guesses: images that are not as they are known to be are refused.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x4000 | 0x40000
FACTS_AT = "/run/criu.kdat"
USER_NAMESPACE_FIELD = 10  # of a task_kobj_ids_entry
ROOT_IDS_FIELD = 3  # of an inventory_entry
LIBC = ctypes.CDLL(None, use_errno=True)


def write(directory: int, name: str, data: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=directory)
    with open(file, "wb") as opened:
        opened.write(data)


def _read(directory: int, name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as opened:
        return opened.read()


def as_guest(image: int, root: int) -> None:
    """Say in the images that CRIU and the processes were in the same user namespace: it is in theirs when it brings them back.

    Else it would make one of its own, in which the box's other namespaces are a stranger's. Changes one number in
    `inventory.img` (images/inventory.proto of CRIU 4; after four bytes that name the format and four of length).
    """
    ids = dict(_fields(_payload(_read(image, f"ids-{root}.img"), 12)))
    inventory = _read(image, "inventory.img")
    changed = b""
    for key, value in _fields(_payload(inventory, 8)):
        if key == ROOT_IDS_FIELD << 3 | 2 and isinstance(value, bytes):
            users = USER_NAMESPACE_FIELD << 3
            value = b"".join(_field(one, ids[users] if one == users else old) for one, old in _fields(value))
        changed += _field(key, value)
    write(image, "inventory.img", inventory[:4] + struct.pack("<I", len(changed)) + changed)


def _payload(image: bytes, at: int) -> bytes:
    (length,) = struct.unpack_from("<I", image, at - 4)
    if len(image) != at + length:
        raise OSError("CRIU's images are not as they are known to be")
    return image[at:]


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """(key, value) of each field: protocol buffers' numbers and pieces."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        value: int | bytes
        if key & 7 == 0:
            value, at = _number(message, at)
        elif key & 7 == 2:
            length, at = _number(message, at)
            value, at = message[at : at + length], at + length
        else:
            width = {1: 8, 5: 4}[key & 7]
            value, at = message[at : at + width], at + width
        found.append((key, value))
    return found


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if not message[at - 1] & 128:
            return value, at


def _varint(value: int) -> bytes:
    written = b""
    while value > 127:
        written += bytes([value & 127 | 128])
        value >>= 7
    return written + bytes([value])


def _field(key: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(key) + _varint(value)
    return _varint(key) + (_varint(len(value)) if key & 7 == 2 else b"") + value


def _done(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def facts(command: list[str], at: str) -> int:
    """Have CRIU find out what this kernel can, once, and keep it at `at`: inside a box it could not. Its status."""
    _done(LIBC.unshare(CLONE_NEWNS), "no mount namespace")
    _done(LIBC.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None), "mounts can't be made private")
    _done(LIBC.mount(b"tmpfs", b"/run", b"tmpfs", ctypes.c_ulong(0), b"mode=0755"), "no directory in memory")
    pid = os.fork()
    if pid == 0:
        os.execve(command[0], [*command, "check"], {"PATH": "/usr/sbin:/usr/bin", "HOME": "/"})
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        with open(FACTS_AT, "rb") as found, open(f"{at}.part", "wb") as file:
            file.write(found.read())
        os.chmod(f"{at}.part", 0o644)
        os.replace(f"{at}.part", at)
    return status


if __name__ == "__main__":
    import sys

    sys.exit(facts(sys.argv[2:], sys.argv[1]))
