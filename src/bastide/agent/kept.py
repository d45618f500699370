"""What the agent keeps on disk: each instance's assignment and how services are used, for a restart; logs, for people."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from bastide.agent.habits import Habits
from bastide.domain.instances import Assignment
from bastide.ports.clock import Clock
from bastide.ports.link import Body

LOG_LINE_BYTES_MAX = 400
PART_BYTES_MAX = 64 * 1024
HABITS = "habits"


class Kept:
    """Two directories. Nothing here is needed to be right: control tells every assignment again."""

    def __init__(self, assignments_directory: str, logs_directory: str, clock: Clock) -> None:
        self._assignments, self._logs, self._clock = Path(assignments_directory), logs_directory, clock

    def assignments(self) -> list[Assignment]:
        found = []
        for file in sorted(self._assignments.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                found.append(msgspec.json.decode(file.read_bytes(), type=Assignment))
        return found

    def keep(self, assignment: Assignment) -> None:
        """Whole or not at all."""
        self._write(self._assignments / f"{assignment.instance}.json", msgspec.json.encode(assignment))

    def keep_habits(self, habits: Habits) -> None:
        """As it is now, where it changed. Losing it costs nothing but learning anew."""
        if habits.changed:
            habits.changed = False
            self._write(self._assignments / HABITS, msgspec.json.encode(habits.kept()))

    def recall(self, habits: Habits) -> None:
        with contextlib.suppress(OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError):
            habits.know(msgspec.json.decode((self._assignments / HABITS).read_bytes()))

    def _write(self, path: Path, data: bytes) -> None:
        fresh = path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.write_bytes(data)
            fresh.replace(path)

    def forget(self, instance: str) -> None:
        for path in (self._assignments / f"{instance}.json", Path(self._log(instance))):
            with contextlib.suppress(OSError):
                path.unlink()

    def write(self, instance: str, text: str) -> None:
        """One line in the instance's log, beside what its engine writes there itself."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock.now_s()))
        with contextlib.suppress(OSError):
            log = os.open(self._log(instance), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(log, f"{stamp} bastide: {text[:LOG_LINE_BYTES_MAX]}\n".encode())
            os.close(log)

    def has_log(self, instance: str) -> bool:
        """Of a job, which is no instance, only its log is here."""
        return "/" not in instance and os.path.exists(self._log(instance))

    def read(self, instance: str, after: int) -> Body:
        """Part of its log from byte `after` on (negative: that many bytes before the end), and where the next begins."""
        try:
            with open(self._log(instance), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = max(0, size + after) if after < 0 else min(after, size)
                file.seek(start)
                data = file.read(PART_BYTES_MAX)
        except OSError:
            return {"text": "", "next": 0}
        return {"text": data.decode(errors="replace"), "next": start + len(data)}

    def _log(self, instance: str) -> str:
        return f"{self._logs}/{instance}.log"
