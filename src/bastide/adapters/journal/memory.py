"""The journal in memory: the fake the contract suite holds to the same promises as the files."""

from __future__ import annotations

from collections.abc import Iterator

from bastide.adapters.journal.codec import decode_line, encode_line
from bastide.ports.journal import JournalEvent, JournalReader, JournalWriter


class MemoryJournals(JournalReader):
    """Every journal of one process. Positions count events."""

    def __init__(self) -> None:
        self._lines: dict[str, list[bytes]] = {}
        self._trimmed: dict[str, int] = {}
        self._live: set[str] = set()
        self.full = False  # set by a test: the disk has no room

    def writer(self, journal: str) -> MemoryJournalWriter:
        if journal in self._live:
            raise OSError(f"journal {journal!r} already has a writer")
        self._lines.setdefault(journal, [])
        self._live.add(journal)
        return MemoryJournalWriter(self, journal)

    def journals(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def read(self, journal: str, position: int) -> Iterator[tuple[int, JournalEvent]]:
        trimmed = self._trimmed.get(journal, 0)
        lines = self._lines.get(journal, [])
        for index in range(max(position, trimmed), trimmed + len(lines)):
            event = decode_line(lines[index - trimmed])
            if event is not None:
                yield index + 1, event

    def end(self, journal: str) -> None:
        """As when its writer was killed."""
        self._live.discard(journal)

    def is_live(self, journal: str) -> bool:
        return journal in self._live

    def trim(self, journal: str, position: int) -> None:
        drop = max(0, min(position - self._trimmed.get(journal, 0), len(self._lines.get(journal, []))))
        del self._lines[journal][:drop]
        self._trimmed[journal] = self._trimmed.get(journal, 0) + drop

    def remove(self, journal: str) -> None:
        if journal in self._live:
            raise OSError(f"journal {journal!r} still has a writer")
        self._lines.pop(journal, None)
        self._trimmed.pop(journal, None)


class MemoryJournalWriter(JournalWriter):
    def __init__(self, journals: MemoryJournals, journal: str) -> None:
        self._journals, self._journal, self._closed = journals, journal, False

    def append(self, event: JournalEvent) -> None:
        if self._closed or self._journals.full:
            raise OSError(28, "no space left in this journal")
        self._journals._lines[self._journal].append(encode_line(event))

    def sync(self) -> None:
        pass

    def close(self) -> None:
        self._closed = True
        self._journals._live.discard(self._journal)
