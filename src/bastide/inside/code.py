"""Stateful code: one interpreter a context, kept between questions, with rich results."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading

from . import processes, wire

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from typing import Any

    from .agent import Agent


class Context:
    """An interpreter of ours (kernel.py) that has been told what to remember."""

    def __init__(self, environment: dict[str, str], directory: str) -> None:
        interpreter = environment.get("BASTIDE_PYTHON", sys.executable)
        kernel = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel.py")
        self.process, self.ending = processes.start(
            [interpreter, "-u", kernel], environment, directory, subprocess.PIPE, subprocess.PIPE, subprocess.STDOUT
        )
        self.lock = threading.Lock()
        self.rest = b""
        self.question = 0

    @property
    def over(self) -> bool:
        return self.ending.event.is_set()

    def end(self) -> None:
        processes.kill_group(self.process.pid, signal.SIGKILL)
        self.ending.event.wait()


def on_code(agent: Agent, line: socket.socket, reader: wire.Reader, asked: dict[str, Any]) -> None:
    """Run code in a context; results are answers, what it prints is output, the end says whether it failed."""
    name = str(asked.get("context", "default"))
    with agent.lock:
        context = agent.kernels.get(name)
        if context is None or context.over or asked.get("restart"):
            if context is not None:
                context.end()
            directory = str(asked.get("cwd") or agent.environment.get("HOME", "/"))
            context = agent.kernels[name] = Context(dict(agent.environment), directory)
    import time

    limit = asked.get("timeout_s")
    deadline = time.monotonic() + float(limit) if limit else None
    with context.lock:
        assert context.process.stdin is not None and context.process.stdout is not None
        context.question += 1
        try:
            question = {"n": context.question, "code": str(asked.get("code", ""))}
            context.process.stdin.write(json.dumps(question).encode() + b"\n")
            context.process.stdin.flush()
        except BrokenPipeError:
            _died(line, context)
            return
        output = context.process.stdout.fileno()
        while True:
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([output, line, context.ending.read], [], [], wait_s)
            if not ready:
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


def _died(line: socket.socket, context: Context) -> None:
    context.ending.event.wait()
    how = "ended itself" if context.ending.status is None else f"ended with wait status {context.ending.status}"
    error = {"name": "InterpreterEnded", "value": f"the interpreter {how}; the next code begins anew", "traceback": []}
    wire.send_json(line, wire.EXIT, {"ok": False, "timed_out": False, "died": True, "error": error})


def _told(line: socket.socket, context: Context, data: bytes) -> bool:
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
