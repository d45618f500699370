"""Waking: request to first token through the gateway, from every rung, beside the same engine already awake.

    python -m benchmarks.wake [--zram] [--models tiny,135m,1b] [--quick]

Each round goes through the rungs in turn: a request, a pause, a request to the awake engine (the baseline), a step down,
the same pause, one request that wakes it. All by a raw socket through the real gateway, keys and ledger on, streamed, the same
prompt every time. "More" is the median of the waking requests less the median of the awake ones. What a rung gives
back is the fall of the engine's RSS, less what zram grew by.

How policy's choice is judged: with `sleep: auto`, resting on rung r for t seconds costs w_r + K m_r t, where w_r is the
wake measured here by the client, m_r what the rung was seen to hold, and K = 0.01 s of waiting per GiB and second, the
one knob of policy/sleep.py. At idle times from 10 s to a day, the cost of the rung that the shipped policy picks from
the agent's own measured facts is divided by that of the best rung by hand; the worst of these ratios is the figure. At
the end every service is really deployed with `sleep: auto`, and where it rests after 12 s idle is noted.

Predicted before measuring: awake first token 4 ms (built-in), 30 ms (135m), 150 ms (1b). More: frozen 2 ms everywhere;
light 20 ms, 230 ms, 1.5 s; deep 35 ms, 100 ms, 300 ms; off like deep plus the prompt read anew (5, 100, 800 ms).
Frozen gives nothing back, light 80 % of RSS and all of the weights' part, deep and off all. Policy within 1.05.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bastide.adapters.store.sqlite import SqliteStore
from bastide.agent.costs import CostBook
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import SleepMode, SleepSettings
from bastide.policy.sleep import AWAKE_OVERHEAD_BYTES, GIB, WAIT_S_PER_GIB_S, ladder, step_due
from benchmarks.house import House, house
from benchmarks.instruments import memory, zram, zram_used_bytes
from benchmarks.models import request, source, spec
from benchmarks.record import Record, arguments, predicted, workplace

ROUNDS = {"tiny": 15, "135m": 9, "1b": 6}
PAUSE_S = 0.15  # both sides answer after the same rest, for a core that rests is slow to begin
BARS_MS = {"frozen": 5.0, "light": 30.0}
IDLE_S = (10, 30, 60, 300, 900, 1800, 3600, 4 * 3600, 24 * 3600)
MIB = 2**20
WHO = ("picked", "best")


def settle(town: House, service: str) -> None:
    """Let the agent's check of a new process (its canary, its size) pass before anything is timed."""
    town.line().ask(request(service))
    time.sleep(2.0)


def rounds(town: House, service: str, rungs: tuple[str, ...], count: int) -> dict[str, Any]:
    line = town.line()
    times: dict[str, list[float]] = {"awake": [], **{rung: [] for rung in rungs}}
    first_bytes: dict[str, list[float]] = {rung: [] for rung in rungs}
    held: dict[str, list[dict[str, int]]] = {rung: [] for rung in rungs}
    # Pages that nobody touches stay in zram while the process is awake: all of them count, from before the first time.
    zram_before = zram_used_bytes()
    for _ in range(count):
        for rung in rungs:
            line.ask(request(service))
            time.sleep(PAUSE_S)
            times["awake"].append(line.ask(request(service)).first_s)
            pid = town.awake_pid(service)
            before = memory(pid)
            told = town.put_off(service) if rung == "off" else town.sleep(service, rung)
            time.sleep(PAUSE_S)
            after = memory(pid) if rung in ("frozen", "light") else {"rss_bytes": 0, "pss_bytes": 0, "swap_bytes": 0}
            grown = max(0, zram_used_bytes() - zram_before) if rung == "light" else 0
            agent_says = told["instances"][0]["held_bytes"] if told["instances"] else 0
            held[rung].append(
                {
                    "rss_before_bytes": before["rss_bytes"],
                    "pss_before_bytes": before["pss_bytes"],
                    "rss_bytes": after["rss_bytes"],
                    "zram_bytes": grown,
                    # Of a deep one only its kept prompts are left, in shared memory; the agent knows their size.
                    "holds_bytes": after["pss_bytes"] + grown if after["pss_bytes"] else agent_says,
                    "agent_says_holds_bytes": agent_says,
                }
            )
            answer = line.ask(request(service))
            if answer.rung not in (rung, ""):
                raise RuntimeError(f"{service} woke from {answer.rung}, not {rung}")
            times[rung].append(answer.first_s)
            first_bytes[rung].append(answer.last_s)
    line.close()
    found: dict[str, Any] = {"awake": {"first_token_ms": median_ms(times["awake"])}}
    for rung in rungs:
        found[rung] = {
            "first_token_ms": median_ms(times[rung]),
            "more_ms": round(median_ms(times[rung]) - median_ms(times["awake"]), 3),
            "worst_ms": round(max(times[rung]) * 1000, 3),
            **{name: int(statistics.median(h[name] for h in held[rung])) for name in held[rung][0]},
        }
    return found


def median_ms(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1000, 3)


def cost_s(found: Mapping[str, Any], awake_bytes: int, rung: Rung, idle_s: float) -> float:
    """What resting there so long and being woken costs, by what was measured here, in seconds of somebody's waiting."""
    if rung is Rung.AWAKE:
        return WAIT_S_PER_GIB_S * (awake_bytes + AWAKE_OVERHEAD_BYTES) / GIB * idle_s
    seen = found[rung.value]
    return max(0.0, seen["more_ms"] / 1000) + WAIT_S_PER_GIB_S * seen["holds_bytes"] / GIB * idle_s


