"""The command as a user runs it, against one real Bastide."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastide.wiring.main import main

BASTIDE = str(Path(sys.executable).with_name("bastide"))
SPEC = """\
services:
  chat:
    model: builtin://tiny
    replicas: 0..1
    context: 1024
    sleep: {deep: 1h}
    price: {input_per_mtok: 0.10, cached_input_per_mtok: 0.01, output_per_mtok: 0.30}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, data: Path, stdin: str = "", environment: dict[str, str] | None = None) -> Done:
    """`bastide ARGUMENTS` as a process of its own, with nothing of the caller's own settings."""
    done = subprocess.run(
        [BASTIDE, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=_settings(data, environment),
    )
    return Done(done.returncode, done.stdout, done.stderr)


def call(*arguments: str, data: Path, stdin: str = "", environment: dict[str, str] | None = None) -> Done:
    """The same entry point in this process: a tenth of the time, for what needs no process of its own."""
    before, argv, given = dict(os.environ), sys.argv, sys.stdin
    stdout, stderr = io.StringIO(), io.StringIO()
    os.environ.clear()
    os.environ.update(_settings(data, environment))
    sys.argv, sys.stdin = ["bastide", *arguments], io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            main()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    finally:
        sys.argv, sys.stdin = argv, given
        os.environ.clear()
        os.environ.update(before)
    return Done(status, stdout.getvalue(), stderr.getvalue())


def _settings(data: Path, environment: dict[str, str] | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BASTIDE_")}
    return clean | ({"BASTIDE_DATA": str(data)} if environment is None else environment)


class Town:
    """One Bastide that runs, and the command that finds it by its data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [BASTIDE, "up", "--data", str(data), "--listen", "127.0.0.1:0", "--memory", "512MiB"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if "rungs" in line:
                break
        else:
            raise RuntimeError(f"Bastide did not get ready: {self.said}")
        self.url = str(json.loads((data / "running.json").read_text())["url"])

    def run(self, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> Done:
        return call(*arguments, data=self.data, stdin=stdin, environment=environment)

    def json(self, *arguments: str, status: int | None = 0) -> dict[str, Any]:
        """What it prints, which must be one JSON document. `status` None: any."""
        done = self.run(*arguments)
        assert status is None or done.returncode == status, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def end(self) -> int:
        self.process.terminate()
        status = self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status
