"""The journal's contract, on the files and on the fake alike; then what only files must withstand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bastide.adapters.journal.file import FileJournalReader, FileJournalWriter
from bastide.adapters.journal.memory import MemoryJournals
from bastide.domain.ledger import Account, InstanceTime, Outcome, Progress, Reservation, Settlement, Tokens
from bastide.domain.spec import Price
from bastide.ports.journal import JournalEvent, JournalReader, JournalWriter

Open = Callable[[str], JournalWriter]


@pytest.fixture(params=["file", "memory"])
def journals(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Open, JournalReader]:
    if request.param == "memory":
        memory = MemoryJournals()
        return memory.writer, memory
    return (lambda name: FileJournalWriter(tmp_path, name)), FileJournalReader(tmp_path)


def events(number: int) -> list[JournalEvent]:
    name = f"e{number}"
    return [
        Reservation(name, 1.5, "p", "s", "m", "k", "p.s.1.0", Price(1, 2, 3, 4), 99, Account.USER),
        Progress(name, Tokens(5, 1, 2)),
        Settlement(
            name, 2.5, "p", "s", "m", "k", "i", Tokens(5, 1, 9), 77, Outcome.CUT, Account.SYSTEM, None, 0.25
        ),
        InstanceTime(f"t{number}", 3.5, "p", "s", "i", "awake", 60.0, 5),
    ]  # fmt: skip


def test_what_is_appended_is_read_back_in_order(journals: tuple[Open, JournalReader]) -> None:
    open_journal, reader = journals
    writer = open_journal("a")
    written = events(1) + events(2)
    for event in written:
        writer.append(event)
    assert [event for _, event in reader.read("a", 0)] == written


def test_reading_goes_on_from_any_position(journals: tuple[Open, JournalReader]) -> None:
    open_journal, reader = journals
    writer = open_journal("a")
    for event in events(1):
        writer.append(event)
    seen = list(reader.read("a", 0))
    for index, (position, _) in enumerate(seen):
        assert list(reader.read("a", position)) == seen[index + 1 :]
    writer.append(events(2)[0])
    assert [event for _, event in reader.read("a", seen[-1][0])] == [events(2)[0]]


def test_a_journal_is_live_while_its_writer_is_open(journals: tuple[Open, JournalReader]) -> None:
    open_journal, reader = journals
    writer = open_journal("a")
    assert reader.is_live("a")
    with pytest.raises(OSError):
        reader.remove("a")
    writer.close()
    assert not reader.is_live("a")
    reader.remove("a")
    assert reader.journals() == ()
    assert list(reader.read("a", 0)) == []


def test_a_name_has_one_writer(journals: tuple[Open, JournalReader]) -> None:
    open_journal, _ = journals
    open_journal("a")
    with pytest.raises(OSError):
        open_journal("a")


def test_journals_are_listed_oldest_first(journals: tuple[Open, JournalReader]) -> None:
    open_journal, reader = journals
    open_journal("b")
    open_journal("a")
    assert reader.journals() == ("b", "a")


def test_trimming_keeps_what_follows_and_its_positions(journals: tuple[Open, JournalReader]) -> None:
    open_journal, reader = journals
    writer = open_journal("a")
    for event in events(1):
        writer.append(event)
    seen = list(reader.read("a", 0))
    reader.trim("a", seen[1][0])
    assert list(reader.read("a", seen[1][0])) == seen[2:]


def test_a_closed_writer_refuses(journals: tuple[Open, JournalReader]) -> None:
    writer = journals[0]("a")
    writer.close()
    with pytest.raises(OSError):
        writer.append(events(1)[0])


# Files alone


def test_segments_are_bounded_and_dropped_once_trimmed(tmp_path: Path) -> None:
    writer = FileJournalWriter(tmp_path, "a", segment_bytes_max=1000)
    reader = FileJournalReader(tmp_path)
    for number in range(50):
        for event in events(number):
            writer.append(event)
    writer.sync()
    segments = sorted(tmp_path.glob("*.log"))
    assert len(segments) > 10 and all(path.stat().st_size <= 1000 for path in segments)
    seen = list(reader.read("a", 0))
    assert len(seen) == 200
    reader.trim("a", seen[149][0])
    assert len(list(tmp_path.glob("*.log"))) < len(segments) / 2
    assert list(reader.read("a", seen[149][0])) == seen[150:]


def test_a_torn_last_line_is_left_for_later(tmp_path: Path) -> None:
    writer = FileJournalWriter(tmp_path, "a")
    for event in events(1):
        writer.append(event)
    writer.close()
    path = next(tmp_path.glob("*.log"))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        read = [event for _, event in FileJournalReader(tmp_path).read("a", 0)]
        assert read == events(1)[: whole[:cut].count(b"\n")]


def test_a_full_disk_is_an_error_and_nothing_is_torn(tmp_path: Path) -> None:
    import resource

    writer = FileJournalWriter(tmp_path, "a")
    writer.append(events(1)[0])
    size = next(tmp_path.glob("*.log")).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        for _ in range(3):
            with pytest.raises(OSError):
                writer.append(events(2)[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    writer.append(events(3)[0])
    assert [event for _, event in FileJournalReader(tmp_path).read("a", 0)] == [events(1)[0], events(3)[0]]


def test_every_append_that_returned_survives_kill_nine(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from bastide.adapters.journal.file import FileJournalWriter\n"
        "from bastide.domain.ledger import Progress, Tokens\n"
        "writer = FileJournalWriter(sys.argv[1], 'a', 4000)\n"
        "for number in range(10**9):\n"
        "    writer.append(Progress(str(number), Tokens(number, 0, 0)))\n"
        "    print(number, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(300):
        last = child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    last = ([line for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")] or [last])[-1]
    child.wait()
    reader = FileJournalReader(tmp_path)
    read = [event for _, event in reader.read("a", 0)]
    assert len(read) >= int(last) + 1
    assert [event.event_id for event in read if isinstance(event, Progress)] == [str(n) for n in range(len(read))]
    assert not reader.is_live("a")
