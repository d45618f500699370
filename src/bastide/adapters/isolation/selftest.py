"""Does a tier hold here? A small program is started in it and looks for what it must not find. Takes up to two seconds.

A result is remembered for this boot and this very program, so that a restart does not pay for it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from bastide.adapters.isolation.folders import Folders, interpreter
from bastide.adapters.runtime import boxstart, proc
from bastide.domain.errors import BastideError
from bastide.domain.isolation import Box, Limits, Mount, Tier, TierReport
from bastide.ports.isolation import Isolation

TEST_S_MAX = 20.0
FORKS = 40  # a runsc built with the wrong Go falls over within a few
# Runs inside, as whatever an instance would run as; says what it found as one line of JSON.
PROBE = r"""
import ctypes, json, os, subprocess, sys
canary, host_pid = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
found = []
def may(what, doing):
    try:
        if doing() is not False:
            found.append(what)
    except BaseException:
        pass
may("sees a host's file", lambda: os.stat(canary) and True)
may("writes to the host's programs", lambda: open("/usr/.bastide-probe", "w") and True)
may("writes to its root", lambda: open("/.bastide-probe", "w") and True)
may("sees the host's processes", lambda: host_pid > 64 and os.path.exists("/proc/%d/stat" % host_pid))
may("has a network", lambda: any(l.split(":")[0].strip() != "lo" for l in open("/proc/net/dev").read().splitlines()[2:]))
may("sees the host's devices", lambda: any(n.startswith(("sd", "vd", "nvme", "kmsg", "mem", "kvm", "loop")) for n in os.listdir("/dev")))
may("mounts", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 and not TIER_GVISOR)
if not TIER_GVISOR:
    may("makes a user namespace", lambda: libc.unshare(0x10000000) == 0)
    status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
    may("has capabilities", lambda: int(status["CapEff"], 16) or int(status["CapBnd"], 16) or False)
    may("has no system-call filter", lambda: status["Seccomp"].strip() != "2")
try:
    for _ in range(FORKS):
        subprocess.run(["/bin/true"], check=True)
except BaseException as error:
    found.append("can not run programs (%s)" % error)
print("found:" + json.dumps(found), flush=True)
"""


class Testable(Isolation, Protocol):
    def version(self) -> str: ...
    def identity(self) -> str:
        """Changes whenever the programs it stands on do."""
        ...


def tested(isolation: Testable, folders: Folders) -> TierReport:
    """The report of a tier; from this boot's memory where nothing has changed."""
    limits = folders.groups.enforces
    lacking = isolation.refuses(Box("probe", isolation.tier, ("true",)))
    if lacking is not None:
        return TierReport(isolation.tier, False, lacking, mend=_mend(isolation.tier), limits=limits)
    folders.make()
    key = hashlib.sha256(
        "|".join((isolation.identity(), proc.boot_id(), platform.release(), str(os.getuid()), PROBE)).encode()
    ).hexdigest()
    memory = memory_of(isolation.tier.value)
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text())
        if known["key"] == key and known["holds"]:
            return _report(isolation, True, known["detail"], limits)
    holds, detail = _run(isolation, folders)
    with contextlib.suppress(OSError):
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = memory.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"key": key, "holds": holds, "detail": detail}))
        part.replace(memory)
    return _report(isolation, holds, detail, limits)


def memory_of(what: str) -> Path:
    """Below the user's own cache, for every Bastide of theirs: the walls are the machine's."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "bastide" / f"tier-{what}.json"


def _report(isolation: Testable, holds: bool, detail: str, limits: frozenset[str]) -> TierReport:
    pauses = bool(getattr(isolation, "pauses", False))
    mend = "" if holds else _mend(isolation.tier)
    return TierReport(isolation.tier, holds, detail, isolation.version(), mend, limits, pauses)


def _mend(tier: Tier) -> str:
    return "bastide doctor --explain gvisor" if tier is Tier.GVISOR else "bastide doctor --explain namespace"


def _run(isolation: Testable, folders: Folders) -> tuple[bool, str]:
    program, needs = interpreter()
    canary = folders.data / f"canary-{secrets.token_hex(4)}"
    canary.write_text("not for you")
    script = PROBE.replace("TIER_GVISOR", str(isolation.tier is Tier.GVISOR)).replace("FORKS", str(FORKS))
    box = Box(
        f"probe-{secrets.token_hex(4)}",
        isolation.tier,
        (program, "-I", "-S", "-c", script, str(canary), str(os.getpid())),
        environment=(("PATH", "/usr/bin:/bin"),),
        mounts=tuple(Mount(need, need) for need in needs),
        limits=Limits(),
    )
    try:
        launch: Any = dataclasses.asdict(isolation.prepare(box))
        ran = subprocess.run(
            [sys.executable, "-I", "-S", boxstart.__file__, json.dumps(launch)],
            capture_output=True, text=True, timeout=TEST_S_MAX, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"a test inside did not end within {TEST_S_MAX:.0f} s"
    except (BastideError, OSError) as error:
        return False, str(error)
    finally:
        canary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            isolation.clear(box)
    for line in ran.stdout.splitlines():
        if line.startswith("found:"):
            found = json.loads(line[6:])
            return (False, "what runs inside " + ", ".join(found)) if found else (True, "its walls stood a test")
    said = (ran.stderr or ran.stdout).strip().splitlines()
    return False, f"nothing could be run in it: {' | '.join(said[-3:])[:400] or f'status {ran.returncode}'}"
