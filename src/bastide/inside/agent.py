"""The agent inside a box: carries out what its host asks, one thread a connection. Standard library only.

It serves no policy and keeps no secret from the inside: whatever runs in the box may do all that this does. It starts
quickly, so everything that is not needed for a first `exec` is imported when it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading

from . import passing, processes, wire

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

CONNECTIONS_MAX = 512
DRAIN_S = 10.0


class Agent:
    def __init__(self) -> None:
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **os.environ}
        for name in list(self.environment):
            if name.startswith("BASTIDE_LISTEN"):
                del self.environment[name]
        self.background: dict[int, processes.Background] = {}
        self.numbers = 0
        self.lock = threading.Lock()
        self.listeners: list[socket.socket] = []
        self.proxy: socket.socket | None = None
        self.port = 0  # where the app of this box listens
        self.main: processes.Running | None = None
        self.kernels: dict[str, Any] = {}
        self.passage = passing.Passage()
        self.open = self.passage.open
        self.quiet = False

    # --- the sockets -----------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Inherited sockets, or our own below the directory we are told of; the first is ours, the second the app's."""
        directory = os.environ.get("BASTIDE_LISTEN_DIRECTORY")
        if directory:
            for name in ("agent", "app"):
                listener = socket.socket(socket.AF_UNIX)
                path = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                listener.bind(path)
                listener.listen(128)
                self.listeners.append(listener)
        else:
            for index in range(int(os.environ.get("BASTIDE_LISTEN_FDS", "0"))):
                listener = socket.socket(fileno=3 + index)
                os.set_inheritable(3 + index, False)
                self.listeners.append(listener)
        if os.path.isdir("/run/bastide/egress") and self.proxy is None:
            # Before anybody can ask for anything: a question may need it.
            self.proxy = passing.listening(passing.PROXY_PORT)
            passing.proxy_environment(self.environment)
            threading.Thread(target=self.accept, args=(self.proxy, self.passage.to_proxy), daemon=True).start()
        for listener, serve in zip(self.listeners, (self.serve, self.serve_app), strict=False):
            threading.Thread(target=self.accept, args=(listener, serve), daemon=True).start()

    def accept(self, listener: socket.socket, serve: Any) -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                if listener.fileno() < 0:
                    return  # closed: we are to be quiet
                threading.Event().wait(0.02)  # out of descriptors, most likely
                continue
            if len(self.open) >= CONNECTIONS_MAX:
                line.close()
                continue
            self.open.add(line)
            threading.Thread(target=self.guarded, args=(line, serve), daemon=True).start()

    def guarded(self, line: socket.socket, serve: Any) -> None:
        try:
            serve(line)
        except wire.Broken:
            pass
        except Exception as error:
            self.fail(line, error)
        finally:
            self.open.discard(line)
            line.close()

    @staticmethod
    def fail(line: socket.socket, error: BaseException) -> None:
        told = {"error": type(error).__name__, "message": str(error), "errno": getattr(error, "errno", None)}
        with contextlib.suppress(wire.Broken, OSError):
            wire.send_json(line, wire.ERROR, told)
            line.shutdown(socket.SHUT_WR)
            line.settimeout(DRAIN_S)
            while line.recv(passing.SPLICE_BYTES):  # closing on what is still being said would lose what we said
                pass

    def serve_app(self, line: socket.socket) -> None:
        self.passage.splice(line, passing.to_port(self.port), b"")

    # --- questions -------------------------------------------------------------------------------------------------

    def serve(self, line: socket.socket) -> None:
        reader = wire.Reader(line)
        asked = reader.question()
        answer = getattr(self, f"on_{asked.get('op')}", None)
        if answer is None:
            from . import files

            answer = getattr(files, f"on_{asked.get('op')}", None)
            if answer is None:
                raise ValueError(f"no such operation: {asked.get('op')!r}")
            asked["home"] = self.environment.get("HOME", "/")
        answer(line, reader, asked)

    def on_hello(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        wire.send_json(line, wire.ANSWER, {"pid": os.getpid(), "python": sys.version.split()[0]})

    def on_settle(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """The environment of everything started from now on; None takes a name away."""
        for name, value in asked.get("env", {}).items():
            if value is None:
                self.environment.pop(name, None)
            else:
                self.environment[name] = str(value)
        wire.send_json(line, wire.ANSWER, {})

    def on_exec(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Run to its end; killed with all its group when the host hangs up or its time is over."""
        running = processes.Running(asked, {**self.environment, **asked.get("env", {})})
        limit = asked.get("timeout_s")
        try:
            timed_out = self.relay(line, reader, running, float(limit) if limit else None)
            running.ending.event.wait()
            wire.send_json(line, wire.EXIT, running.ended(timed_out))
        finally:
            if not running.ending.event.is_set():
                processes.kill_group(running.pid, signal.SIGKILL)
                running.ending.event.wait()
            running.close()

    def relay(
        self, line: socket.socket, reader: wire.Reader, running: processes.Running, limit_s: float | None
    ) -> bool:
        """Output out, orders in, until it has ended. True where its time was over."""
        poll = select.poll()
        left = set(running.sources)
        for descriptor in left:
            poll.register(descriptor, select.POLLIN)
        poll.register(running.ending.read, select.POLLIN)
        poll.register(line, select.POLLIN)
        timed_out = False
        import time

        deadline = None if limit_s is None else time.monotonic() + limit_s
        while (frame := reader.whole()) is not None:  # what came together with the question
            self.obey(running, frame)
        while True:
            wait_ms = None if deadline is None or timed_out else max(0.0, (deadline - time.monotonic()) * 1000)
            events = poll.poll(wait_ms)
            if not events and deadline is not None and time.monotonic() >= deadline and not timed_out:
                timed_out = True
                processes.kill_group(running.pid, signal.SIGKILL)
            over = False
            for descriptor, _ in events:
                if descriptor == running.ending.read:
                    over = True
                elif descriptor == line.fileno():
                    reader.more()
                    while (frame := reader.whole()) is not None:
                        self.obey(running, frame)
                else:
                    self.forward(line, running, poll, left, descriptor)
            if over:
                # What it wrote is told whole; what those it left behind go on writing is not waited for.
                for descriptor in list(left):
                    while self.forward(line, running, poll, left, descriptor):
                        pass
                return timed_out

    @staticmethod
    def forward(
        line: socket.socket, running: processes.Running, poll: select.poll, left: set[int], descriptor: int
    ) -> bool:
        data = running.read(descriptor)
        if data is None:
            poll.unregister(descriptor)
            left.discard(descriptor)
            return False
        if data:
            wire.send(line, running.sources[descriptor], data)
        return bool(data)

    @staticmethod
    def obey(running: processes.Running, frame: tuple[int, bytes]) -> None:
        kind, payload = frame
        if kind == wire.INPUT:
            running.write(payload)
        elif kind == wire.INPUT_END:
            running.close_input()
        elif kind == wire.SIGNAL:
            processes.kill_group(running.pid, int(json.loads(payload)["signal"]))
        elif kind == wire.WINDOW:
            running.resize(json.loads(payload))

    # --- background processes --------------------------------------------------------------------------------------

    def on_spawn(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        running = processes.Running(asked, {**self.environment, **asked.get("env", {})})
        with self.lock:
            self.numbers += 1
            number = self.numbers
            self.background[number] = processes.Background(number, asked, running)
            over = [n for n, b in self.background.items() if b.exit is not None]
            for old in over[: max(0, len(over) - processes.ENDED_KEPT)]:
                del self.background[old]
        wire.send_json(line, wire.ANSWER, {"process": number, "pid": running.pid})

    def one(self, asked: dict[str, Any]) -> processes.Background:
        found = self.background.get(int(asked.get("process", 0)))
        if found is None:
            raise LookupError(f"no process {asked.get('process')} was started here")
        return found

    def on_processes(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        wire.send_json(line, wire.ANSWER, {"processes": [b.describe() for b in list(self.background.values())]})

    def on_signal(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        process = self.one(asked)
        if process.exit is None:
            processes.kill_group(process.running.pid, int(asked["signal"]))
        wire.send_json(line, wire.ANSWER, process.describe())

    def on_input(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Standard input of a background process: frames until their end, or the end of input itself."""
        process = self.one(asked)
        while True:
            kind, payload = reader.frame()
            if kind == wire.INPUT:
                process.write(payload)
            elif kind == wire.INPUT_END:
                process.close_input()
            elif kind == wire.WINDOW:
                process.running.resize(json.loads(payload))
            elif kind == wire.END:
                wire.send_json(line, wire.ANSWER, {})
                return

    def on_attach(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Kept output from byte `since` on, then what comes, then how it ended. `follow` false: only what there is."""
        process, at = self.one(asked), int(asked.get("since", 0))
        follow = asked.get("follow", True)
        while True:
            with process.changed:
                while True:
                    news = [(offset, kind, data) for offset, kind, data in process.kept if offset > at]
                    if news or process.exit is not None or not follow:
                        break
                    if not process.changed.wait(5.0):
                        break
                over = process.exit
            for offset, kind, data in news:
                wire.send(line, kind, data[max(0, len(data) - (offset - at)) :])
                at = offset
            if not news and (over is not None or not follow):
                wire.send_json(line, wire.EXIT if over is not None else wire.END, over or process.describe())
                return
            if not news and select.select([line], [], [], 0)[0]:
                reader.more()  # raises where the host has gone

    # --- the app of this box ---------------------------------------------------------------------------------------

    def on_serve(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Run the app: its output is the box's, and when it ends so does the box, with its status."""
        if asked.get("door"):
            door = passing.listening(int(asked["door_port"]))
            leads = self.passage.to_door(str(asked["door"]))
            threading.Thread(target=self.accept, args=(door, leads), daemon=True).start()
        self.port = int(asked.get("port", 0))
        self.environment.update({str(k): str(v) for k, v in asked.get("env", {}).items()})
        argv = [str(word) for word in asked["argv"]]
        with self.lock:
            if self.main is not None:
                raise ValueError("an app runs here already")
            process, ending = processes.start(
                argv, self.environment, asked.get("cwd") or "/", subprocess.DEVNULL, None, None
            )
            self.main = object.__new__(processes.Running)
            self.main.process, self.main.ending, self.main.pid = process, ending, process.pid
        threading.Thread(target=self.end_with, args=(ending,), daemon=True).start()
        wire.send_json(line, wire.ANSWER, {"pid": process.pid})
        adopt_orphans()  # while the app is still being loaded

    @staticmethod
    def end_with(ending: processes.Ending) -> None:
        ending.event.wait()
        assert ending.status is not None
        code = os.waitstatus_to_exitcode(ending.status)
        os._exit(code if code >= 0 else 128 - code)

    def on_stop(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Ask the app to end. The box ends with it."""
        if self.main is not None:
            processes.kill_group(self.main.pid, int(asked.get("signal", signal.SIGTERM)))
        wire.send_json(line, wire.ANSWER, {})

    def on_connect(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """A connection to a port inside, passed on."""
        upstream = passing.to_port(int(asked["port"]))
        wire.send_json(line, wire.ANSWER, {})
        self.passage.splice(line, upstream, reader.rest())

    # --- code ------------------------------------------------------------------------------------------------------

    def on_code(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        from . import code

        code.on_code(self, line, reader, asked)

    # --- being saved -----------------------------------------------------------------------------------------------

    def on_quiet(self, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Let go of every socket that leads out of the box: it is about to be saved. Listens again once it is back."""
        wire.send_json(line, wire.ANSWER, {})
        self.quiet = True
        for listener in [*self.listeners, *([self.proxy] if self.proxy is not None else [])]:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        self.listeners, self.proxy = [], None
        for other in list(self.open):
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)
            if other is not line:
                other.close()
        line.close()
        directory = os.environ.get("BASTIDE_LISTEN_DIRECTORY", "")
        for name in ("agent", "app"):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))
        threading.Thread(target=self.until_back, daemon=True).start()

    def until_back(self) -> None:
        """The host lays `go` where we can see it once this box, or the one brought back from it, may go on."""
        import time

        while not os.path.exists("/run/bastide/host/go"):
            time.sleep(0.004)
        self.quiet = False
        self.listen()


def adopt_orphans() -> None:
    """What a process leaves behind is ours to bury, and saved with us. Whoever is the first of all has them anyway."""
    if os.getpid() != 1 and os.environ.get("BASTIDE_LISTEN_DIRECTORY"):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def main() -> None:
    with contextlib.suppress(PermissionError):  # it leads one already
        os.setsid()  # what is saved and brought back is a session of its own, whole
    os.environ.setdefault("HOME", "/")
    agent = Agent()
    awake, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    agent.listen()
    poll = select.poll()
    poll.register(awake, select.POLLIN)
    while True:
        poll.poll()
        with contextlib.suppress(BlockingIOError):
            os.read(awake, 4096)
        processes.reap()
