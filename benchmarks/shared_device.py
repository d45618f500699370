"""Twelve models on memory for four: the shipped policy, a fixed keep-alive and swapping as asked, beside the forecast.

    python -m benchmarks.shared_device --data DIR [--seconds 600] [--quick]

Twelve files of random weights in the shape of a 135M model (Q8_0, each its own), all under one real Bastide whose memory
holds four. Arrivals are ServeGen's (benchmarks/arrivals.py says which clients and how they are compressed), the same for all; each request
is streamed, its prompt is its own, and its first token is timed by the client from the moment it was due. A request that
is refused or fails counts with the longest wait it may have (60 s).

Three policies, each on a fresh Bastide with the same services, engine and wake ladder: `shipped`; `keep_alive`, where
everybody stays for a fixed time after the last request and nobody gives way sooner (the time is the one that the
simulator finds best for it, of 2, 5, 10, 20, 40 s); `first_come`, where whoever is asked for has the place of the one used longest ago, at once, as
llama-swap does. Then the same arrivals in the simulator, by the costs that `bastide calibrate` measures here, and how
far its forecast was off.

Predicted before measuring: shipped p50 0.3 s, p99 3 s; first come p50 0.3 s, p99 5 s, twice the swaps; keep-alive p50 5 s,
p99 30 s. The forecast is off by 25 % in the median and 50 % in p99, for it knows the machine by a few figures only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bastide.adapters.store.sqlite import SqliteStore
from bastide.builtin.tiny import weights_path
from benchmarks.arrivals import Arrival, arrivals, clients, made_up
from benchmarks.house import House, house
from benchmarks.instruments import TICKS_PER_S
from benchmarks.models import CONTEXT_TOKENS
from benchmarks.record import Record, arguments, predicted, workplace
from benchmarks.shared_forecast import calibrate, forecast, mean_s
from benchmarks.shared_seen import OUTPUT_TOKENS, WAIT_S_MAX, Seen

WORDS = 8  # of the prompt's own part
SPARE = 1.1  # what a service is given of memory beyond what its model was seen to hold
SHOWN = (
    ("first_token_p50_s", "p50"),
    ("first_token_p90_s", "p90"),
    ("first_token_p99_s", "p99"),
    ("first_token_mean_s", "mean"),
)
KEEP_ALIVES_S = (2.0, 5.0, 10.0, 20.0, 40.0)


def weights(work: Path, count: int, quick: bool) -> list[str]:
    """URLs of so many models, each with weights of its own; written once and kept in `work`."""
    if quick:
        return ["builtin://tiny"] * count
    found = []
    for number in range(count):
        path = work / f"shape-{number}.gguf"
        if not path.exists():
            script = Path(__file__).with_name("shapes.py")
            words = ["--shape", "135m", "--out", str(path), "--seed", str(number)]
            subprocess.run([sys.executable, str(script), *words], check=True, stdout=subprocess.DEVNULL)
        found.append(f"file://{path}")
    return found


def file_of(url: str) -> Path:
    return Path(url.removeprefix("file://")) if url.startswith("file://") else Path(weights_path())


def text(urls: Sequence[str], memory_bytes: int) -> str:
    return "services:\n" + "".join(
        f"  m{number:02d}:\n    model: {url}\n    replicas: 0..1\n    context: {CONTEXT_TOKENS}\n    sleep: auto\n"
        f"    resources: {{cpu: 2, memory: {memory_bytes}}}\n    hold: {{wait: {WAIT_S_MAX:g}s, queue: 256}}\n"
        for number, url in enumerate(urls)
    )


def prompt(number: int) -> str:
    """Its own from its first word on, so that nothing of it is in a cache."""
    return f"Request {number * 7919 % 100_003}: " + " ".join(f"w{(number * 31 + word) % 977}" for word in range(WORDS))


async def ask(address: tuple[str, int], key: str, number: int, arrival: Arrival, began_s: float, seen: Seen) -> None:
    """One request when it is due."""
    loop = asyncio.get_running_loop()
    due_s = began_s + arrival.at_s
    await asyncio.sleep(max(0.0, due_s - loop.time()))
    body = (
        f'{{"model":"m{arrival.service:02d}","messages":[{{"role":"user","content":"{prompt(number)}"}}],'
        f'"max_tokens":{OUTPUT_TOKENS},"temperature":0,"ignore_eos":true,"stream":true,"stream_options":{{"include_usage":true}}}}'
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    answer, first_s = bytearray(), 0.0
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head + body)
        while part := await asyncio.wait_for(reader.read(65536), 2 * WAIT_S_MAX):
            answer += part
            if not first_s and b"\ndata: " in answer:
                first_s = loop.time() - due_s
        writer.close()
    except (OSError, TimeoutError) as error:
        seen.failed.append(str(error))
        return
    if b" 200 " not in answer[:16] or b'"error"' in answer or not first_s:
        seen.failed.append(bytes(answer[-300:]).decode(errors="replace"))
    else:
        seen.firsts_s.append(first_s)
        place = answer.rfind(b'"prompt_tokens":')
        seen.prompt_tokens = int(bytes(answer[place + 16 :]).split(b",")[0].split(b"}")[0]) if place > 0 else 0


async def play(town: House, due: Sequence[Arrival]) -> Seen:
    """Every request at its time."""
    parts = urlsplit(town.client.url)
    address, seen = (str(parts.hostname), int(parts.port or 0)), Seen()
    began_s = asyncio.get_running_loop().time() + 0.2
    async with asyncio.TaskGroup() as group:
        for number, arrival in enumerate(due):
            group.create_task(ask(address, town.client.key, number, arrival, began_s, seen))
    return seen


def real(rules: str, work: Path, urls: Sequence[str], memory: tuple[int, int], due: Sequence[Arrival]) -> Seen:
    """One policy, on a fresh Bastide. `memory`: of one service and of the device, in bytes."""
    os.environ["BASTIDE_RULES"] = "" if rules == "shipped" else rules
    busy_s, own_s = _busy_s(), _own_s()
    began_s = time.monotonic()
    try:
        with house(work, str(memory[1])) as town:
            town.deploy(text(urls, memory[0]))
            time.sleep(2.0)
            since_s = time.time()
            seen = asyncio.run(play(town, due))
            time.sleep(3.0)  # what was decided reaches the store
            store = SqliteStore(str(town.places.database))
            for number in range(len(urls)):
                for decision in store.decisions("default", f"m{number:02d}", 100_000):
                    if decision.at_s < since_s:
                        continue
                    if decision.what == "awake":
                        rung = str(decision.facts["woke_from"])
                        seen.wakes[rung] = seen.wakes.get(rung, 0) + 1
                    seen.gave_way += decision.what == "give way"
                    seen.ahead += decision.what == "wake ahead"
            store.close()
    finally:
        del os.environ["BASTIDE_RULES"]
    others_s = (_busy_s() - busy_s) - (_own_s() - own_s)
    seen.others_share = max(0.0, others_s / (time.monotonic() - began_s) / (os.cpu_count() or 1))
    return seen


def _busy_s() -> float:
    """Processor time of the whole machine so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_S


