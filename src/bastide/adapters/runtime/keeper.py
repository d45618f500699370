"""The keeper: the small process that is the parent of every engine on a node. Run by path, standard library only.

It owns the engines' lives and nothing else: it starts them, says when they are ready and when they end, and ends them
all when nobody has claimed them for their lease (the agent claims them by being connected). Engines outlive agent and
control, for the keeper is no child of theirs; and they never become orphans, for the kernel ends them with the keeper.
Because it is their parent, a process identifier it names can not have been reused.

Ours (child scripts) are forked with the library already loaded; an operator's program is run as it is; a box is started
by the steps of boxstart.py, and what its tools say is drained here into a log that can not grow without end.
Single-threaded on purpose: that is what makes forking safe.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
from types import ModuleType
from typing import Any

LOCK_S_MAX = 2.0
PR_SET_CHILD_SUBREAPER = 36
BOX_LOG_BYTES_MAX = 256 * 1024  # of what a box's tools say; what the program inside says goes another way
LIBC = ctypes.CDLL(None, use_errno=True)


def neighbour(name: str) -> ModuleType:
    """A script beside this one, loaded by path: nothing of Bastide can be imported here."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paging, enginestart = neighbour("paging"), neighbour("enginestart")


def keep_log(path: str, said: bytes, bytes_max: int) -> None:
    """Append; past the limit the older half is forgotten."""
    with contextlib.suppress(OSError):
        log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(log).st_size
            if size + len(said) > bytes_max:
                rest = os.pread(log, bytes_max // 2, size - min(size, bytes_max // 2))
                os.ftruncate(log, 0)
                os.write(log, rest[rest.find(b"\n") + 1 :])
            os.write(log, said)
        finally:
            os.close(log)


class Child:
    """One engine process, or a box."""

    def __init__(self, launch: dict[str, Any], pid: int, events: int, orders: int) -> None:
        self.launch, self.pid = launch, pid
        self.events, self.orders = events, orders  # pipes: what it says, what it is told
        self.ready = False
        self.resting = "awake"
        self.logged_bytes = 0
        self.ticks = start_ticks(pid)


def end_now(child: Child) -> None:
    """Kill it, frozen or not: whoever a control group of version 1 has frozen does not even die until it is thawed."""
    with contextlib.suppress(OSError):
        os.kill(child.pid, signal.SIGKILL)
    for path in (child.launch.get("box_launch") or {}).get("group_files", ()):
        with contextlib.suppress(OSError), open(os.path.join(os.path.dirname(path), "freezer.state"), "r+") as state:
            state.write("THAWED")


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


class Keeper:
    """The poll loop."""

    def __init__(self, path: str, libraries: list[str]) -> None:
        self.children: dict[str, Child] = {}
        self.modules: dict[str, ModuleType] = {}
        self.entered: dict[int, tuple[str, int]] = {}  # programs run inside boxes: who asked, what they say
        self.claims: dict[int, tuple[socket.socket, bytes]] = {}
        self.unclaimed_since = time.monotonic()
        self.lease_s = 60.0
        sys.path.extend(libraries)
        self.poll = select.poll()
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        self.listener.bind(path)
        os.umask(mask)
        self.listener.listen(8)
        self.poll.register(self.listener, select.POLLIN)
        self.wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.poll.register(self.wake_read, select.POLLIN)

    def run(self) -> None:
        while True:
            timeout_ms = None
            if not self.claims:
                left_s = self.unclaimed_since + self.lease_s - time.monotonic()
                if left_s <= 0:
                    self.end_all("nobody claimed it for its lease")
                    return
                timeout_ms = left_s * 1000 + 1
            for number, _ in self.poll.poll(timeout_ms):
                if number == self.listener.fileno():
                    self.accept()
                elif number == self.wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.wake_read, 4096)
                    self.reap()
                elif number in self.claims:
                    if not self.hear(number):
                        return
                else:
                    self.listen_to_child(number)

    def accept(self) -> None:
        connection, _ = self.listener.accept()
        self.claims[connection.fileno()] = (connection, b"")
        self.poll.register(connection, select.POLLIN)

    def hear(self, number: int) -> bool:
        """Obey whole lines; False when told to quit."""
        connection, rest = self.claims[number]
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.poll.unregister(number)
            connection.close()
            del self.claims[number]
            self.unclaimed_since = time.monotonic()
            return True
        *lines, rest = (rest + data).split(b"\n")
        self.claims[number] = (connection, rest)
        for line in lines:
            order = json.loads(line)
            if order["op"] == "quit":
                self.end_all("the keeper was told to quit")
                return False
            try:
                answer = self.obey(order)
            except (OSError, KeyError, ImportError, ValueError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            self.say(number, {"n": order["n"], **answer})
        return True

    def say(self, number: int, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, KeyError):
            self.claims[number][0].sendall(json.dumps(message).encode() + b"\n")

    def tell_all(self, message: dict[str, Any]) -> None:
        for number in list(self.claims):
            self.say(number, message)

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        operation = order["op"]
        if operation == "start":
            return self.start(order["launch"])
        if operation == "prepare":
            self.module(order["child"])
            return {}
        if operation == "enter":
            return self.enter(order)
        if operation == "list":
            return {
                "children": [
                    {"launch": c.launch, "pid": c.pid, "ticks": c.ticks, "ready": c.ready, "resting": c.resting}
                    for c in self.children.values()
                ]
            }
        child = self.children.get(order["instance"])
        if child is None:
            return {"error": "no such process"}
        if operation == "signal" and order["signal"] == signal.SIGKILL:
            end_now(child)
        elif operation == "signal":
            os.kill(child.pid, order["signal"])
        elif operation == "rest":
            child.resting = order["rung"]
        elif operation == "ready":
            child.ready = True
        elif operation == "page_out":
            if child.launch["child"]:
                os.write(child.orders, b"p")
                return {"later": True}
            reason = paging.page_out_other(child.pid)
            if reason is not None:
                return {"error": reason}
        return {}

    def module(self, name: str) -> ModuleType:
        if name not in self.modules:
            module = neighbour(f"{name}_child")
            module.prepare()
            self.modules[name] = module
        return self.modules[name]

    def enter(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run a program inside a box; its end is told as an event, with what it said."""
        starter = self.modules.get("boxstart") or neighbour("boxstart")
        self.modules["boxstart"] = starter
        said_read, said_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0 and order.get("save"):
            starter.neighbour("boxcriu").save(order["save"], said_write)
        if pid == 0:
            starter.enter_box(order["inside"], order["user"], order["argv"], said_write)
        os.close(said_write)
        os.set_blocking(said_read, False)
        self.entered[pid] = (order["key"], said_read)
        return {"pid": pid}

    def start_box(self, launch: dict[str, Any]) -> dict[str, Any]:
        starter = self.modules.get("boxstart") or neighbour("boxstart")
        self.modules["boxstart"] = starter
        said_read, said_write = os.pipe2(os.O_CLOEXEC)
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            starter.become_box(launch["box_launch"], said_write, keeper)
        os.close(said_write)
        os.set_blocking(said_read, False)
        child = Child(launch, pid, said_read, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        self.children[launch["instance"]] = child
        self.lease_s = launch["lease_s"]
        self.poll.register(said_read, select.POLLIN)
        return {"pid": pid, "ticks": child.ticks}

    def drain(self, child: Child) -> None:
        """What a box's tools said, into its log up to a limit; what is more is read and dropped."""
        try:
            said = os.read(child.events, 65536)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            with contextlib.suppress(KeyError, OSError):
                self.poll.unregister(child.events)
            return
        most = child.launch.get("log_bytes_max")
        if most and child.launch["log"]:
            keep_log(child.launch["log"], said, most)
            return
        left = BOX_LOG_BYTES_MAX - child.logged_bytes
        if left > 0 and child.launch["log"]:
            child.logged_bytes += len(said)
            with contextlib.suppress(OSError):
                log = os.open(child.launch["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                os.write(log, said[:left])
                os.close(log)

    def start(self, launch: dict[str, Any]) -> dict[str, Any]:
        if launch["instance"] in self.children:
            return {"error": "it already runs"}
        if launch.get("box_launch"):
            return self.start_box(launch)
        module = self.module(launch["child"]) if launch["child"] else None
        event_read, event_write = os.pipe2(os.O_CLOEXEC)
        order_read, order_write = os.pipe2(os.O_CLOEXEC)
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            enginestart.become_engine(launch, module, event_write, order_read, keeper, paging.page_out_self)
        os.close(event_write)
        os.close(order_read)
        child = Child(launch, pid, event_read, order_write)
        self.children[launch["instance"]] = child
        self.lease_s = launch["lease_s"]
        if module is not None:
            self.poll.register(event_read, select.POLLIN)
        return {"pid": pid, "ticks": child.ticks}

    def listen_to_child(self, number: int) -> None:
        child = next((c for c in self.children.values() if c.events == number), None)
        if child is None:
            return  # reaped earlier in this round of events
        if child.launch.get("box_launch"):
            self.drain(child)
            return
        said = os.read(number, 64)
        if not said:
            self.poll.unregister(number)
            return
        if b"r" in said:
            child.ready = True
            self.tell_all({"event": "ready", "instance": child.launch["instance"]})
        if b"p" in said:
            self.tell_all({"event": "paged out", "instance": child.launch["instance"]})

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.entered:
                key, said = self.entered.pop(pid)
                text = b""
                with contextlib.suppress(OSError):
                    text = os.read(said, 4096)
                os.close(said)
                code = os.waitstatus_to_exitcode(status)
                self.tell_all({"event": "entered", "key": key, "code": code, "said": text.decode(errors="replace")})
                continue
            child = next((c for c in self.children.values() if c.pid == pid), None)
            if child is not None:
                if child.launch.get("box_launch"):
                    self.drain(child)
                self.forget(child)
                code = os.waitstatus_to_exitcode(status)
                reason = f"ended with status {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
                self.tell_all({"event": "died", "instance": child.launch["instance"], "pid": pid, "reason": reason})

    def forget(self, child: Child) -> None:
        with contextlib.suppress(KeyError, OSError):
            self.poll.unregister(child.events)
        os.close(child.events)
        os.close(child.orders)
        del self.children[child.launch["instance"]]
        with contextlib.suppress(OSError):
            os.unlink(child.launch["socket"])
        for path in (child.launch.get("box_launch") or {}).get("listens", ()):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def end_all(self, reason: str) -> None:
        for child in list(self.children.values()):
            end_now(child)
        for child in list(self.children.values()):
            with contextlib.suppress(OSError):
                os.waitpid(child.pid, 0)
            with contextlib.suppress(OSError):
                os.unlink(child.launch["socket"])
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def main() -> None:
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what a box's first process leaves behind is ours to bury
    path, *libraries = sys.argv[1:]
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_S_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            # Held for a moment more by an engine that a killed keeper had only just forked.
            if time.monotonic() > deadline:
                sys.exit("another keeper already serves here")
            time.sleep(0.002)
    Keeper(path, libraries).run()


if __name__ == "__main__":
    main()
