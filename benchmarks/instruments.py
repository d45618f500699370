"""What measures: a raw streaming client, the kernel's counts of time and memory, zram for the light rung.

Standard library only and no thread, so that the measuring side costs as little as it can on a small machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ANSWER_S_MAX = 300.0
ZRAM = Path("/sys/block/zram0")
ZRAM_SIZE = "24G"  # of pages before they are packed: it holds what it is given, and no more


@dataclass(frozen=True, slots=True)
class Answer:
    """Times in seconds from the moment the request was written. `rung`: what a gateway says it woke from."""

    first_s: float
    last_s: float
    output_tokens: int
    rung: str


class Stream:
    """A connection to a server: (host, port), or the path of a Unix socket. One request at a time.

    Kept as long as the server keeps it; connecting anew is never counted in an answer's time.
    """

    def __init__(self, address: tuple[str, int] | str, key: str) -> None:
        self._address, self._key = address, key
        self._connect()

    def _connect(self) -> None:
        if isinstance(self._address, str):
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            self.socket = socket.socket()
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(ANSWER_S_MAX)
        self.socket.connect(self._address)

    def revive(self) -> None:
        """Connect anew where the server has closed the line. An engine's own socket: always, it closes idle ones."""
        if isinstance(self._address, str) or select.select([self.socket], [], [], 0)[0]:
            self.socket.close()
            self._connect()

    def close(self) -> None:
        self.socket.close()

    def begin(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> None:
        data = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._seen, self._first_s = bytearray(), 0.0
        self._began_s = time.perf_counter()
        self.socket.sendall(head.encode() + data)

    def read(self) -> Answer | None:
        """Take what is there; the answer once it is whole. Raises RuntimeError where it is an error."""
        data = self.socket.recv(65536)
        now_s = time.perf_counter()
        # What ends an answer may be cut in two by the read.
        since = max(0, len(self._seen) - 8)
        self._seen += data
        if not self._first_s and b"\ndata: " in self._seen:
            self._first_s = now_s - self._began_s
        if data and self._seen.find(b"\r\n0\r\n\r\n", since) < 0 and b" 200 " in self._seen[:16]:
            return None
        head, _, body = bytes(self._seen).partition(b"\r\n\r\n")
        if b" 200 " not in head[:16] or b'data: {"error"' in body or not self._first_s:
            raise RuntimeError(f"not an answer: {bytes(self._seen[:600])!r}")
        rung = next((line[15:].strip() for line in head.split(b"\r\n") if line.startswith(b"x-bastide-wake:")), b"")
        return Answer(self._first_s, now_s - self._began_s, _output_tokens(body), rung.decode())

    def ask(self, body: dict[str, Any]) -> Answer:
        self.revive()
        self.begin(body)
        while (answer := self.read()) is None:
            pass
        return answer


def all_at_once(streams: list[Stream], body: dict[str, Any]) -> tuple[float, list[Answer]]:
    """The same request on every stream at once. Seconds until the last one ended, and the answers."""
    for stream in streams:
        stream.revive()
    poll = select.poll()
    waiting = {stream.socket.fileno(): stream for stream in streams}
    for number in waiting:
        poll.register(number, select.POLLIN)
    began_s = time.perf_counter()
    for stream in streams:
        stream.begin(body)
    answers = []
    while waiting:
        for number, _ in poll.poll(ANSWER_S_MAX * 1000):
            answer = waiting[number].read()
            if answer is not None:
                answers.append(answer)
                poll.unregister(number)
                del waiting[number]
    return time.perf_counter() - began_s, answers


def _output_tokens(body: bytes) -> int:
    place = body.rfind(b'"completion_tokens":')
    if place < 0:
        return 0
    digits = body[place + 20 : place + 32].strip()
    return int(digits[: next((i for i, c in enumerate(digits) if not 48 <= c <= 57), len(digits))])


# --- processes -------------------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """Processor time of one process and its ended children, as /proc/PID/stat has it (hundredths of a second)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[i]) for i in (11, 12)) / TICKS_PER_S


def exact_cpu_s(pid: int) -> float:
    """The same of its threads, by the scheduler's own clock (nanoseconds); threads that ended are not in it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def switches(pid: int) -> int:
    """How often its threads gave the core up to wait for something: each is one wake-up."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
    return total


def memory(pid: int) -> dict[str, int]:
    """`rss_bytes`, `pss_bytes` and `swap_bytes` (its share of what is swapped) of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
    return {"rss_bytes": found["Rss"], "pss_bytes": found["Pss"], "swap_bytes": found.get("SwapPss", 0)}


# --- zram ------------------------------------------------------------------------------------------------------------


def zram_used_bytes() -> int:
    """Memory that zram itself holds now; 0 where there is none."""
    try:
        return int((ZRAM / "mm_stat").read_text().split()[2])
    except (OSError, IndexError):
        return 0


@contextlib.contextmanager
def zram(wanted: bool) -> Iterator[bool]:
    """Swap in zram0 while it lasts, where wanted; undone at the end, also when interrupted. Says whether there is any."""
    if not wanted:
        yield any("zram" in line for line in Path("/proc/swaps").read_text().splitlines())
        return
    if "/dev/zram0" in Path("/proc/swaps").read_text():
        raise SystemExit("zram0 is in use already; leave --zram out")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: (_ for _ in ()).throw(SystemExit(130)))
    try:
        (ZRAM / "disksize").write_text(ZRAM_SIZE)
        subprocess.run(["mkswap", "/dev/zram0"], check=True, capture_output=True)
        subprocess.run(["swapon", "-p", "100", "/dev/zram0"], check=True)
        yield True
    finally:
        subprocess.run(["swapoff", "/dev/zram0"], check=False)
        (ZRAM / "reset").write_text("1")
