"""The agent inside a box: carries out what its host asks, one thread a connection. Standard library only.

It serves no policy and keeps no secret from the inside: whatever runs in the box may do all that this does. It starts
quickly, so everything that is not needed for a first `exec` is imported when it is.
"""

from __future__ import annotations

import posix
import sys
from _signal import SIG_IGN, SIGCHLD, SIGHUP, SIGTERM, set_wakeup_fd, signal
from _socket import SHUT_WR
from select import POLLIN, poll
from time import sleep

from . import exchange, passing, processes, wire
from .quick import ENVIRONMENT, Lock, Socket, exists, hang_up, remove, start_thread, unix

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .background import Background, Shelf

CONNECTIONS_MAX = 512
IDLE_MAX = 2  # threads that wait for a connection: making one costs a millisecond in gVisor
DRAIN_S = 10.0
DESCRIPTORS_MAX = 32  # none that a box is started with is higher


class Agent:
    def __init__(self) -> None:
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **ENVIRONMENT}
        for name in list(self.environment):
            if name.startswith("BASTIDE_LISTEN"):
                del self.environment[name]
        self.background: dict[int, Background] = {}
        self.shelf: Shelf | None = None
        self.numbers = 0
        self.lock, self.waiting = Lock(), Lock()
        self.listeners: list[Socket] = []
        self.proxy: Socket | None = None
        self.port = 0  # where the app of this box listens
        self.main: processes.Started | None = None
        self.kernels: dict[str, Any] = {}
        self.passage = passing.Passage()
        self.open = self.passage.open
        self.quiet = False

    # --- the sockets -----------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Inherited sockets, or our own below the directory we are told of; the first is ours, the second the app's."""
        directory = ENVIRONMENT.get("BASTIDE_LISTEN_DIRECTORY")
        if directory:
            for name in ("agent", "app"):
                listener, path = unix(), f"{directory}/{name}"
                remove(path)
                listener.bind(path)
                listener.listen(128)
                self.listeners.append(listener)
        else:
            for index in range(int(ENVIRONMENT.get("BASTIDE_LISTEN_FDS", "0"))):
                self.listeners.append(Socket(fileno=3 + index))
        if exists("/run/bastide/egress") and self.proxy is None:
            # Before anybody can ask for anything: a question may need it.
            self.proxy = passing.listening(passing.PROXY_PORT)
            passing.proxy_environment(self.environment)
            start_thread(self.accept, self.proxy, self.passage.to_proxy)
        for listener, serve in zip(self.listeners, (self.serve, self.serve_app), strict=False):
            start_thread(self.accept, listener, serve)

    def accept(self, listener: Socket, serve: Callable[[Socket], None]) -> None:
        """Take connections and serve them. Whoever serves leaves another one waiting: a thread is made where none is."""
        idle = [1]  # how many wait for a connection of this listener
        self.take_turns(listener, serve, idle)

    def take_turns(self, listener: Socket, serve: Callable[[Socket], None], idle: list[int]) -> None:
        while True:
            try:
                line = listener.accept()
            except OSError:
                if listener.fileno() < 0:
                    return  # closed: we are to be quiet
                sleep(0.02)  # out of descriptors, most likely
                continue
            if len(self.open) >= CONNECTIONS_MAX:
                line.close()
                continue
            self.open.add(line)
            with self.waiting:
                idle[0] -= 1
                alone = idle[0] == 0
                idle[0] += alone
            if alone:
                start_thread(self.take_turns, listener, serve, idle)
            self.guarded(line, serve)
            with self.waiting:
                if idle[0] >= IDLE_MAX:
                    return
                idle[0] += 1

    def guarded(self, line: Socket, serve: Callable[[Socket], None]) -> None:
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
    def fail(line: Socket, error: BaseException) -> None:
        told = {"error": type(error).__name__, "message": str(error), "errno": getattr(error, "errno", None)}
        try:
            wire.send_json(line, wire.ERROR, told)
        except wire.Broken:
            return
        Agent.drain(line)

    @staticmethod
    def drain(line: Socket) -> None:
        """Our last word is said. Closing on what is still being told us would lose it."""
        try:
            line.shutdown(SHUT_WR)
            line.settimeout(DRAIN_S)
            while line.recv(passing.SPLICE_BYTES):
                pass
        except OSError:
            pass

    def serve_app(self, line: Socket) -> None:
        self.passage.splice(line, passing.to_port(self.port), b"")

    # --- questions -------------------------------------------------------------------------------------------------

    def serve(self, line: Socket) -> None:
        reader = wire.Reader(line)
        asked = reader.question()
        self.settle(asked.pop("settle", {}))
        answer = getattr(self, f"on_{asked.get('op')}", None)
        if answer is None:
            from . import files

            answer = getattr(files, f"on_{asked.get('op')}", None)
            if answer is None:
                raise ValueError(f"no such operation: {asked.get('op')!r}")
            asked["home"] = self.environment.get("HOME", "/")
        answer(line, reader, asked)

    def on_hello(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        wire.send_json(line, wire.ANSWER, {"pid": posix.getpid(), "python": sys.version.split()[0]})

    def on_settle(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        self.settle(asked.get("env", {}))
        wire.send_json(line, wire.ANSWER, {})

    def settle(self, told: dict[str, str | None]) -> None:
        """The environment of everything started from now on; None takes a name away."""
        for name, value in told.items():
            if value is None:
                self.environment.pop(name, None)
            else:
                self.environment[name] = str(value)

    def on_exec(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Run to its end; killed with all its group when the host hangs up or its time is over."""
        running = processes.Running(asked, {**self.environment, **asked.get("env", {})})
        limit = asked.get("timeout_s")
        try:
            timed_out = exchange.Exchange(running, line, reader).run(float(limit) if limit else None)
            running.ending.wait()
            wire.send_json(line, wire.EXIT, running.ended(timed_out))
            if running.input is not None:
                self.drain(line)
        finally:
            if not running.ending.open:
                processes.kill_group(running.pid, processes.SIGKILL)
                running.ending.wait()
            running.close()

    # --- background processes --------------------------------------------------------------------------------------

    def on_spawn(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        from .background import ENDED_KEPT, Background, Shelf

        running = processes.Running(asked, {**self.environment, **asked.get("env", {})})
        with self.lock:
            self.numbers += 1
            number = self.numbers
            if self.shelf is None:
                self.shelf = Shelf(lambda: list(self.background.values()))
            self.background[number] = Background(number, asked, running, self.shelf)
            over = [n for n, b in self.background.items() if b.exit is not None]
            for old in over[: max(0, len(over) - ENDED_KEPT)]:
                del self.background[old]
        wire.send_json(line, wire.ANSWER, {"process": number, "pid": running.pid})

    def one(self, asked: dict[str, Any]) -> Background:
        found = self.background.get(int(asked.get("process", 0)))
        if found is None:
            raise LookupError(f"no process {asked.get('process')} was started here")
        return found

    def on_processes(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        wire.send_json(line, wire.ANSWER, {"processes": [b.describe() for b in list(self.background.values())]})

    def on_signal(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        process = self.one(asked)
        if process.exit is None:
            processes.kill_group(process.running.pid, int(asked["signal"]))
        wire.send_json(line, wire.ANSWER, process.describe())

    def on_input(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Standard input of a background process: frames until their end, or the end of input itself."""
        process = self.one(asked)
        while True:
            kind, payload = reader.frame()
            if kind == wire.END:
                wire.send_json(line, wire.ANSWER, {})
                return
            process.obey(kind, payload, line)

    def on_attach(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Kept output from byte `since` on, then what comes, then how it ended. `follow` false: only what there is."""
        process, at = self.one(asked), int(asked.get("since", 0))
        follow, waiting = asked.get("follow", True), poll()
        waiting.register(line, POLLIN)
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
            if not news and waiting.poll(0):
                reader.more()  # raises where the host has gone

    # --- the app of this box ---------------------------------------------------------------------------------------

    def on_serve(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Run the app: its output is the box's, and when it ends so does the box, with its status."""
        if asked.get("door"):
            door = passing.listening(int(asked["door_port"]))
            leads = self.passage.to_door(str(asked["door"]))
            start_thread(self.accept, door, leads)
        self.port = int(asked.get("port", 0))
        self.environment.update({str(k): str(v) for k, v in asked.get("env", {}).items()})
        argv = [str(word) for word in asked["argv"]]
        with self.lock:
            if self.main is not None:
                raise ValueError("an app runs here already")
            self.main = processes.start(argv, self.environment, asked.get("cwd") or "/", None, None, None)
        start_thread(self.end_with, self.main.ending)
        wire.send_json(line, wire.ANSWER, {"pid": self.main.pid})
        adopt_orphans()  # while the app is still being loaded

    @staticmethod
    def end_with(ending: processes.Ending) -> None:
        ending.wait()
        assert ending.status is not None
        code = posix.waitstatus_to_exitcode(ending.status)
        posix._exit(code if code >= 0 else 128 - code)

    def on_stop(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Ask the app to end. The box ends with it."""
        if self.main is not None:
            processes.kill_group(self.main.pid, int(asked.get("signal", SIGTERM)))
        wire.send_json(line, wire.ANSWER, {})

    def on_connect(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """A connection to a port inside, passed on."""
        upstream = passing.to_port(int(asked["port"]))
        wire.send_json(line, wire.ANSWER, {})
        self.passage.splice(line, upstream, reader.rest())

    # --- code ------------------------------------------------------------------------------------------------------

    def on_code(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        from . import code

        code.on_code(self, line, reader, asked)

    # --- being saved -----------------------------------------------------------------------------------------------

    def on_quiet(self, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
        """Let go of every socket that leads out of the box: it is about to be saved. Listens again once it is back."""
        wire.send_json(line, wire.ANSWER, {})
        self.quiet = True
        for listener in [*self.listeners, *([self.proxy] if self.proxy is not None else [])]:
            hang_up(listener)  # wakes the thread that accepts
            listener.close()
        self.listeners, self.proxy = [], None
        for other in list(self.open):
            hang_up(other)
            if other is not line:
                other.close()
        line.close()
        for name in ("agent", "app"):
            remove(f"{ENVIRONMENT.get('BASTIDE_LISTEN_DIRECTORY', '')}/{name}")
        start_thread(self.until_back)

    def until_back(self) -> None:
        """The host lays `go` where we can see it once this box, or the one brought back from it, may go on."""
        while not exists("/run/bastide/host/go"):
            sleep(0.004)
        self.quiet = False
        self.listen()


def adopt_orphans() -> None:
    """What a process leaves behind is ours to bury, and saved with us. Whoever is the first of all has them anyway."""
    if posix.getpid() != 1 and ENVIRONMENT.get("BASTIDE_LISTEN_DIRECTORY"):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def main() -> None:
    try:
        posix.setsid()  # what is saved and brought back is a session of its own, whole
    except PermissionError:
        pass  # it leads one already
    ENVIRONMENT.setdefault("HOME", "/")
    for descriptor in range(3, DESCRIPTORS_MAX):  # what was handed down to us is for nobody else
        try:
            posix.set_inheritable(descriptor, False)
        except OSError:
            pass
    agent = Agent()
    awake, wakes = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
    set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal(SIGCHLD, lambda *_: None)
    signal(SIGTERM, lambda *_: posix._exit(0))
    signal(SIGHUP, SIG_IGN)
    agent.listen()
    waiting = poll()
    waiting.register(awake, POLLIN)
    while True:
        waiting.poll()
        try:
            posix.read(awake, 4096)
        except BlockingIOError:
            pass
        processes.reap()
