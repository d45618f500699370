"""Control groups of boxes, version 1 and 2: limits on whole trees, freezing, and who is in one.

Owns one folder of groups per Bastide. A controller that is not there, or not ours to use, is named as missing; nothing
here pretends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

from bastide.domain.isolation import Limits

CONTROLLERS = {"memory": "memory", "cpu": "cpu", "processes": "pids"}
PERIOD_US = 100_000
GONE_S_MAX = 2.0
ASIDE = "supervisor"  # where Bastide's own processes go below a group that is delegated to it


class Groups:
    """`folder`: this Bastide's own name below the roots, so that two on one machine never meet."""

    def __init__(self, folder: str, mount: Path = Path("/sys/fs/cgroup")) -> None:
        self._mount, self._folder = mount, folder
        self.version = 2 if (mount / "cgroup.controllers").exists() else 1
        self._roots = self._unified() if self.version == 2 else self._split()

    @property
    def enforces(self) -> frozenset[str]:
        """Which of memory, cpu and processes can be limited here."""
        return frozenset(name for name in CONTROLLERS if name in self._roots)

    @property
    def freezes(self) -> bool:
        return "freezer" in self._roots

    def lacks(self, limits: Limits) -> str | None:
        """The first limit asked for that can't be enforced, in words; None: all can."""
        asked = {
            "memory": limits.memory_bytes is not None,
            "cpu": limits.cpu is not None,
            "processes": limits.processes is not None,
        }
        for name, wanted in asked.items():
            if wanted and name not in self._roots:
                return (
                    f"a limit on {name} can't be enforced here: no control group for it is ours to use. Run Bastide as "
                    "root, or under systemd with Delegate=yes, or leave the limit out"
                )
        return None

    def make(self, name: str, limits: Limits) -> tuple[str, ...]:
        """The box's groups with their limits; returns the files a process of one thread writes itself into to join."""
        files = []
        # A thread that moves itself waits for nobody; a process waits until every processor has been seen at rest, some
        # 10 ms. Version 2 moves whole processes only.
        file = "cgroup.procs" if self.version == 2 else "tasks"
        for folder in self._of(name):
            folder.mkdir(parents=True, exist_ok=True)
            files.append(str(folder / file))
        self.limit(name, limits)
        return tuple(files)

    def limit(self, name: str, limits: Limits) -> None:
        if self.version == 2:
            self._limit_unified(name, limits)
        else:
            self._limit_split(name, limits)

    def usage(self, name: str) -> dict[str, float]:
        """`memory_bytes`, `cpu_s`, `processes`, of those that are counted here."""
        found: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError, KeyError):
            if self.version == 2:
                folder = self._roots["memory"] / name
                found["memory_bytes"] = float((folder / "memory.current").read_text())
                stat = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
                found["cpu_s"] = int(stat["usage_usec"]) / 1e6
                found["processes"] = float((folder / "pids.current").read_text())
            else:
                memory = self._roots["memory"] / name
                found["memory_bytes"] = float((memory / "memory.usage_in_bytes").read_text())
                found["processes"] = float((self._roots["processes"] / name / "pids.current").read_text())
                found["cpu_s"] = int((self._roots["cpuacct"] / name / "cpuacct.usage").read_text()) / 1e9
        return found

    def out_of_memory_kills(self, name: str) -> int:
        """How often the kernel has killed something of this box for its memory limit."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            file = "memory.events" if self.version == 2 else "memory.oom_control"
            for line in (self._roots["memory"] / name / file).read_text().splitlines():
                word, _, count = line.partition(" ")
                if word == "oom_kill":
                    return int(count)
        return 0

    def pids(self, name: str) -> tuple[int, ...]:
        """Everyone in the box; empty where it has no group."""
        for folder in self._of(name)[:1]:
            with contextlib.suppress(OSError):
                found = []
                for below in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                    found += [int(line) for line in (below / "cgroup.procs").read_text().split()]
                return tuple(pid for pid in found if pid)
        return ()

    def freeze(self, name: str, frozen: bool) -> None:
        """Stop or go on, everyone at once; returns when it is so. Raises OSError where it can't be."""
        folder = self._roots["freezer"] / name
        if self.version == 2:
            (folder / "cgroup.freeze").write_text("1" if frozen else "0")
            if frozen:
                self._until(lambda: "frozen 1" in (folder / "cgroup.events").read_text())
        else:
            state = folder / "freezer.state"
            state.write_text("FROZEN" if frozen else "THAWED")
            if frozen:
                self._until(lambda: state.read_text().strip() == "FROZEN")

    def remove(self, name: str) -> None:
        """Kill whoever is left and forget the groups. Raises OSError where somebody would not go."""
        if self.freezes:
            with contextlib.suppress(OSError):
                self.freeze(name, False)
        deadline = time.monotonic() + GONE_S_MAX
        for folder in self._of(name):
            while folder.exists():
                for pid in self.pids(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                try:
                    for below in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
                        below.rmdir()
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.002)

    def names(self) -> tuple[str, ...]:
        """Boxes that have groups: for whoever clears up after a kill."""
        found: set[str] = set()
        for root in self._roots.values():
            with contextlib.suppress(OSError):
                found |= {path.name for path in root.iterdir() if path.is_dir()}
        return tuple(sorted(found))

    def remove_all(self) -> None:
        """The folders themselves, once they are empty."""
        for root in self._roots.values():
            with contextlib.suppress(OSError):
                root.rmdir()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _of(self, name: str) -> list[Path]:
        return list(dict.fromkeys(root / name for root in self._roots.values()))

    def _split(self) -> dict[str, Path]:
        """Version 1: every controller has a tree of its own."""
        roots = {}
        wanted = {**CONTROLLERS, "freezer": "freezer", "cpuacct": "cpuacct"}
        for name, controller in wanted.items():
            root = self._mount / controller / "bastide" / self._folder
            if not (self._mount / controller / "cgroup.procs").exists():
                continue
            with contextlib.suppress(OSError):
                root.mkdir(parents=True, exist_ok=True)
                if os.access(root, os.W_OK):
                    roots[name] = root
        if "processes" in roots:  # first: joining must be counted before anything is forked
            roots = {"processes": roots["processes"], **roots}
        return roots

    def _unified(self) -> dict[str, Path]:
        """Version 2: below a group that is ours to divide; where several are, below the one that offers most."""
        offers: list[tuple[Path, list[str]]] = []
        for parent in self._parents():
            with contextlib.suppress(OSError):
                offered = (parent / "cgroup.controllers").read_text().split()
                offers.append((parent, [word for word in CONTROLLERS.values() if word in offered]))
        for parent, wanted in sorted(offers, key=lambda offer: -len(offer[1])):
            root = parent / f"bastide-{self._folder}"
            with contextlib.suppress(OSError):
                if not wanted:
                    continue
                self._divide(parent, wanted)
                root.mkdir(exist_ok=True)
                (root / "cgroup.subtree_control").write_text(" ".join(f"+{word}" for word in wanted))
                return {**{name: root for name, word in CONTROLLERS.items() if word in wanted}, "freezer": root}
        return {}

    def _parents(self) -> list[Path]:
        """Groups that we may divide: what systemd or a container gave to us, what our user owns, for root the top."""
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = self._mount / next((line[3:] for line in lines if line.startswith("0::")), "/").lstrip("/")
        near = [own, *([own.parent] if own != self._mount else [])]
        user = os.getuid()
        ours = [path for path in near if self._is_given(path)]
        ours += [path for path in near if user and path.exists() and path.stat().st_uid == user]
        return list(dict.fromkeys([*ours, *([self._mount] if user == 0 else [])]))

    def _is_given(self, path: Path) -> bool:
        """Whether systemd says that this group is delegated, or it is all that a container sees."""
        for name in ("trusted.delegate", "user.delegate"):
            with contextlib.suppress(OSError):
                if os.getxattr(path, name) == b"1":
                    return True
        return path == self._mount and (path / "cgroup.type").exists()  # the machine's own top has no type

    def _divide(self, parent: Path, wanted: list[str]) -> None:
        """Let its children be limited. One that was given to us is divided only while nobody is in it: who is steps aside."""
        words = " ".join(f"+{word}" for word in wanted)
        try:
            (parent / "cgroup.subtree_control").write_text(words)
        except OSError as error:
            if error.errno != errno.EBUSY or not self._is_given(parent):
                raise
            aside = parent / ASIDE
            aside.mkdir(exist_ok=True)
            for pid in (parent / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (aside / "cgroup.procs").write_text(pid)
            (parent / "cgroup.subtree_control").write_text(words)

    def _limit_split(self, name: str, limits: Limits) -> None:
        if "memory" in self._roots:
            folder = self._roots["memory"] / name
            wanted = str(limits.memory_bytes if limits.memory_bytes is not None else -1)
            both = folder / "memory.memsw.limit_in_bytes"
            order = [folder / "memory.limit_in_bytes", both]
            # Memory with swap may never be below memory: up goes the outer first, down the inner.
            for attempt in (order, order[::-1]):
                try:
                    for file in attempt:
                        if file.exists():
                            file.write_text(wanted)
                    break
                except OSError:
                    if attempt is not order:
                        raise
        if "cpu" in self._roots:
            quota = -1 if limits.cpu is None else max(1000, int(limits.cpu * PERIOD_US))
            (self._roots["cpu"] / name / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._roots["cpu"] / name / "cpu.cfs_quota_us").write_text(str(quota))
        if "processes" in self._roots:
            most = "max" if limits.processes is None else str(limits.processes)
            (self._roots["processes"] / name / "pids.max").write_text(most)

    def _limit_unified(self, name: str, limits: Limits) -> None:
        if "memory" in self._roots:
            folder = self._roots["memory"] / name
            (folder / "memory.max").write_text("max" if limits.memory_bytes is None else str(limits.memory_bytes))
            (folder / "memory.oom.group").write_text("0")
        if "cpu" in self._roots:
            quota = "max" if limits.cpu is None else str(max(1000, int(limits.cpu * PERIOD_US)))
            (self._roots["cpu"] / name / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        if "processes" in self._roots:
            most = "max" if limits.processes is None else str(limits.processes)
            (self._roots["processes"] / name / "pids.max").write_text(most)

    @staticmethod
    def _until(condition: object, limit_s: float = 2.0) -> None:
        assert callable(condition)
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("the group did not freeze in time")
            time.sleep(0.0005)
