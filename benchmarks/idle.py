"""What an idle Bastide costs: processor time over a minute and memory, of all its own processes together.

    python -m benchmarks.idle [--quick]

One service sleeps (deep) and one is awake; nobody asks anything. After a minute's rest a minute is measured:
processor time from /proc/PID/stat (hundredths of a second; the scheduler's own clock is in the details), wake-ups from
the kernel's count of voluntary switches, memory as PSS, so that what processes share is counted once. Own processes are
the supervisor, agent, control, gateway and keeper; engines are not, they are what is kept.

Predicted before measuring: 0.5 % of a core, most of it control's fold every two seconds; 190 MB, half of it control
(FastAPI, SQLAlchemy, Alembic), then the keeper with the engine's library and the supervisor with Typer and Rich.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.house import House, house
from benchmarks.instruments import cpu_s, exact_cpu_s, memory, switches
from benchmarks.models import request, spec
from benchmarks.record import Record, arguments, predicted, workplace

CORE_SHARE_BAR = 0.01
MEMORY_BAR_BYTES = 200e6
REST_S = 60.0


def watch(town: House, rest_s: float) -> dict[str, Any]:
    """Every own process over `rest_s` seconds: share of a core, wake-ups a second, PSS."""
    own = town.processes()
    before = {role: (cpu_s(pid), exact_cpu_s(pid), switches(pid)) for role, pid in own.items()}
    began_s = time.monotonic()
    time.sleep(rest_s)
    took_s = time.monotonic() - began_s
    found = {}
    for role, pid in own.items():
        ticks, exact, switched = before[role]
        found[role] = {
            "core_share": round((cpu_s(pid) - ticks) / took_s, 6),
            "core_share_exact": round((exact_cpu_s(pid) - exact) / took_s, 6),
            "wakeups_per_s": round((switches(pid) - switched) / took_s, 2),
            **memory(pid),
        }
    return found


def main() -> None:
    asked = arguments(__doc__).parse_args()
    record = Record("idle", predicted(__doc__))
    rest_s = 0.5 if asked.quick else REST_S
    with workplace(asked.work) as work, house(work) as town:
        town.deploy("services:\n" + spec("sleeps", "builtin://tiny") + spec("awake", "builtin://tiny"))
        for service in ("sleeps", "awake"):
            town.line().ask(request(service))
        town.sleep("sleeps", "deep")
        time.sleep(rest_s)
        found = watch(town, rest_s)
    share = sum(seen["core_share"] for seen in found.values())
    held = sum(seen["pss_bytes"] for seen in found.values())
    record.details = {"processes": found, "core_share": round(share, 6), "pss_bytes": held, "seconds": rest_s}
    for role, seen in found.items():
        print(
            f"  {role:12} {seen['core_share_exact'] * 100:6.3f} % of a core {seen['wakeups_per_s']:7.2f} wake-ups/s "
            f"{seen['pss_bytes'] / 1e6:7.1f} MB"
        )
    largest = max(found, key=lambda role: found[role]["pss_bytes"])
    record.row("idle Bastide: share of a core over a minute", "< 1 %", f"{share * 100:.2f} %", share < CORE_SHARE_BAR)
    record.row(
        "idle Bastide: memory of all own processes (PSS)",
        "< 200 MB",
        f"{held / 1e6:.0f} MB",
        held < MEMORY_BAR_BYTES,
        f"largest: {largest}, {found[largest]['pss_bytes'] / 1e6:.0f} MB",
    )
    record.write(asked.quick, asked.out)


if __name__ == "__main__":
    main()