def judge(found: Mapping[str, Any], book: CostBook, weights: str, awake_bytes: int) -> dict[str, Any]:
    """Policy's pick from the agent's facts, at each idle time, beside the best rung by what was measured here."""
    rungs = [Rung(name) for name in found if name not in ("awake", "off")]
    costs = {rung: book.cost(weights, awake_bytes, rung) for rung in Rung}
    steps = ladder(SleepSettings(SleepMode.AUTO), costs, frozenset(rungs) | {Rung.OFF})

    picks = {}
    for idle_s in IDLE_S:
        step = step_due(steps, Rung.AWAKE, idle_s)
        picked = step.rung if step is not None else Rung.AWAKE
        best = min((cost_s(found, awake_bytes, rung, idle_s), rung.depth, rung) for rung in (Rung.AWAKE, *rungs))
        picks[str(idle_s)] = {
            "picked": picked.value,
            "best": best[2].value,
            "ratio": round(cost_s(found, awake_bytes, picked, idle_s) / best[0], 3) if best[0] > 0 else 1.0,
        }
    return {
        "steps": [{"rung": step.rung.value, "at_idle_s": round(step.at_idle_s, 1)} for step in steps],
        "at_idle_s": picks,
        "facts": {
            rung.value: {"held_bytes": c.held_bytes, "wake_ms": round(c.wake_s * 1e3, 2)} for rung, c in costs.items()
        },
    }


def where_auto_rests(town: House, models: list[str], text: str) -> dict[str, str]:
    """Really let it choose: deployed with `sleep: auto`, asked once, left alone for 12 s."""
    town.deploy(text)
    for name in models:
        town.line().ask(request(name))
    time.sleep(12.0)
    return {name: town.instance(name)["phase"] for name in models}


def report(record: Record, models: list[str], has_zram: bool) -> None:
    for model in models:
        found = record.details[model]
        awake = found["awake"]["first_token_ms"]
        for rung in ("frozen", "light", "deep", "off"):
            figure = f"wake from {rung}, {model}: more than awake ({awake:.1f} ms)"
            if rung not in found:
                record.row(figure, "", "not measured", None, "needs swap in zram; run with --zram")
                continue
            seen = found[rung]
            limit = BARS_MS.get(rung) if rung == "frozen" or model == "tiny" else None
            gave = seen["rss_before_bytes"] - seen["rss_bytes"]
            text = (
                f"{seen['more_ms']:.1f} ms; gives back {gave / MIB:.1f} of {seen['rss_before_bytes'] / MIB:.1f} MiB RSS"
            )
            if rung == "light":
                text += f", {(gave - seen['zram_bytes']) / MIB:.1f} net of zram"
            met = seen["more_ms"] <= limit if limit is not None else None
            record.row(figure, f"<= {limit:g} ms" if limit is not None else "", text, met)
    for model in models:
        judged = record.details[model].get("policy")
        if judged is None:
            continue
        idle_s, worst = max(judged["at_idle_s"].items(), key=lambda item: item[1]["ratio"])
        awake_bytes = judged["facts"]["awake"]["held_bytes"]
        costs_ms = [cost_s(record.details[model], awake_bytes, Rung(worst[who]), float(idle_s)) * 1000 for who in WHO]
        why = f"{costs_ms[0]:.1f} against {costs_ms[1]:.1f} ms of somebody's waiting"
        record.row(
            f"cost of the rung that policy picks, {model}, worst of idle 10 s to a day",
            "<= 1.15",
            f"{worst['ratio']:.2f} (at {idle_s} s: {worst['picked']}, best {worst['best']})",
            worst["ratio"] <= 1.15,
            why if has_zram else f"{why}; without the light rung",
        )


def main() -> None:
    asked = arguments(__doc__).parse_args()
    record = Record("wake", predicted(__doc__))
    models = asked.models.split(",") if not asked.quick else ["tiny"]
    with workplace(asked.work) as work, zram(asked.zram) as has_zram:
        # The bar of frozen is the narrowest, beside answers of up to a tenth of a second: it is measured more often.
        rungs = (*("frozen",) * 3, *(("light",) if has_zram else ()), "deep", "off")
        urls = {model: source(model, work)[0] for model in models}

        def text(sleep: str) -> str:
            return "services:\n" + "".join(spec(model, urls[model], sleep) for model in models)

        with house(work) as town:
            town.deploy(text("{deep: 12h}"))
            for model in models:
                settle(town, model)
                record.details[model] = rounds(town, model, rungs, 2 if asked.quick else ROUNDS[model])
                town.sleep(model, "deep")
            if not asked.quick:
                rests = where_auto_rests(town, models, text("auto"))
        if not asked.quick:
            policy(record, models, town.places.database, rests)
    report(record, models, has_zram)
    record.write(asked.quick, asked.out)


def policy(record: Record, models: list[str], database: Path, rests: Mapping[str, str]) -> None:
    """Judge with the facts that the agent kept in the store."""
    store = SqliteStore(str(database))
    book = CostBook()
    for fact in store.facts():
        book.know(fact)
    for service in store.services():
        name = service.spec.name
        found = record.details[name]
        weights = _weights_of(store, found)
        awake_bytes = book.awake_bytes(weights) or found["frozen"]["pss_before_bytes"]
        found["policy"] = judge(found, book, weights, awake_bytes) | {"rested_after_12_s": rests[name]}
    store.close()


def _weights_of(store: SqliteStore, found: Mapping[str, Any]) -> str:
    """The weights whose awake size is nearest to what was seen: facts are kept by checksum, not by name."""
    facts = [fact for fact in store.facts() if fact.rung == "awake"]
    seen = found["frozen"]["pss_before_bytes"]
    return min(facts, key=lambda fact: abs(fact.held_bytes - seen)).weights_sha256


if __name__ == "__main__":
    main()
