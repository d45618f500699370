"""A thousand sleeping services on this machine, every one of which has run: what they cost, and how they wake.

    python -m benchmarks.thousand [--zram] [--services 1000] [--quick]

One spec file declares them all (`builtin://tiny`, replicas 0..1). Deploying proves each: started, its canary asked,
measured. Then 120 of them rest as live processes in `frozen` (in `light` with --zram), the others in `deep`. Measured are
the deployment, `bastide ps --json` as a user runs it (wall), the processor time of every own process over half a minute
while all sleep, memory, and the waking of twenty random ones, ten of the live and ten of the deep: the request that
wakes and, after it, the awake engine's answers to prompts that are new to it as well. Their bars are those of waking
and of the cold start.

Predicted before measuring: deployment 100 s, of which a third the engines' own starts on two cores, the rest control,
which looks at every service at every report; `ps` 0.6 s; control 0.5 % of a core; frozen 2.5 ms more, deep 35 ms more.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from benchmarks.cold_start import by_hand
from benchmarks.house import House, house
from benchmarks.idle import watch
from benchmarks.instruments import exact_cpu_s, zram
from benchmarks.models import request, source, spec
from benchmarks.record import Record, arguments, predicted, workplace
from benchmarks.wake import BARS_MS

LIVE = 120
PICKED = 10
PS_RUNS = 5
REST_S = 30.0
FRESH = ("Say,", "Now,", "Then,", "Well,", "So,")


def deploy(town: House, text: str) -> dict[str, Any]:
    own = town.processes()
    before = {role: exact_cpu_s(pid) for role, pid in own.items()}
    began_s = time.perf_counter()
    ready_s = town.deploy(text)
    took_s = time.perf_counter() - began_s
    return {
        "deploy_s": round(took_s, 1),
        "each_hundredth_ready_s": [round(at_s, 1) for at_s in ready_s[::100]],
        "deploy_cpu_s": {role: round(exact_cpu_s(pid) - before[role], 1) for role, pid in own.items()},
    }


def until_all_sleep(town: House, live: str) -> dict[str, int]:
    """Wait until every instance rests. Returns how many rest on which rung."""
    while True:
        count: dict[str, int] = {}
        for service in town.client.services()["services"]:
            for instance in service["instances"]:
                count[instance["phase"]] = count.get(instance["phase"], 0) + 1
        if set(count) <= {"deep", "off", live}:
            return count
        time.sleep(0.5)


def wake(town: House, names: list[str], rung: str) -> dict[str, Any]:
    """Each is woken once, then asked again awake."""
    line = town.line()
    more, first = [], []
    for name in names:
        time.sleep(0.2)
        woken = line.ask(request(name))
        if woken.rung not in (rung, ""):
            raise RuntimeError(f"{name} woke from {woken.rung}, not {rung}")
        # It was never asked this before, so the awake engine reads a new prompt too, each time.
        awake = statistics.median(line.ask(request(name, first=word)).first_s for word in FRESH)
        more.append((woken.first_s - awake) * 1000)
        first.append(woken.first_s * 1000)
    line.close()
    return {
        "first_token_ms": round(statistics.median(first), 2),
        "more_ms": round(statistics.median(more), 2),
        "more_worst_ms": round(max(more), 2),
        "each_more_ms": [round(value, 2) for value in more],
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--services", type=int, default=1000)
    asked = parser.parse_args()
    record = Record("thousand", predicted(__doc__))
    count, live_count = (20, 6) if asked.quick else (asked.services, min(LIVE, asked.services // 2))
    picked = 3 if asked.quick else PICKED
    names = [f"s{number:04d}" for number in range(count)]
    chance = random.Random(20)
    found = record.details
    with workplace(asked.work) as work, zram(asked.zram) as has_zram:
        live = "light" if has_zram else "frozen"
        lines = [
            spec(name, "builtin://tiny", f"{{{live}: 10s}}" if number < live_count else "{deep: 3s}")
            for number, name in enumerate(names)
        ]
        _, weights = source("tiny", work)
        with house(work, "12GiB") as town:
            found |= deploy(town, "services:\n" + "".join(lines))
            found["rest"] = until_all_sleep(town, live)
            time.sleep(1.0 if asked.quick else 5.0)
            found["asleep"] = watch(town, 1.0 if asked.quick else REST_S)
            took = []
            for _ in range(PS_RUNS):
                began_s = time.perf_counter()
                town.command("ps", "--json")
                took.append(time.perf_counter() - began_s)
            found["ps_s"] = round(statistics.median(took), 3)
            found[live] = wake(town, chance.sample(names[:live_count], picked), live)
            found["deep"] = wake(town, chance.sample(names[live_count:], picked), "deep")
        hand_ms = statistics.median(by_hand("tiny", weights, work) for _ in range(3 if asked.quick else 9)) * 1000
    found["by_hand_ms"] = round(hand_ms, 2)
    report(record, count, live, hand_ms)
    record.write(asked.quick, asked.out)


def report(record: Record, count: int, live: str, hand_ms: float) -> None:
    found = record.details
    rest = ", ".join(f"{number} {rung}" for rung, number in sorted(found["rest"].items()))
    dearest = max(found["deploy_cpu_s"], key=lambda role: found["deploy_cpu_s"][role])
    record.row(
        f"{count} services deployed from one file, each proven",
        "",
        f"{found['deploy_s']:.0f} s",
        None,
        f"CPU of {dearest}: {found['deploy_cpu_s'][dearest]:.0f} s",
    )
    record.row(f"{count} services asleep, live processes in {live}", ">= 100", rest, found["rest"].get(live, 0) >= 100)
    record.row(f"bastide ps with {count} services, wall", "< 1 s", f"{found['ps_s']:.2f} s", found["ps_s"] < 1.0)
    share = found["asleep"]["control"]["core_share_exact"]
    record.row("control while all sleep, share of a core", "< 5 %", f"{share * 100:.2f} %", share < 0.05)
    all_share = sum(seen["core_share_exact"] for seen in found["asleep"].values())
    held = {role: seen["pss_bytes"] / 1e6 for role, seen in found["asleep"].items()}
    record.row("all own processes while all sleep, share of a core", "", f"{all_share * 100:.2f} %", None)
    text = ", ".join(f"{role} {size:.0f}" for role, size in held.items())
    record.row("memory of own processes (PSS)", "", f"{sum(held.values()):.0f} MB", None, text)
    bar = BARS_MS[live]
    seen = found[live]
    record.row(
        f"{len(seen['each_more_ms'])} random ones woken from {live}: more than awake, median (worst)",
        f"<= {bar:g} ms",
        f"{seen['more_ms']:.1f} ({seen['more_worst_ms']:.1f}) ms",
        seen["more_ms"] <= bar,
    )
    seen = found["deep"]
    ratio = seen["first_token_ms"] / hand_ms
    record.row(
        f"{len(seen['each_more_ms'])} random ones woken from deep: first token, times a start by hand",
        "<= 1.15",
        f"{ratio:.2f} ({seen['first_token_ms']:.0f} against {hand_ms:.0f} ms)",
        ratio <= 1.15,
    )


if __name__ == "__main__":
    main()
