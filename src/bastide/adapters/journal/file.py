"""Journals as files: append-only JSON lines, one journal per writer's life, in segments of bounded size.

Owns the directory it is given. A journal NAME is `NAME.lock`, held by its live writer, and `NAME.<offset>.log` files
whose offset is the position of their first byte, so that positions stay true when folded segments are dropped. Each
append is one write(2): once it returns, kill -9 of the writer loses nothing. It never rewrites a line.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bastide.adapters.journal.codec import decode_line, encode_line
from bastide.ports.journal import JournalEvent, JournalReader, JournalWriter

SEGMENT_BYTES_MAX = 16 * 2**20
_LOCK, _LOG = ".lock", ".log"


class FileJournalWriter(JournalWriter):
    """Makes and owns one journal; OSError where its name is taken by a live writer or has been used before."""

    def __init__(self, directory: str | Path, journal: str, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self._directory, self._journal, self._bytes_max = Path(directory), journal, segment_bytes_max
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._take_name()
        self._start = self._end = 0
        self._switching = threading.Lock()  # `sync` may run in a thread while an append opens the next segment
        try:
            self._file = self._open_segment()
        except OSError:
            os.close(self._lock)
            raise
        self._dirty = False
        self._torn = False

    def append(self, event: JournalEvent) -> None:
        if self._lock < 0:
            raise OSError(f"journal {self._journal!r} is closed")
        line = encode_line(event)
        if self._torn:
            line = b"\n" + line  # what came before stays a line of its own, which readers skip
        if self._end - self._start + len(line) > self._bytes_max and self._end > self._start:
            self._next_segment()
        written = os.write(self._file, line)
        if written < len(line):
            self._take_back(written)
            raise OSError(28, "the disk is full: a journal line was written in part and taken back")
        self._end += written
        self._torn = False
        self._dirty = True

    def sync(self) -> None:
        if self._dirty and self._lock >= 0:
            # Cleared before the sync: what is appended while it runs needs the next one.
            self._dirty = False
            with self._switching:
                if self._file >= 0:
                    os.fdatasync(self._file)

    def close(self) -> None:
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                self.sync()
            with self._switching:
                os.close(self._file)
                os.close(self._lock)
                self._lock = self._file = -1

    def _take_name(self) -> int:
        # Locked before it has its name: a reader must never see the journal of a live writer unlocked.
        unnamed = self._directory / f".{self._journal}.{os.getpid()}"
        lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A file's own times are too coarse to tell which of two journals came first.
            os.write(lock, str(time.time_ns()).encode())
            os.link(unnamed, self._directory / (self._journal + _LOCK))
        except OSError:
            os.close(lock)
            raise
        finally:
            unnamed.unlink(missing_ok=True)
        return lock

    def _open_segment(self) -> int:
        path = self._directory / f"{self._journal}.{self._start:015d}{_LOG}"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _next_segment(self) -> None:
        with self._switching:
            before, start = self._file, self._start
            self._start = self._end
            try:
                self._file = self._open_segment()
            except OSError:
                self._start = start
                raise
            os.fdatasync(before)
            os.close(before)

    def _take_back(self, written: int) -> None:
        try:
            os.ftruncate(self._file, self._end - self._start)
        except OSError:
            self._end += written
            self._torn = True


class FileJournalReader(JournalReader):
    """Reads every journal under a directory. Positions are bytes since the journal's beginning."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)

    def journals(self) -> tuple[str, ...]:
        found: list[tuple[int, str]] = []
        for path in self._directory.glob("*" + _LOCK):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append((int(path.read_bytes()), path.name[: -len(_LOCK)]))
        return tuple(name for _, name in sorted(found))

    def read(self, journal: str, position: int) -> Iterator[tuple[int, JournalEvent]]:
        for start, path in self._segments(journal):
            try:
                end = start + path.stat().st_size
                if end <= position:
                    continue
                with path.open("rb") as file:
                    at = max(start, position)
                    file.seek(at - start)
                    for line in file:
                        if not line.endswith(b"\n"):
                            return  # torn, or still being written: left for later
                        at += len(line)
                        event = decode_line(line)
                        if event is not None:
                            yield at, event
            except FileNotFoundError:
                continue  # trimmed meanwhile

    def is_live(self, journal: str) -> bool:
        try:
            lock = os.open(self._directory / (journal + _LOCK), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            return False
        finally:
            os.close(lock)

    def trim(self, journal: str, position: int) -> None:
        segments = self._segments(journal)
        for (_, path), (next_start, _) in itertools.pairwise(segments):
            if next_start <= position:
                path.unlink(missing_ok=True)

    def remove(self, journal: str) -> None:
        if self.is_live(journal):
            raise OSError(f"journal {journal!r} still has a writer")
        for _, path in self._segments(journal):
            path.unlink(missing_ok=True)
        # Last: while the lock file is there, an interrupted removal is found and done again.
        (self._directory / (journal + _LOCK)).unlink(missing_ok=True)

    def _segments(self, journal: str) -> list[tuple[int, Path]]:
        found: list[tuple[int, Path]] = []
        for path in self._directory.glob(f"{journal}.*{_LOG}"):
            offset = path.name[len(journal) + 1 : -len(_LOG)]
            if offset.isdigit():
                found.append((int(offset), path))
        return sorted(found)
