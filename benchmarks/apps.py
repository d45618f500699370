"""Apps: how long a deploy takes, what sleep gives back and what waking costs, and many that sleep at once.

    python -m benchmarks.apps [--zram] [--apps 200] [--quick]

A deploy is `bastide deploy DIR` as a user runs it, to its end, with a FastAPI app whose requirements come from the
package index (the first time: nothing is cached, then with one changed line of code). Waking: one kept connection to the
gateway, an awake answer (the baseline), a step down, a pause, the request that wakes; an answer is counted when its last
byte is there. The fall of memory is the RSS of every process in the app's box, less what zram grew by. Then many small
apps (standard library alone) are declared by one file, each has run once, all sleep; counted are the memory of all of
them, the processor time of Bastide's own processes while they sleep, and the waking of twenty random ones.

Predicted before measuring: first deploy 4 s, second 1.2 s; frozen 4 ms, light 25 ms, deep 900 ms; light gives back 60 %
of 45 MiB net of zram; 200 small apps deployed in 60 s, 1 MiB each asleep in light, own processes below 1 % of a core.
"""

from __future__ import annotations

import http.client
import json
import random
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bastide.cli.apps import uploaded
from benchmarks.house import House, house
from benchmarks.instruments import exact_cpu_s, memory, zram, zram_used_bytes
from benchmarks.record import Record, arguments, predicted, workplace

MIB = 2**20
ROUNDS = 25
PAUSE_S = 0.15
REST_S = 20.0
PICKED = 20
BARS_S = {"first": 10.0, "second": 1.5}
LIGHT_MS = 30.0
NET_SHARE = 0.55
FASTAPI = """
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
def root(): return {"hello": "world"}
"""
SMALL = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args): pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


class Client:
    """One kept connection to the gateway."""

    def __init__(self, town: House) -> None:
        parts = urlsplit(town.client.url)
        self._line = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        self._key = town.client.key

    def ask(self, name: str) -> tuple[float, str]:
        """Seconds to the last byte of the answer, and the rung it woke from."""
        began_s = time.perf_counter()
        self._line.request("GET", f"/apps/default/{name}/", headers={"X-Bastide-Key": self._key})
        answer = self._line.getresponse()
        body = answer.read()
        took_s = time.perf_counter() - began_s
        if answer.status != 200:
            raise RuntimeError(f"{name} answered {answer.status}: {body[:300]!r}")
        return took_s, answer.getheader("x-bastide-wake") or ""