def _own_s() -> float:
    """Of this process and all that it started and that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="directory with ServeGen's rates (left out: made up ones)")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--requests", type=float, default=300.0, help="expected in ten minutes")
    parser.add_argument("--rules", default="shipped,keep_alive,first_come", help="which policies run for real")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    record = Record("shared_device", predicted(__doc__))
    count, places = (4, 2) if asked.quick else (12, 4)
    seconds = 6.0 if asked.quick else asked.seconds
    chosen = made_up(count) if asked.data is None else clients(asked.data, count)
    due = arrivals(chosen, seconds, (3.0 if asked.quick else asked.requests / 600) * seconds, asked.seed)
    with workplace(asked.work) as work:
        urls = weights(work, count, asked.quick)
        run(record, asked, work, urls, places, seconds, due)
    record.details["clients"] = [(client.name, round(client.mean_rps, 4)) for client in chosen]
    record.details["asked_of"] = [sum(arrival.service == number for arrival in due) for number in range(count)]
    record.write(asked.quick, asked.out)


def run(
    record: Record,
    asked: argparse.Namespace,
    work: Path,
    urls: Sequence[str],
    places: int,
    seconds: float,
    due: Sequence[Arrival],
) -> None:
    calibration = calibrate(file_of(urls[0]), asked.quick)
    costs = next(iter(calibration.measured.values()))
    record.details["costs"] = asdict(costs)
    one = int(costs.held_bytes * SPARE)
    memory = (one, int(places * one * 1.01))
    record.details["memory_bytes"] = {"service": memory[0], "device": memory[1]}
    guesses = {keep_s: forecast(f"keep_alive:{keep_s:g}", costs, memory, due, len(urls)) for keep_s in KEEP_ALIVES_S}
    best_s = min(guesses, key=lambda keep_s: mean_s(guesses[keep_s]))
    words = {"shipped": "shipped", "keep_alive": f"keep_alive:{best_s:g}", "first_come": "first_come"}
    record.details["keep_alive_s"] = {"chosen": best_s, "forecast_means_s": {k: mean_s(v) for k, v in guesses.items()}}
    found: dict[str, dict[str, Any]] = {}
    for name in asked.rules.split(","):
        seen = real(words[name], work, urls, memory, due)
        guess = forecast(words[name], costs, memory, due, len(urls), seen.prompt_tokens)
        figures, guessed = seen.figures(seconds), guess.figures(seconds)
        found[name] = {
            "real": figures,
            "forecast": guessed,
            "prompt_tokens": seen.prompt_tokens,
            "others_share": round(seen.others_share, 4),
            "failures": seen.failed[:5],
        }
        print(name, figures, "forecast", guessed, flush=True)
    record.details["runs"] = found
    report(record, found, seconds, best_s)


def report(record: Record, found: dict[str, dict[str, Any]], seconds: float, best_s: float) -> None:
    called = {
        "shipped": "shipped",
        "keep_alive": f"keep-alive of {best_s:g} s alone",
        "first_come": "first come, swap",
    }
    for name, both in found.items():
        seen, who = both["real"], called[name]
        rates = ", ".join(f"{rung} {share:.1%}" for rung, share in seen["wake_rates"].items())
        others = f"other processes took {both['others_share']:.0%} of the machine meanwhile"
        record.row(f"{who}: requests, refused or failed", "", f"{seen['requests']}, {seen['failed']}", None, others)
        record.row(f"{who}: wakes by request, by rung", "", rates or "none", None, f"{seen['wakes_ahead']} ahead")
        for what, label in SHOWN:
            rest = [other["real"][what] for key, other in found.items() if key != "shipped"]
            met = seen[what] <= min(rest) if name == "shipped" and rest else None
            bar = f"<= {min(rest):.3f} s" if met is not None else ""
            why = _why(found, what) if met is False else ""
            record.row(f"{who}: first token, {label}", bar, f"{seen[what]:.3f} s", met, why)
        record.row(f"{who}: swaps a minute", "", f"{seen['swaps_per_minute']:.1f}", None)
        guess = both["forecast"]
        errors = [f"{label} {guess[what]:.3f} s ({guess[what] / seen[what] - 1:+.0%})" for what, label in SHOWN]
        rates = ", ".join(f"{rung} {share:.1%}" for rung, share in guess["wake_rates"].items())
        record.row(
            f"{who}: the simulator's forecast (its error)",
            "",
            ", ".join(errors),
            None,
            f"wakes {rates}; {guess['swaps_per_minute']:.1f} swaps a minute; {guess['failed']} failed",
        )


def _why(found: dict[str, dict[str, Any]], what: str) -> str:
    """What was not equal between the one that was better and the shipped one, and what the forecast says on equal terms."""
    better = min((key for key in found if key != "shipped"), key=lambda key: float(found[key]["real"][what]))
    ours, theirs = found["shipped"], found[better]
    return (
        f"other processes took {ours['others_share']:.0%} of the machine here and {theirs['others_share']:.0%} there; "
        f"forecast on equal terms {ours['forecast'][what]:.3f} against {theirs['forecast'][what]:.3f} s"
    )


if __name__ == "__main__":
    main()
