"""Stateful code: one interpreter a context, kept between questions, with rich results."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading

from . import processes, wire

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

    from .agent import Agent
    from .quick import Socket


class Context:
    """An interpreter of ours (kernel.py) that has been told what to remember."""

    def __init__(self, environment: dict[str, str], directory: str) -> None:
        interpreter = environment.get("BASTIDE_PYTHON", sys.executable)
        kernel = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel.py")
        output, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self.process = processes.start(
                [interpreter, "-u", kernel], environment, directory, processes.PIPE, theirs, theirs
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
        assert self.process.input is not None
        self.output, self.ending, self.input = output, self.process.ending, self.process.input
        self.lock = threading.Lock()
        self.rest = b""
        self.question = 0

    @property
    def over(self) -> bool:
        return self.ending.open

    def end(self) -> None:
        processes.kill_group(self.process.pid, signal.SIGKILL)
        self.ending.wait()

    def close(self) -> None:
        """Once it is over, and nobody asks it any more."""
        with self.lock:
            self.process.close()
            os.close(self.output)
            self.ending.close()

    def ask(self, code: str) -> None:
        """What it does not take at once is left in its `input`."""
        self.question += 1
        self.input.give(json.dumps({"n": self.question, "code": code}).encode() + b"\n")


def on_code(agent: Agent, line: Socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    """Run code in a context; results are answers, what it prints is output, the end says whether it failed."""
    name = str(asked.get("context", "default"))
    with agent.lock:
        context = agent.kernels.get(name)
        if context is None or context.over or asked.get("restart"):
            if context is not None:
                context.end()
                threading.Thread(target=context.close, daemon=True).start()  # a question to it may just be ending
            directory = processes.directory_of(asked, agent.environment)
            context = agent.kernels[name] = Context(dict(agent.environment), directory)
    import time

    limit = asked.get("timeout_s")
    deadline = time.monotonic() + float(limit) if limit else None
    with context.lock:
        context.ask(str(asked.get("code", "")))
        output, stdin = context.output, context.input
        while True:
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            hungry = [stdin.descriptor] if stdin.left and stdin.descriptor is not None else []
            ready, taking, _ = select.select([output, line, context.ending.read], hungry, [], wait_s)
            if taking:
                stdin.flush()
            if not ready and deadline is not None and time.monotonic() >= deadline:
                context.end()
                wire.send_json(line, wire.EXIT, {"ok": False, "timed_out": True})
                return
            if line in ready:
                try:
                    reader.more()
                except wire.Broken:
                    processes.kill_group(context.process.pid, signal.SIGINT)
                    raise
            if output in ready:
                data = os.read(output, 1 << 16)
                if data and _told(line, context, data):
                    return
                if data:
                    continue
            if context.ending.read in ready:
                _died(line, context)
                return


def _died(line: Socket, context: Context) -> None:
    context.ending.wait()
    how = "ended itself" if context.ending.status is None else f"ended with wait status {context.ending.status}"
    error = {"name": "InterpreterEnded", "value": f"the interpreter {how}; the next code begins anew", "traceback": []}
    wire.send_json(line, wire.EXIT, {"ok": False, "timed_out": False, "died": True, "error": error})


def _told(line: Socket, context: Context, data: bytes) -> bool:
    """Pass on the kernel's lines; True once the code has ended."""
    *lines, context.rest = (context.rest + data).split(b"\n")
    for one in lines:
        try:
            said = json.loads(one)
        except ValueError:
            wire.send(line, wire.OUTPUT, one + b"\n")  # something wrote past the kernel
            continue
        if not isinstance(said, dict) or "kernel" not in said:
            wire.send(line, wire.OUTPUT, one + b"\n")
        elif said.get("n") != context.question:
            continue  # of a question that nobody waits for any more
        elif said["kernel"] == "out":
            wire.send(line, wire.OUTPUT if said["stream"] == "stdout" else wire.ERRORS, said["text"].encode())
        elif said["kernel"] == "result":
            for piece in _pieces(said["data"]):
                wire.send_json(line, wire.ANSWER, piece)
        else:
            wire.send_json(line, wire.EXIT, {"ok": said["ok"], "timed_out": False, "error": said.get("error")})
            return True
    return False


def _pieces(data: dict[str, str]) -> list[dict[str, Any]]:
    """A result may be larger than a frame: kinds apart, and those that do not fit told as too large."""
    pieces = []
    for kind, text in data.items():
        if len(text) > wire.FRAME_BYTES_MAX // 2:
            pieces.append({"kind": kind, "text": None, "reason": f"larger than {wire.FRAME_BYTES_MAX // 2} bytes"})
        else:
            pieces.append({"kind": kind, "text": text})
    return pieces
