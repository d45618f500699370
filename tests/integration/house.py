"""A real Bastide for tests: started with the real command on a free port of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from bastide.sdk import Client

BASTIDE = str(Path(sys.executable).with_name("bastide"))
CHAT = """
services:
  chat:
    model: builtin://tiny
    replicas: 0..1
    context: 1024
    sleep: {deep: 10m}
    price: {input_per_mtok: 0.10, cached_input_per_mtok: 0.01, output_per_mtok: 0.30}
"""


_KEPT: list[socket.socket] = []


def kept_port() -> int:
    """A free port that nobody else is given while tests run: a house that starts again finds its own where it was."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # bound and not listening: whoever names it may listen
    holder.bind(("127.0.0.1", 0))
    _KEPT.append(holder)
    return int(holder.getsockname()[1])


class House:
    """One Bastide. `start` returns once it is ready; `end` leaves nothing behind."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data, self.options = data, options
        self.process: subprocess.Popen[str] | None = None
        self.said = ""
        self.url = ""
        self.listen = f"127.0.0.1:{kept_port()}"

    def start(self) -> House:
        self.said = ""
        self.process = subprocess.Popen(
            [BASTIDE, "up", "--data", str(self.data), "--listen", self.listen, *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "rungs" in line:
                break
        else:
            raise RuntimeError(f"Bastide did not get ready: {self.said}")
        self.url = json.loads((self.data / "running.json").read_text())["url"]
        return self

    @property
    def key(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    @property
    def client(self) -> Client:
        return Client(self.url, self.key)

    def openai(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=60.0)

    def deploy(self, text: str) -> dict[str, dict[str, Any]]:
        """Declare and wait; returns the last progress line of each service."""
        names = [service["name"] for service in self.client.deploy(text)["services"]]
        return {line["name"]: line for line in self.client.progress(names)}

    def ask(self, text: str, model: str = "chat", **options: Any) -> str:
        answer = self.openai().chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], temperature=0, **options
        )
        return answer.choices[0].message.content or ""

    def instance(self, service: str = "chat", index: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.client.service(service)["instances"][index]
        return found

    def pid(self, role: str) -> int:
        entries = json.loads((self.data / "running.json").read_text())["processes"]
        return next(int(entry["pid"]) for entry in entries if entry["role"] == role)

    def kill(self, pid: int) -> None:
        """kill -9, and wait until the kernel says it is gone."""
        os.kill(pid, signal.SIGKILL)
        if self.process is not None and pid == self.process.pid:
            self.process.wait()
        else:
            until(lambda: not alive(pid))

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        self.process.stdout.close()
        self.process = None
        return status


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object], limit_s: float = 30.0) -> None:
    """Wait for a state by looking, as there is nothing to be told by; never by hoping that a time is enough."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.005)