def tree(pid: int) -> list[int]:
    """A process and everyone below it."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def rss_bytes(pid: int) -> dict[str, int]:
    seen = [memory(one) for one in tree(pid)]
    return {name: sum(part[name] for part in seen) for name in ("rss_bytes", "pss_bytes")}


def deploys(town: House, work: Path, record: Record, count: int) -> None:
    folder = work / "hello"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "requirements.txt").write_text("fastapi\nuvicorn\n")
    times_s = []
    for number in range(count + 1):
        (folder / "main.py").write_text(FASTAPI + f"# {number}\n")
        began_s = time.perf_counter()
        town.command("deploy", str(folder))
        times_s.append(time.perf_counter() - began_s)
    again_s = []
    for _ in range(count):
        began_s = time.perf_counter()
        town.command("deploy", str(folder))
        again_s.append(time.perf_counter() - began_s)
    record.details["deploy"] = {"first_s": times_s[0], "changed_s": times_s[1:], "unchanged_s": again_s}
    for which, took_s in (("first", times_s[0]), ("second", statistics.median(times_s[1:]))):
        what = "first time, nothing cached" if which == "first" else "second time, one line changed"
        record.row(
            f"deploy of a FastAPI directory, {what}",
            f"<= {BARS_S[which]:g} s",
            f"{took_s:.2f} s",
            took_s <= BARS_S[which],
        )


def wakes(town: House, record: Record, rungs: tuple[str, ...], count: int) -> None:
    client = Client(town)
    client.ask("hello")
    time.sleep(2.0)
    found: dict[str, Any] = {"awake_ms": []}
    for rung in rungs:
        found[rung] = {"ms": []}
    for number in range(count):
        for rung in rungs:
            if rung == "deep" and number % 5:
                continue  # it is slow, and what it costs varies little
            client.ask("hello")
            time.sleep(PAUSE_S)
            found["awake_ms"].append(client.ask("hello")[0] * 1000)
            town.sleep("hello", rung)
            time.sleep(PAUSE_S)
            if rung == "deep":
                forget_kept(town)
            took_s, woke = client.ask("hello")
            if woke != rung:
                raise RuntimeError(f"it woke from {woke}, not {rung}")
            found[rung]["ms"].append(took_s * 1000)
    record.details["wake"] = found
    awake_ms = statistics.median(found["awake_ms"])
    for rung in ("frozen", "light", "deep"):
        what = "deep with nothing kept (a cold start)" if rung == "deep" else rung
        figure = f"wake from {what}, FastAPI, request to answer, p50 (awake {awake_ms:.1f} ms)"
        if rung not in found:
            record.row(figure, "<= 30 ms", "not measured", None, "needs swap in zram; run with --zram")
            continue
        p50, worst = statistics.median(found[rung]["ms"]), max(found[rung]["ms"])
        bar = "<= 30 ms" if rung == "light" else ""
        record.row(figure, bar, f"{p50:.1f} ms (worst {worst:.1f})", p50 <= LIGHT_MS if bar else None)


def forget_kept(town: House) -> None:
    """Where a tier keeps processes over the deep rung: what it kept is believed no more, so that the next start is a cold one."""
    for whole in town.data.glob("isolation/apps/kept/*/whole"):
        whole.unlink()


def deep_with_processes(town: House, work: Path, record: Record, tier: str, bar_ms: float, count: int) -> None:
    """Where the tier saves processes, an app goes on with its memory."""
    name = f"kept-{tier}"
    folder = work / name
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text("fastapi\nuvicorn\n")
    (folder / "main.py").write_text(FASTAPI)
    (folder / "bastide.yaml").write_text(f"services: {{{name}: {{app: ., isolation: {tier}}}}}\n")
    by = {"namespace": "namespace tier, by CRIU", "gvisor": "gVisor"}[tier]
    figure, bar = f"deep wake of a FastAPI app, {by}, with its processes, request to answer, p50", f"<= {bar_ms:.0f} ms"
    try:
        town.command("deploy", str(folder))
    except subprocess.CalledProcessError:
        record.row(figure, bar, "not measured", None, f"the {tier} tier does not hold here")
        return
    client, times_ms, bytes_kept = Client(town), [], 0
    client.ask(name)
    for _ in range(count):
        town.sleep(name, "deep")
        if not list(town.data.glob("isolation/apps/kept/*/whole")):
            record.row(figure, bar, "not measured", None, f"the {tier} tier keeps no processes here: a cold start")
            return
        bytes_kept = sum(file.stat().st_size for file in town.data.glob("isolation/apps/kept/*/image/*"))
        times_ms.append(client.ask(name)[0] * 1000)
        time.sleep(PAUSE_S)
    record.details[f"deep_{tier}"] = {"ms": times_ms, "kept_bytes": bytes_kept}
    p50 = statistics.median(times_ms)
    kept = f"{bytes_kept / 2**20:.0f} MiB kept on disk"
    record.row(figure, bar, f"{p50:.0f} ms (worst {max(times_ms):.0f}); {kept}", p50 <= bar_ms)


def given_back(town: House, record: Record, lives: int) -> None:
    """Light sleep of a process that has just answered for the first time in its life, all of it: several lives."""
    client = Client(town)
    seen = []
    for _ in range(lives):
        town.sleep("hello", "deep")
        forget_kept(town)
        client.ask("hello")
        client.ask("hello")
        time.sleep(2.0)  # the first check of a new process is behind it
        pid = town.awake_pid("hello")
        before, zram_before = rss_bytes(pid), zram_used_bytes()
        town.sleep("hello", "light")
        time.sleep(PAUSE_S)
        after, grown = rss_bytes(pid), max(0, zram_used_bytes() - zram_before)
        seen.append({"zram_bytes": grown, **{f"{k}_before": v for k, v in before.items()}, **after})
    record.details["given_back"] = seen
    middle = {name: statistics.median(one[name] for one in seen) for name in seen[0]}
    for kind in ("rss_bytes", "pss_bytes"):
        before, fell = middle[f"{kind}_before"], middle[f"{kind}_before"] - middle[kind]
        net = (fell - middle["zram_bytes"]) / before
        text = f"{fell / MIB:.1f} of {before / MIB:.1f} MiB; net of {middle['zram_bytes'] / MIB:.1f} zram {100 * net:.0f} %"
        name = kind.partition("_")[0].upper()
        met = net >= NET_SHARE if kind == "rss_bytes" else None
        why = "pages of the interpreter that Bastide's own processes map too are not paged out" if met is False else ""
        record.row(
            f"{name} of a FastAPI app's whole box given back on light",
            ">= 55 % net" if met is not None else "",
            text,
            met,
            why,
        )


def many(town: House, work: Path, record: Record, count: int, rung: str) -> None:
    folder = work / "small"
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(SMALL)
    names = [f"small-{number}" for number in range(count)]
    spec = {"services": {name: {"app": "small", "sleep": {rung: "1s"}} for name in names}}
    began_s = time.perf_counter()
    town.deploy(uploaded(town.client, json.dumps(spec), work, quiet=True))
    deploy_s = time.perf_counter() - began_s
    while True:
        found = [i for s in town.client.services()["services"] for i in s["instances"] if s["name"] in names]
        if all(instance["phase"] == rung for instance in found):
            break
        time.sleep(0.5)
    pids = [int(instance["pid"]) for instance in found]
    held = [rss_bytes(pid) for pid in pids]
    own = town.processes()
    before = {role: exact_cpu_s(pid) for role, pid in own.items()}
    began_s = time.perf_counter()
    time.sleep(REST_S if count > 20 else 2.0)
    rest_s = time.perf_counter() - began_s
    cpu_s = {role: exact_cpu_s(pid) - before[role] for role, pid in own.items()}
    app_cpu = sum(exact_cpu_s(one) for pid in pids for one in tree(pid))
    time.sleep(1.0)
    app_cpu = sum(exact_cpu_s(one) for pid in pids for one in tree(pid)) - app_cpu
    client = Client(town)
    client.ask(names[0])
    times_ms = []
    for name in random.Random(1).sample(names[1:], min(PICKED, count - 1)):
        took_s, woke = client.ask(name)
        if woke == rung:
            times_ms.append(took_s * 1000)
    pss = sum(part["pss_bytes"] for part in held)
    used = zram_used_bytes()
    record.details["many"] = {
        "apps": count, "rung": rung, "deploy_s": deploy_s, "pss_bytes": pss, "zram_bytes": used, "own_cpu_s": cpu_s,
        "rest_s": rest_s, "wake_ms": times_ms, "apps_cpu_s_in_1_s": app_cpu,
    }  # fmt: skip
    record.row(f"{count} small apps declared by one file, each started once", "", f"{deploy_s:.1f} s", None)
    text = f"{pss / MIB:.0f} MiB PSS + {used / MIB:.0f} MiB zram ({(pss + used) / count / MIB:.1f} MiB each)"
    record.row(f"memory of {count} apps asleep in {rung}", "", text, None)
    share = 100 * sum(cpu_s.values()) / rest_s
    record.row(
        f"processor while {count} apps sleep: Bastide's own processes, the apps", "",
        f"{share:.2f} %, {100 * app_cpu:.2f} % of a core", None,
    )  # fmt: skip
    median = statistics.median(times_ms)
    record.row(
        f"any one of {count} wakes from {rung}, p50 of {len(times_ms)}", "<= 30 ms", f"{median:.1f} ms (worst {max(times_ms):.1f})",
        median <= LIGHT_MS,
    )  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--apps", type=int, default=200, help="how many sleep at once")
    asked = parser.parse_args()
    record = Record("apps", predicted(__doc__))
    with workplace(asked.work) as work, zram(asked.zram) as has_zram, house(work) as town:
        rungs = ("frozen", *(("light",) if has_zram else ()), "deep")
        try:
            deploys(town, work, record, 1 if asked.quick else 7)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"the package index is needed for this measurement: {error.stderr[-500:]!r}") from error
        wakes(town, record, rungs, 1 if asked.quick else ROUNDS)
        for tier, bar_ms in (("namespace", 200.0), ("gvisor", 350.0)):
            deep_with_processes(town, work, record, tier, bar_ms, 2 if asked.quick else ROUNDS)
        if has_zram:
            given_back(town, record, 1 if asked.quick else 5)
        many(town, work, record, 4 if asked.quick else asked.apps, "light" if has_zram else "frozen")
    record.write(asked.quick, asked.out)


if __name__ == "__main__":
    main()
