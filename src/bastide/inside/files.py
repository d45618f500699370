"""Files inside a box. Paths are the box's own: a link or `..` leads nowhere that a program inside could not go."""

from __future__ import annotations

import os
import select
import stat

from . import wire
from .quick import remove

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

    from .quick import Socket

CHUNK = 1 << 18
LIST_MAX = 100_000


def _path(asked: dict[str, Any], name: str = "path") -> str:
    path = str(asked.get(name, ""))
    if "\0" in path:
        raise ValueError("a path holds no zero byte")
    home = str(asked.get("home", "/"))
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    return os.path.normpath(os.path.join(home, path)) if path else home


def _about(path: str, name: str, status: os.stat_result) -> dict[str, Any]:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    about: dict[str, Any] = {
        "name": name,
        "path": path,
        "kind": kinds.get(stat.S_IFMT(status.st_mode), "other"),
        "size_bytes": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "modified_s": status.st_mtime,
    }
    if about["kind"] == "link":
        about["target"] = os.readlink(path)
    return about


def on_stat(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    path = _path(asked)
    wire.send_json(line, wire.ANSWER, _about(path, os.path.basename(path) or "/", os.lstat(path)))


def on_list(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    path, depth = _path(asked), int(asked.get("depth", 1))
    found: list[dict[str, Any]] = []
    truncated = False
    queue = [(path, 1)]
    while queue and not truncated:
        directory, level = queue.pop(0)
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                try:
                    about = _about(entry.path, os.path.relpath(entry.path, path), entry.stat(follow_symlinks=False))
                except OSError:
                    continue
                found.append(about)
                if len(found) >= LIST_MAX:
                    truncated = True
                    break
                if about["kind"] == "directory" and level < depth:
                    queue.append((entry.path, level + 1))
    for start in range(0, max(1, len(found)), 500):
        wire.send_json(line, wire.ANSWER, {"entries": found[start : start + 500]})
    wire.send_json(line, wire.END, {"truncated": truncated})


def on_read(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    left = int(asked["length"]) if asked.get("length") is not None else None
    with open(_path(asked), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(f"{_path(asked)} is a directory")
        file.seek(int(asked.get("offset", 0)))
        wire.send_json(line, wire.ANSWER, {"size_bytes": status.st_size, "modified_s": status.st_mtime})
        while left is None or left > 0:
            data = file.read(CHUNK if left is None else min(CHUNK, left))
            if not data:
                break
            if left is not None:
                left -= len(data)
            wire.send(line, wire.DATA, data)
    wire.send(line, wire.END)


def on_write(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    """Whole or not at all: written beside it and put in its place, unless it is to be appended to."""
    path = _path(asked)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a directory")
    append = bool(asked.get("append"))
    part = path if append else f"{path}.bastide-part-{os.getpid()}-{id(reader):x}"
    written = 0
    try:
        with open(part, "ab" if append else "xb") as file:
            while True:
                kind, payload = reader.frame()
                if kind == wire.END:
                    break
                if kind == wire.DATA:
                    file.write(payload)
                    written += len(payload)
            if asked.get("mode") is not None:
                os.fchmod(file.fileno(), int(asked["mode"]) & 0o7777)
            elif not append and os.path.exists(path):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path).st_mode))
        if not append:
            os.replace(part, path)
    except BaseException:
        if not append:
            remove(part)
        raise
    wire.send_json(line, wire.ANSWER, {"path": path, "written_bytes": written})


def on_move(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    source, target = _path(asked), _path(asked, "to")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    import shutil

    shutil.move(source, target)
    wire.send_json(line, wire.ANSWER, {"path": target})


def on_remove(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    path = _path(asked)
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil

        shutil.rmtree(path)
    else:
        os.unlink(path)
    wire.send_json(line, wire.ANSWER, {"path": path})


def on_mkdir(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    path = _path(asked)
    os.makedirs(path, exist_ok=True)
    wire.send_json(line, wire.ANSWER, {"path": path})


class _Frames:
    """A tar's writer or reader over frames."""

    def __init__(self, line: Socket, reader: wire.Reader) -> None:
        self._line, self._reader, self._rest, self._over = line, reader, b"", False

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), CHUNK):
            wire.send(self._line, wire.DATA, data[start : start + CHUNK])
        return len(data)

    def read(self, size: int = -1) -> bytes:
        while not self._over and (size < 0 or len(self._rest) < size):
            kind, payload = self._reader.frame()
            if kind == wire.END:
                self._over = True
            elif kind == wire.DATA:
                self._rest += payload
        if size < 0:
            size = len(self._rest)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def drain(self) -> None:
        while not self._over:
            self._rest = b""
            self.read(1)


def on_download(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    """A file or a whole tree, as a tar."""
    import tarfile

    path = _path(asked)
    os.lstat(path)
    wire.send_json(line, wire.ANSWER, {"name": os.path.basename(path) or "root"})
    frames: Any = _Frames(line, reader)
    with tarfile.open(fileobj=frames, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        tar.add(path, arcname=os.path.basename(path) or "root")
    wire.send(line, wire.END)


def on_upload(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    """A tar, laid below a directory; members that would lead out of it are refused."""
    import tarfile

    path = _path(asked)
    os.makedirs(path, exist_ok=True)
    frames: Any = _Frames(line, reader)
    count = 0
    with tarfile.open(fileobj=frames, mode="r|*") as tar:
        for member in tar:
            tar.extract(member, path, filter="data")
            count += 1
    frames.drain()
    wire.send_json(line, wire.ANSWER, {"path": path, "entries": count})


def on_watch(line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    """What changes in a directory, told as it does, until the host hangs up."""
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    path = _path(asked)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify can't be had")
    kinds = {0x2: "modified", 0x4: "modified", 0x8: "written", 0x40: "removed", 0x80: "created", 0x100: "created", 0x200: "removed"}  # fmt: skip
    mask = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
    watched: dict[int, str] = {}

    def add(directory: str) -> None:
        number = libc.inotify_add_watch(descriptor, os.fsencode(directory), mask)
        if number < 0:
            raise OSError(ctypes.get_errno(), f"{directory} can't be watched")
        watched[number] = directory

    try:
        for directory in [path, *(base for base, _, _ in os.walk(path) if base != path and asked.get("recursive"))]:
            add(directory)
        wire.send_json(line, wire.ANSWER, {"path": path})
        while True:
            ready, _, _ = select.select([descriptor, line], [], [])
            if line in ready:
                reader.more()
            if descriptor not in ready:
                continue
            data = os.read(descriptor, 65536)
            at = 0
            while at < len(data):
                number, bits, _, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode(errors="replace")
                at += 16 + length
                whole = os.path.join(watched.get(number, path), name)
                kind = next((word for bit, word in kinds.items() if bits & bit), None)
                if kind is None:
                    continue
                if asked.get("recursive") and kind == "created" and bits & 0x40000000:
                    add(whole)
                wire.send_json(line, wire.ANSWER, {"kind": kind, "path": whole, "directory": bool(bits & 0x40000000)})
    finally:
        os.close(descriptor)
