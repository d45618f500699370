"""The demo's story: its chapters, in order, each with its figures measured as they are told.

Must never print a figure it did not measure, nor go on where one does not add up.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import openai
from demo_paper import Paper
from demo_talk import CAPITAL, STORY, Talk, Told, prices_of
from demo_town import ROOM, ROOT, Broken, Town, is_there, resident_bytes, share_bytes

from bastide.domain.errors import Conflict, Unavailable
from bastide.domain.units import format_bytes, format_duration, format_money, parse_bytes

ROUNDS = 7
MODELS = ("chat", "exact", "small")
RESTING = ("awake", "frozen", "light", "deep", "off")
COUNTS = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_pico")
DEEP_MEANS = "the process ends, its prompt cache is kept in memory, its weights in the page cache"


class Story:
    """The chapters, in order. Each leaves Bastide running for the next."""

    def __init__(self, town: Town, paper: Paper) -> None:
        self.town, self.paper = town, paper
        self.client = town.client()
        self.told = Told()
        self.prices = prices_of(ROOT / "examples/three.yaml")
        self.talk = Talk(self.client.url, self.client.key, self.prices, self.told)
        self.before = self.client.usage()

    def tell(self) -> None:
        self.first_token()
        self.stream()
        self.sleep_and_wake()
        self.three_models()
        self.budget()
        self.ledger()

    def first_token(self) -> None:
        self.paper.chapter("From nothing to the first token")
        self.paper.quiet("bastide up; bastide deploy examples/chat.yaml; then one question through the openai client")
        began = time.monotonic()
        self.town.command("deploy", "examples/chat.yaml")
        deployed_s = time.monotonic() - began
        self.paper.say(f"> {CAPITAL}")
        self.paper.quote(self.talk.stream("chat", CAPITAL))
        answer = self.talk.last
        self.paper.figure(format_duration(self.town.ready_s), "until Bastide was ready, from no process at all")
        self.paper.figure(format_duration(deployed_s), "to deploy: file checked, model started, seen to answer")
        self.paper.figure(format_duration(answer.first_token_s), "from the request to its first token")
        total_s = self.town.ready_s + deployed_s + answer.first_token_s
        self.paper.figure(format_duration(total_s), "from zero to the first token, in all")

    def stream(self) -> None:
        self.paper.chapter("A streamed answer")
        self.paper.say(f"> {STORY}")
        self.paper.quote(self.talk.stream("chat", STORY))
        answer = self.talk.last
        rate = answer.output_tokens / max(0.001, answer.all_s)
        self.paper.figure(format_duration(answer.first_token_s), "to the first token")
        self.paper.figure(
            f"{rate:.0f}/s", f"{answer.output_tokens} tokens in {format_duration(answer.all_s)}, each as it was made"
        )

    def sleep_and_wake(self) -> None:
        self.paper.chapter("Sleep, and waking")
        rungs = self.town.rungs()
        holding = [rung["name"] for rung in rungs if rung["state"] == "ok"]
        deepest = holding[-1]
        self.paper.say(f"The deepest rung that holds here without root is `{deepest}`: {DEEP_MEANS}.")
        for rung in rungs:
            if rung["state"] != "ok":
                self.paper.quiet(f"`{rung['name']}` does not hold: {rung['detail']}. To allow it: {rung['mend']}.")
        rows = []
        for name in holding:
            rows.append(self._round_trip(name))
            if name == deepest:
                self._memory_back(name)
        awake_s = statistics.median(self.talk.ask("chat", CAPITAL).first_token_s for _ in range(ROUNDS))
        self.paper.say("")
        self.paper.say("From the request to the first token, asleep and awake (medians of 7, the same question):")
        self.paper.table(
            ("RUNG", ">FIRST TOKEN", ">MORE THAN AWAKE", ">GIVES BACK"),
            [
                (name, format_duration(wake_s), format_duration(max(0.0, wake_s - awake_s)), format_bytes(back))
                for name, wake_s, back in reversed(rows)
            ]
            + [("awake", format_duration(awake_s), "", "")],
        )

    def _round_trip(self, rung: str) -> tuple[str, float, int]:
        waits, given_back = [], []
        for _ in range(ROUNDS):
            given_back.append(self._sleep(rung)["gave_back_bytes"])
            answer = self.talk.ask("chat", CAPITAL)
            if answer.rung != rung:
                raise Broken(f"the model woke from {answer.rung or 'nothing'}, though it slept on {rung}")
            waits.append(answer.first_token_s)
        return rung, statistics.median(waits), int(statistics.median(given_back))

    def _sleep(self, rung: str | None = None, name: str = "chat") -> dict[str, Any]:
        """Put to sleep by hand. That the last request is over may reach the agent a moment after it reached us."""
        deadline = time.monotonic() + 5.0
        while True:
            try:
                instance: dict[str, Any] = self.client.sleep(name, rung)["instances"][0]
                return instance
            except (Conflict, Unavailable):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _memory_back(self, rung: str) -> None:
        """What the kernel says, not what Bastide says."""
        pid = self.town.awake_pid("chat")
        processes = self.town.processes()
        before, whole_before = resident_bytes(pid), sum(map(share_bytes, processes))
        told = self._sleep(rung)
        after, whole_after = resident_bytes(pid), sum(map(share_bytes, self.town.processes()))
        if before == 0 or after > before // 2:
            raise Broken(f"{rung} gave no memory back: the engine held {before} bytes before and {after} after")
        gone = " (the process is gone)" if not is_there(pid) else ""
        self.paper.say("")
        self.paper.figure(format_bytes(before), f"was resident in the engine, process {pid}", "its RSS, from /proc")
        self.paper.figure(format_bytes(after), f"once it was on `{rung}`{gone}")
        self.paper.figure(
            format_bytes(max(0, whole_before - whole_after)),
            "less in all processes of Bastide",
            f"their PSS: {format_bytes(whole_before)} before, {format_bytes(whole_after)} after",
        )
        self.paper.figure(format_bytes(told["held_bytes"]), "is all that is kept of it: its prompt cache, in memory")
        self.talk.ask("chat", CAPITAL)

    def three_models(self) -> None:
        self.paper.chapter("Three models, room for two")
        self.paper.quiet("bastide deploy examples/three.yaml: each declares 40 MiB (resources.memory)")
        began_at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        self.town.command("deploy", "examples/three.yaml")
        self.paper.say(f"There are {ROOM} for models: room for two.")
        rows = []
        for name in (*MODELS, MODELS[0]):
            answer = self.talk.ask(name, CAPITAL)
            rows.append((name, answer.rung, format_duration(answer.first_token_s), answer.text.strip()))
        self.paper.table(("MODEL", "WOKE FROM", ">FIRST TOKEN", "ANSWER"), rows, last_style="")
        self.paper.quiet(
            "Who has just come keeps its place for a second, so that two models can't thrash; the next waits."
        )
        self._who_holds_memory()
        gave_way = [
            (decision["at"], name, decision["reason"])
            for name in MODELS
            for decision in self.client.why(name)["decisions"]
            if decision["what"] == "give way" and decision["at"] >= began_at
        ]
        if not gave_way:
            raise Broken(f"three models fitted into {ROOM}: none gave way")
        at, name, reason = max(gave_way)
        self.paper.say(f"Why, in Bastide's own words (bastide why {name}):")
        self.paper.quiet(f"{at[11:19]}  {name}  give way  {reason}")

    def _who_holds_memory(self) -> None:
        budget_bytes = parse_bytes(ROOM)
        # Whoever was on the move a moment ago has come to rest first.
        self.town.until(
            lambda: all(i["phase"] in RESTING for i in self.town.instances().values()), "nobody comes to rest"
        )
        instances = self.town.instances()
        living = [name for name, instance in instances.items() if resident_bytes(instance["pid"])]
        charged = sum(instance["memory_bytes"] for instance in instances.values())
        self.paper.say("")
        self.paper.figure(
            f"{len(living)} of {len(instances)}", "have a process: " + ", ".join(sorted(living)), "from /proc, just now"
        )
        self.paper.figure(format_bytes(charged), f"held by models, of {format_bytes(budget_bytes)}")
        if len(living) == len(instances) or charged > budget_bytes:
            raise Broken(f"{len(living)} models hold {charged} bytes, on a budget of {budget_bytes}")

    def budget(self) -> None:
        self.paper.chapter("A key whose budget can't be overrun")
        budget = "0.0003"
        made = self.client.create_key(name="demo", models=["chat"], budget=budget, budget_window="day")
        talk = Talk(self.client.url, made["key"], self.prices, self.told)
        self.paper.say(f"A key with {budget} a day; 24 stories are asked for, 8 at once.")
        refusals: list[openai.RateLimitError] = []

        def one(_: int) -> bool:
            try:
                Talk(self.client.url, made["key"], self.prices, own).ask("chat", STORY, 100)
                return True
            except openai.RateLimitError as error:
                refusals.append(error)
                return False

        own = talk.told
        with ThreadPoolExecutor(8) as pool:
            answered = sum(pool.map(one, range(24)))
        if not refusals or not answered:
            raise Broken(
                f"of 24 requests on a budget of {budget}, {answered} were answered and {len(refusals)} refused"
            )
        self._settled()
        spent = self.client.usage(key=made["id"])["total"]["cost_pico"]
        self.paper.figure(str(answered), "answered")
        self.paper.figure(str(len(refusals)), f"refused with status {refusals[0].status_code}", _message(refusals[0]))
        self.paper.figure(
            format_money(spent), f"spent of {budget}: what a request may cost is set aside before it runs"
        )
        if spent > int(float(budget) * 10**12):
            raise Broken(f"the budget of {budget} was overrun: {format_money(spent)} was spent")

    def ledger(self) -> None:
        self.paper.chapter("The ledger")
        usage, engines = self._settled()
        users, system, told = usage["total"], usage["system"], asdict(self.told)
        both = {count: users[count] + system[count] for count in COUNTS}
        rows = [
            ("told to the clients, summed here", *_row(told)),
            ("ledger: users", *_row(users)),
            ("ledger: system (canaries, retries)", *_row(system)),
            ("ledger: users + system", *_row(both)),
            ("the engines' own count", "", *_tokens(engines), ""),
        ]
        self.paper.table(("", ">REQUESTS", ">INPUT", ">CACHED", ">OUTPUT", ">COST"), rows)
        wrong = [f"{count}: {both[count]} in the ledger, {engines[count]} in the engines" for count in COUNTS[1:4]
                 if both[count] != engines[count]]  # fmt: skip
        wrong += [f"{count}: {users[count]} in the ledger, {told[count]} told" for count in COUNTS[1:]
                  if users[count] != told[count]]  # fmt: skip
        if wrong:
            raise Broken("the ledger does not add up. " + "; ".join(wrong))
        found = sum(
            row["input_tokens"] + row["output_tokens"] for row in self.client.usage()["rows"] if row["key"] == "audit"
        )
        if found:
            self.paper.quiet(
                f"Of the system's tokens, {found} were found by comparing with the engines, all runs counted."
            )
        self.paper.good("users + system = engines, to the token; the cost is what the spec's prices make of it")

    def _settled(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The ledger of this story alone, once the engines' own counts are in: they are read when an engine is idle."""
        deadline = time.monotonic() + 10.0
        while True:
            now = self.client.usage()
            usage = {
                account: {count: now[account][count] - self.before[account][count] for count in COUNTS}
                for account in ("total", "system")
            }
            engines = {count: now["engines"][count] - self.before["engines"][count] for count in COUNTS[1:4]}
            equal = all(usage["total"][c] + usage["system"][c] == engines[c] for c in engines)
            if equal or time.monotonic() > deadline:
                return usage, engines
            time.sleep(0.1)


def _row(counts: dict[str, int]) -> tuple[str, ...]:
    return (str(counts["requests"]), *_tokens(counts), format_money(counts["cost_pico"]))


def _tokens(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(str(counts[count]) for count in COUNTS[1:4])


def _message(error: openai.RateLimitError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message", error))
