"""What /proc and /sys say of processes and memory. Reads only."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from pathlib import Path

from bastide.domain.instances import Footprint

PAGE_BYTES = mmap.PAGESIZE


def boot_id() -> str:
    """Differs after every boot, so that process identities of an earlier one never match."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def footprint(pid: int) -> Footprint:
    """Memory the process holds now; all zero where it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return Footprint()
    values: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    swapped = values.get("SwapPss", 0)
    return Footprint(
        anonymous_bytes=values.get("Pss_Anon", 0) + values.get("Pss_Shmem", 0),
        file_bytes=values.get("Pss_File", 0),
        swapped_bytes=swapped,
        zram_bytes=int(swapped * zram_ratio()),
    )


def cpu_s(pid: int) -> float:
    """Processor time it has used, its reaped children's too; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def zram_ratio() -> float:
    """RAM used per byte swapped to zram (0.1 to 0.4); 1 where nothing can be said, 0 where no swap is zram.

    By the pages that the kernel counts as swapped out, not by those that reached zram: newer kernels keep pages of
    zeros, such as an unused part of a KV cache, in a bit of their own.
    """
    swapped = used = 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/swaps").read_text().splitlines()[1:]:
            device, _, _, used_kib = line.split()[:4]
            if os.path.basename(device).startswith("zram"):
                swapped += int(used_kib) * 1024
                used += int(Path(f"/sys/block/{os.path.basename(device)}/mm_stat").read_text().split()[2])
    return min(1.0, used / swapped) if swapped else (1.0 if any(Path("/sys/block").glob("zram*")) else 0.0)


def swap_areas() -> tuple[tuple[str, int], ...]:
    """(device, bytes) of every swap area in use."""
    try:
        lines = Path("/proc/swaps").read_text().splitlines()[1:]
    except OSError:
        return ()
    return tuple((line.split()[0], int(line.split()[2]) * 1024) for line in lines if line.split())


def is_private_swap(device: str) -> bool:
    """Whether what is swapped there can't be read from a disk: zram, or an encrypted block device."""
    name = os.path.basename(os.path.realpath(device))
    if name.startswith("zram"):
        return True
    try:
        return Path(f"/sys/block/{name}/dm/uuid").read_text().startswith("CRYPT-")
    except OSError:
        return False


def memory_bytes() -> tuple[int, int]:
    """(total, available) of this machine, in bytes, bounded by the memory limit of our own control group."""
    values: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    total, available = values["MemTotal"], values.get("MemAvailable", values["MemFree"])
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(path).read_text())
        except (OSError, ValueError):
            continue
        if 0 < limit < total:
            total, available = limit, min(available, limit)
    return total, available


def cached_share(path: str) -> float:
    """How much of a file is in the page cache, 0 to 1."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return 1.0
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as area:
                pages = (size + PAGE_BYTES - 1) // PAGE_BYTES
                seen = (ctypes.c_ubyte * pages)()
                start = ctypes.addressof(ctypes.c_char.from_buffer(area))
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), seen) != 0:
                    return 0.0
                share = sum(1 for page in bytes(seen) if page & 1) / pages
                return share
    except (OSError, ValueError, BufferError):
        return 0.0
