"""Which rungs hold on this machine, found by trying: a small process is put to each and woken again.

Paging out needs zram or encrypted swap, for memory holds prompts; without it the light rung is refused.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bastide.adapters.runtime import proc
from bastide.domain.lifecycle import Rung
from bastide.domain.units import format_bytes

TEST_BYTES = 24 * 2**20
PAGING = Path(proc.__file__).with_name("paging.py")
# A process that holds TEST_BYTES of compressible memory, pages itself out when told, and touches all of it again.
_SUBJECT = """
import sys, importlib.util
spec = importlib.util.spec_from_file_location("paging", sys.argv[1])
paging = importlib.util.module_from_spec(spec); spec.loader.exec_module(paging)
held = bytearray(b"bastide!" * (int(sys.argv[2]) // 8))
print("ready", flush=True)
for line in sys.stdin:
    if line == "out\\n": paging.page_out_self()
    else: sum(held[::4096])
    print("done", flush=True)
"""


@dataclass(frozen=True, slots=True)
class RungTest:
    """`reason`: why it does not hold, or how it was seen to; `allow`: what would let it hold."""

    rung: Rung
    holds: bool
    reason: str
    allow: str = ""
    wake_s: float = 0.0


def test_rungs() -> tuple[RungTest, ...]:
    """Try every rung that keeps a process. Takes about a tenth of a second."""
    areas = proc.swap_areas()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SUBJECT, str(PAGING), str(TEST_BYTES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as subject:
        try:
            _hear(subject)
            found = (_frozen(subject), _light(subject, areas))
        finally:
            subject.kill()
    deep = RungTest(Rung.DEEP, True, "the process ends; prompt caches stay in memory, weights in the page cache")
    return (*found, deep)


def holding(tests: tuple[RungTest, ...]) -> frozenset[Rung]:
    return frozenset({test.rung for test in tests if test.holds} | {Rung.OFF})


def _hear(subject: subprocess.Popen[str]) -> None:
    assert subject.stdout is not None
    if not subject.stdout.readline():
        raise OSError("the test process ended")


def _say(subject: subprocess.Popen[str], text: str) -> None:
    assert subject.stdin is not None
    subject.stdin.write(text + "\n")
    subject.stdin.flush()
    _hear(subject)


def _frozen(subject: subprocess.Popen[str]) -> RungTest:
    try:
        subject.send_signal(19)  # SIGSTOP
        for _ in range(1000):
            if Path(f"/proc/{subject.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                break
            time.sleep(0.001)
        else:
            return RungTest(Rung.FROZEN, False, "a stopped process went on running")
    finally:
        subject.send_signal(18)  # SIGCONT
    began = time.perf_counter()
    _say(subject, "touch")
    return RungTest(Rung.FROZEN, True, "a process can be stopped and goes on", wake_s=time.perf_counter() - began)


def _light(subject: subprocess.Popen[str], areas: tuple[tuple[str, int], ...]) -> RungTest:
    mend = "set up zram as root: `bastide doctor --explain zram`"
    if not areas:
        return RungTest(Rung.LIGHT, False, "there is no swap to page out into", mend)
    open_areas = [device for device, _ in areas if not proc.is_private_swap(device)]
    if open_areas:
        return RungTest(
            Rung.LIGHT,
            False,
            f"memory holds prompts, and the swap on {', '.join(open_areas)} is neither zram nor encrypted",
            f"turn it off (`swapoff`) or encrypt it, then {mend}",
        )
    before = proc.footprint(subject.pid)
    _say(subject, "out")
    after = proc.footprint(subject.pid)
    given_back = before.resident_bytes - after.resident_bytes - after.zram_bytes
    if given_back < TEST_BYTES // 2:
        return RungTest(
            Rung.LIGHT,
            False,
            f"paging out gave back only {format_bytes(max(0, given_back))} of {format_bytes(before.resident_bytes)}; "
            "the kernel may lack MADV_PAGEOUT, or swap is full",
            mend,
        )
    began = time.perf_counter()
    _say(subject, "touch")
    took_s = time.perf_counter() - began
    return RungTest(
        Rung.LIGHT,
        True,
        f"paging out gave back {format_bytes(given_back)} of {format_bytes(before.resident_bytes)}",
        "",
        took_s,
    )
