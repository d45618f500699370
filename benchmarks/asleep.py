"""A house full of sleepers: apps and sandboxes asleep side by side on one machine, what they hold, and how quickly one is back.

Every one was started and used once. Memory is their PSS and what zram holds for them. Any one is woken by a request, or an exec,
chosen by chance; the bar is that of a light wake.

Predicted before measuring: an app 6 MiB and a sandbox 9 MiB, nearly all of it in zram; no processor; wakes of 25 ms.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from bastide import Sandbox
from bastide.cli.apps import uploaded
from benchmarks.apps import LIGHT_MS, MIB, PICKED, SMALL, Client, rss_bytes, tree
from benchmarks.house import House, house
from benchmarks.instruments import exact_cpu_s, memory, zram, zram_used_bytes
from benchmarks.record import Record, arguments, predicted, workplace

REST_S = 20.0
TIERS = ("gvisor", "namespace")


def sleeping_apps(town: House, work: Path, count: int) -> list[int]:
    """First processes of that many apps, each started once and paged out."""
    folder = work / "small"
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(SMALL)
    names = [f"small-{number}" for number in range(count)]
    spec = {"services": {name: {"app": "small", "sleep": {"light": "1s"}} for name in names}}
    town.deploy(uploaded(town.client, json.dumps(spec), work, quiet=True))
    while True:
        found = [i for s in town.client.services()["services"] for i in s["instances"] if s["name"] in names]
        if all(instance["phase"] == "light" for instance in found):
            return [int(instance["pid"]) for instance in found]
        time.sleep(0.5)


def sleeping_sandboxes(town: House, tier: str, count: int) -> list[Sandbox]:
    made = []
    for _ in range(count):
        sandbox = Sandbox.create(client=town.client, tier=tier, timeout=7200, memory="256MiB")
        sandbox.exec(("/bin/true",))
        sandbox.rest()
        made.append(sandbox)
    return made


def sandbox_pids(own: set[int]) -> list[int]:
    """Everyone below the keeper of sandboxes but the keeper itself."""
    found: list[int] = []
    for pid in own:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"keeper.py") for word in words) and any(word.endswith(b"/boxes") for word in words):
            found += [one for one in tree(pid) if one != pid]
    return found


def measured(town: House, record: Record, app_pids: list[int], tier: str, sandboxes: list[Sandbox]) -> None:
    own = town.processes()
    everyone = {one for pid in own.values() for one in tree(pid)}
    boxed = sandbox_pids(everyone | keepers())
    apps = [rss_bytes(pid) for pid in app_pids]
    held = [memory(pid) for pid in boxed]
    app_pss, box_pss = sum(part["pss_bytes"] for part in apps), sum(part["pss_bytes"] for part in held)
    used = zram_used_bytes()
    sleepers = [one for pid in app_pids for one in tree(pid)] + boxed
    before = {role: exact_cpu_s(pid) for role, pid in own.items()}
    asleep_before = sum(exact_cpu_s(one) for one in sleepers)
    began_s = time.perf_counter()
    time.sleep(REST_S)
    took_s = time.perf_counter() - began_s
    own_cpu = sum(exact_cpu_s(pid) - before[role] for role, pid in own.items())
    asleep_cpu = sum(exact_cpu_s(one) for one in sleepers) - asleep_before
    what = f"{len(app_pids)} apps + {len(sandboxes)} {tier} sandboxes asleep"
    text = f"{(app_pss + box_pss) / MIB:.0f} MiB PSS ({app_pss / MIB:.0f} apps, {box_pss / MIB:.0f} sandboxes) + {used / MIB:.0f} MiB zram"
    record.row(f"memory of {what}", "a table", text, None)
    record.row(
        f"processor of {what}: Bastide's own processes, the sleepers", "a table",
        f"{100 * own_cpu / took_s:.2f} %, {100 * asleep_cpu / took_s:.2f} % of a core", None,
    )  # fmt: skip
    chance, client = random.Random(1), Client(town)
    client.ask("small-0")
    app_ms = [client.ask(f"small-{n}") for n in chance.sample(range(1, len(app_pids)), min(PICKED, len(app_pids) - 1))]
    woken = [took_s * 1000 for took_s, rung in app_ms if rung == "light"]
    box_ms = []
    for sandbox in chance.sample(sandboxes, min(PICKED, len(sandboxes))):
        began_s = time.perf_counter()
        sandbox.exec(("/bin/true",))
        box_ms.append((time.perf_counter() - began_s) * 1000)
    record.details["asleep"] = {
        "apps": len(app_pids), "sandboxes": len(sandboxes), "tier": tier, "apps_pss_bytes": app_pss, "sandboxes_pss_bytes": box_pss,
        "zram_bytes": used, "own_cpu_s": own_cpu, "sleepers_cpu_s": asleep_cpu, "rest_s": took_s, "app_wake_ms": woken,
        "sandbox_wake_ms": box_ms,
    }  # fmt: skip
    for name, times_ms, limit_ms in (
        ("an app", woken, LIGHT_MS),
        (f"a {tier} sandbox, to the end of an exec", box_ms, None),
    ):
        p50 = statistics.median(times_ms)
        record.row(
            f"any one wakes: {name}, p50 of {len(times_ms)}", "<= 30 ms" if limit_ms else "",
            f"{p50:.1f} ms (worst {max(times_ms):.1f})", p50 <= limit_ms if limit_ms else None,
        )  # fmt: skip


def keepers() -> set[int]:
    """Keepers are nobody's children: they outlive who started them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"keeper.py" in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--apps", type=int, default=500)
    parser.add_argument("--sandboxes", type=int, default=200)
    asked: Any = parser.parse_args()
    record = Record("asleep", predicted(__doc__))
    apps, count = (4, 2) if asked.quick else (asked.apps, asked.sandboxes)
    options = ("--sandbox-spares", "0", "--sandbox-memory", "64GiB")
    with workplace(asked.work) as work, zram(asked.zram) as has_zram:
        if not has_zram:
            record.row(
                "apps and sandboxes asleep", "a table", "not measured", None, "needs swap in zram; run with --zram"
            )
        else:
            with house(work, "16GiB", *options) as town:
                reports = town.client.transport.ask("GET", "/api/v1/templates")["tiers"]
                holds = [report["tier"] for report in reports if report["holds"]]
                tier = next(tier for tier in TIERS if tier in holds)
                sandboxes = sleeping_sandboxes(town, tier, count)
                measured(town, record, sleeping_apps(town, work, apps), tier, sandboxes)
    record.write(asked.quick, asked.out)


if __name__ == "__main__":
    main()
