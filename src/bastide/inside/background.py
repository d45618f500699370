"""Processes that outlive the connection that started them, their output kept for whoever comes back."""

from __future__ import annotations

import threading
import time
from collections import deque

from . import processes

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

KEPT_BYTES = 1 << 20  # of a background process's output, for whoever attaches later
ENDED_KEPT = 256  # background processes that are over, with their last output


class Background:
    """One of them. Its newest output is kept, with how much went before."""

    def __init__(self, number: int, asked: dict[str, Any], running: processes.Running) -> None:
        self.number, self.running = number, running
        self.title = str(asked.get("command") or " ".join(map(str, asked.get("argv", ()))))
        self.tag = str(asked.get("tag", ""))
        self.started_s = time.time()
        self.exit: dict[str, Any] | None = None
        self.changed = threading.Condition()
        self.kept: deque[tuple[int, int, bytes]] = deque()  # offset behind it, kind, data
        self.offset = 0
        self.kept_bytes = 0
        self._input = threading.Lock()
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        running, output = self.running, processes.Output(self.running)
        over = False
        while output.open and not over:
            for descriptor in output.wait():
                if descriptor == running.ending.read:
                    over = True
                elif data := output.take(descriptor):
                    self._keep(descriptor, data)
        if over:
            for descriptor, data in output.rest():
                self._keep(descriptor, data)
        running.ending.wait()
        with self.changed:
            self.exit = running.ended()
            self.changed.notify_all()
        with self._input:
            running.close()

    def _keep(self, descriptor: int, data: bytes) -> None:
        with self.changed:
            self.offset += len(data)
            self.kept.append((self.offset, self.running.sources[descriptor], data))
            self.kept_bytes += len(data)
            while self.kept_bytes > KEPT_BYTES and len(self.kept) > 1:
                self.kept_bytes -= len(self.kept.popleft()[2])
            self.changed.notify_all()

    def write(self, data: bytes) -> None:
        with self._input:
            if self.exit is None:
                self.running.write(data)

    def close_input(self) -> None:
        with self._input:
            if self.exit is None:
                self.running.close_input()

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
