"""Processes that outlive the connection that started them, their output kept for whoever comes back."""

from __future__ import annotations

import select
import threading
import time
from collections import deque

from . import exchange, processes, wire

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .quick import Socket

KEPT_BYTES = 1 << 20  # of a background process's output, for whoever attaches later
KEPT_ALL_BYTES = 8 << 20  # of all of them: it counts on the box's memory, of which 64 MiB may be all
PIECE_BYTES = 1 << 12  # what comes in smaller pieces is put together: an object costs more than a letter
ENDED_KEPT = 256  # background processes that are over, with their last output
INPUT_BYTES_MAX = 1 << 16  # that wait for it to be read, beside one frame


class Shelf:
    """What is kept of all of them together: those that are over give way first, the oldest before."""

    def __init__(self, all_of_them: Callable[[], Iterable[Background]]) -> None:
        self._all = all_of_them
        self._fitting = threading.Lock()

    def fit(self) -> None:
        """Called by whoever has kept something, without a lock of theirs."""
        with self._fitting:
            kept = list(self._all())
            over = sum(one.kept_bytes for one in kept) - KEPT_ALL_BYTES
            if over <= 0:
                return
            for one in sorted(kept, key=lambda one: (one.exit is None, one.number if one.exit else -one.kept_bytes)):
                over -= one.give_up(over)
                if over <= 0:
                    return


class Background:
    """One of them. Its newest output is kept, with how much went before."""

    def __init__(self, number: int, asked: dict[str, Any], running: processes.Running, shelf: Shelf) -> None:
        self.number, self.running = number, running
        self.title = str(asked.get("command") or " ".join(map(str, asked.get("argv", ()))))
        self.tag = str(asked.get("tag", ""))
        self.started_s = time.time()
        self.exit: dict[str, Any] | None = None
        self.changed = threading.Condition()  # also guards its input
        self.kept: deque[tuple[int, int, bytes]] = deque()  # offset behind it, kind, data
        self.offset = 0
        self.kept_bytes = 0
        self._shelf = shelf
        self._feeding = False
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        running, waiting = self.running, select.poll()
        for descriptor in (*running.left, running.ending.read):
            waiting.register(descriptor, select.POLLIN)
        over = False
        while running.left and not over:
            for descriptor, _ in waiting.poll():
                if descriptor == running.ending.read:
                    over = True
                    continue
                if data := running.take(descriptor):
                    self._keep(descriptor, data)
                elif descriptor not in running.left:
                    waiting.unregister(descriptor)
        running.ending.wait()
        for descriptor, data in running.rest():
            self._keep(descriptor, data)
        with self.changed:
            self.exit = running.ended()
            self.changed.notify_all()
            while self._feeding:
                self.changed.wait()
            running.close()

    def _keep(self, descriptor: int, data: bytes) -> None:
        kind = self.running.sources[descriptor]
        with self.changed:
            self.offset += len(data)
            self.kept_bytes += len(data)
            last = self.kept[-1] if self.kept else (0, -1, b"")
            if last[1] == kind and len(last[2]) + len(data) <= PIECE_BYTES:
                data = self.kept.pop()[2] + data
            self.kept.append((self.offset, kind, data))
            while self.kept_bytes > KEPT_BYTES and len(self.kept) > 1:
                self.kept_bytes -= len(self.kept.popleft()[2])
            self.changed.notify_all()
        self._shelf.fit()

    def give_up(self, size: int) -> int:
        """Forget at least so many of its oldest bytes, or all; how many."""
        given = 0
        with self.changed:
            while self.kept and given < size:
                given += len(self.kept.popleft()[2])
            self.kept_bytes -= given
        return given

    # --- what it is told -------------------------------------------------------------------------------------------

    def obey(self, kind: int, payload: bytes, line: Socket) -> None:
        """One order. Input waits for room; once it is in, it will be given, whoever hangs up. Raises Broken where the host has gone before."""
        with self.changed:
            while kind == wire.INPUT and self.exit is None and self._left > INPUT_BYTES_MAX:
                if not self.changed.wait(wire.STILL_HERE_MS / 1000):
                    wire.send(line, wire.STILL_HERE)
            if self.exit is not None:
                return
            exchange.obey(self.running, kind, payload)
            if self._left and not self._feeding:
                self._feeding = True
                threading.Thread(target=self._feed, daemon=True).start()

    @property
    def _left(self) -> int:
        return self.running.input.left if self.running.input is not None else 0

    def _feed(self) -> None:
        """Give it what it has not taken, for as long as there is any."""
        stdin, waiting = self.running.input, select.poll()
        assert stdin is not None and stdin.descriptor is not None
        descriptor = stdin.descriptor
        waiting.register(descriptor, select.POLLOUT)
        waiting.register(self.running.ending.read, select.POLLIN)
        while True:
            ready = dict(waiting.poll())
            with self.changed:
                if self.running.ending.read in ready:
                    stdin.close()
                else:
                    stdin.ready(ready[descriptor])
                self.changed.notify_all()
                if not stdin.left:
                    self._feeding = False
                    return

    def describe(self) -> dict[str, Any]:
        return {
            "process": self.number,
            "pid": self.running.pid,
            "command": self.title[:500],
            "tag": self.tag,
            "started_s": self.started_s,
            "output_bytes": self.offset,
            **({"running": True} if self.exit is None else {"running": False, **self.exit}),
        }
