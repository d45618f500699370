"""What passes between a process inside a box and the host that waits for it, both ways at once, until it has ended.

Nothing here waits for one end alone: a process that does not read, or a host that does not, stops neither the clock, nor
signals, nor is it missed when the host hangs up.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, poll
from time import monotonic

from . import processes, wire
from .quickjson import loads

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from .quick import Socket

INPUT_BYTES_MAX = 1 << 20  # that wait for a process to read them, beside one frame; then the host waits too
GONE = POLLHUP | POLLERR | POLLRDHUP


class Exchange:
    """`run` it once."""

    def __init__(self, running: processes.Running, line: Socket, reader: wire.Reader) -> None:
        self._running, self._line, self._reader = running, line, reader
        self._outgoing = bytearray()

    def run(self, limit_s: float | None) -> bool:
        """Until the process has ended. True where its time was over: then it was killed. Raises Broken where the host has gone."""
        running, line = self._running, self._line.fileno()
        deadline = None if limit_s is None else monotonic() + limit_s
        timed_out = False
        self._obey()  # what came together with the question
        while True:
            left_ms = None if deadline is None or timed_out else max(0.0, (deadline - monotonic()) * 1000)
            ready = self._ready(left_ms)
            ended = running.ending.read in ready
            if deadline is not None and not timed_out and not ended and monotonic() >= deadline:
                timed_out = True
                processes.kill_group(running.pid, processes.SIGKILL)
            if ready.get(line, 0) & GONE:
                raise wire.Broken("the other end has gone")
            if not ready and not self._outgoing:
                self._outgoing += wire.framed(wire.STILL_HERE)
            if ready.get(line, 0) & POLLOUT or not ready:
                self._send()
            if ready.get(line, 0) & POLLIN:
                self._reader.more()
                self._obey()
            for descriptor in tuple(running.left):
                if ready.get(descriptor, 0) & ~POLLOUT and (data := running.take(descriptor)):
                    self._tell(descriptor, data)
            stdin = running.input
            if stdin is not None and stdin.left and stdin.descriptor in ready:
                stdin.ready(ready[stdin.descriptor])
                self._obey()  # there may be room for what has come already
            if ended:
                for descriptor, data in running.rest():
                    self._tell(descriptor, data)
                wire.send_framed(self._line, self._outgoing)
                return timed_out

    def _ready(self, wait_ms: float | None) -> dict[int, int]:
        """What happened, by descriptor. A host that does not read is told nothing more; a process that does not, no more either."""
        running, waiting = self._running, poll()
        wanted = {running.ending.read: POLLIN}
        if not self._outgoing:
            wanted |= dict.fromkeys(running.left, POLLIN)
        left = running.input.left if running.input is not None else 0
        if left > INPUT_BYTES_MAX and (wait_ms is None or wait_ms > wire.STILL_HERE_MS):
            wait_ms = wire.STILL_HERE_MS
        if running.input is not None and running.input.descriptor is not None and left:
            wanted[running.input.descriptor] = wanted.get(running.input.descriptor, 0) | POLLOUT
        incoming = POLLRDHUP | (POLLIN if left <= INPUT_BYTES_MAX else 0) | (POLLOUT if self._outgoing else 0)
        wanted[self._line.fileno()] = incoming
        for descriptor, events in wanted.items():
            waiting.register(descriptor, events)
        return dict(waiting.poll(wait_ms))

    def _tell(self, descriptor: int, data: bytes) -> None:
        self._outgoing += wire.framed(self._running.sources[descriptor], data)
        self._send()

    def _send(self) -> None:
        """As much as the host takes now."""
        try:
            while self._outgoing:
                del self._outgoing[: self._line.send(self._outgoing[: processes.CHUNK], MSG_DONTWAIT)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise wire.Broken(str(error)) from None

    def _obey(self) -> None:
        """Every order that has arrived whole, as long as there is room for input."""
        running = self._running
        while running.input is None or running.input.left <= INPUT_BYTES_MAX:
            frame = self._reader.whole()
            if frame is None:
                return
            obey(running, *frame)


def obey(running: processes.Running, kind: int, payload: bytes) -> None:
    """One order."""
    if kind == wire.INPUT and running.input is not None:
        running.input.give(payload)
    elif kind == wire.INPUT_END and running.input is not None:
        running.input.end()
    elif kind == wire.SIGNAL:
        processes.kill_group(running.pid, int(loads(payload.decode())["signal"]))
    elif kind == wire.WINDOW:
        running.resize(loads(payload.decode()))
