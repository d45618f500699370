"""Processes that outlive the connection that started them, their output kept for whoever comes back."""

from __future__ import annotations

import select
import threading
import time
from collections import deque

from . import exchange, processes, wire

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

    from .quick import Socket

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

    def obey(self, kind: int, payload: bytes, line: Socket) -> None:
        """One order. Returns once what is for its standard input has been taken, or it has ended. Raises Broken where the host has gone."""
        with self._input:
            if self.exit is None:
                exchange.obey(self.running, kind, payload)
                self._taken(line)

    def _taken(self, line: Socket) -> None:
        stdin, waiting = self.running.input, select.poll()
        if stdin is None or not stdin.left:
            return
        assert stdin.descriptor is not None
        waiting.register(stdin.descriptor, select.POLLOUT)
        waiting.register(self.running.ending.read, select.POLLIN)
        waiting.register(line, select.POLLRDHUP)
        while stdin.left:
            ready = dict(waiting.poll(wire.STILL_HERE_MS))
            if self.running.ending.read in ready:
                stdin.close()
                return
            if line.fileno() in ready:
                raise wire.Broken("the other end has gone")
            if not ready:
                wire.send(line, wire.STILL_HERE)
            stdin.flush()

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
