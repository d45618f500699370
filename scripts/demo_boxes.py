"""The demo's chapters about sandboxes and apps: code nobody has read, run where it can do no harm.

Must never print a figure it did not measure. The tier is the best that holds on this machine, and is said.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

from demo_paper import Paper
from demo_town import DATA, Broken, Town

from bastide import Client, Sandbox
from bastide.domain.units import format_bytes, format_duration

BEST = ("gvisor", "namespace")
QUESTION = "Calculate something"
SPARE_S = 0.9
# What an agent might be talked into: it is run for real.
MISCHIEF = """
import os, socket
for what, attempt in {
    "reads the host's keys": lambda: open("KEY").read(),
    "writes to the host's programs": lambda: open("/usr/bin/evil", "w"),
    "calls home": lambda: socket.create_connection(("192.0.2.1", 443), 2),
    "reaches the host's own services": lambda: socket.create_connection(("127.0.0.1", PORT), 2),
}.items():
    try:
        attempt(); print("DONE:", what)
    except OSError as error:
        print(f"{what}: {error.strerror or error}")
"""


class Boxes:
    def __init__(self, town: Town, paper: Paper, client: Client) -> None:
        self.town, self.paper, self.client = town, paper, client
        reports = client.transport.ask("GET", "/api/v1/templates")["tiers"]
        self.reports = {report["tier"]: report for report in reports}
        self.tier = next((tier for tier in BEST if self.reports[tier]["holds"]), "")

    def tell(self) -> None:
        if not self.tier:
            self.paper.chapter("Sandboxes")
            for tier in BEST:
                self.paper.bad(f"the {tier} tier does not hold here: {self.reports[tier]['detail']}")
            self.paper.quiet("bastide doctor says what would mend that; nothing weaker is used instead.")
            return
        self.sandbox()
        self.agent()

    def sandbox(self) -> None:
        self.paper.chapter("Code nobody has read")
        report = self.reports[self.tier]
        version = f" ({report['version']})" if report["version"] else ""
        self.paper.say(f"The strongest isolation that holds here is `{self.tier}`{version}: {report['detail']}.")
        for tier in BEST:
            if not self.reports[tier]["holds"]:
                self.paper.quiet(f"`{tier}` does not hold: {self.reports[tier]['detail']}.")
        first_s, _ = self._once()
        self._spares()
        times = []
        for _ in range(3):
            time.sleep(SPARE_S)  # as long as a spare takes to be there again
            times.append(self._once()[0])
        self.paper.figure(
            format_duration(first_s), "from asking for a sandbox to the end of its first command, the first"
        )
        self.paper.figure(format_duration(sorted(times)[1]), "the same with a warm spare (median of 3)")
        with Sandbox.create(client=self.client, tier=self.tier, timeout=300) as sandbox:
            self._mischief(sandbox)
            if report["tier"] == "gvisor":
                self._fork(sandbox)
            held = sandbox.metrics()["memory_bytes"]
            self.paper.figure(format_bytes(int(held)), "held by that sandbox, as the kernel counts it")

    def _once(self) -> tuple[float, str]:
        began = time.monotonic()
        with Sandbox.create(client=self.client, tier=self.tier, timeout=60) as sandbox:
            said = sandbox.exec("echo ready").stdout
            took_s = time.monotonic() - began
        if said != "ready\n":
            raise Broken(f"the sandbox said {said!r} where it was to say 'ready'")
        return took_s, said

    def _spares(self) -> None:
        """Spares are started while nobody asks; creates become quick once they are there."""
        deadline = time.monotonic() + 10.0
        while self._once()[0] > 0.1 and time.monotonic() < deadline:
            time.sleep(0.2)

    def _mischief(self, sandbox: Sandbox) -> None:
        port = self.client.url.rpartition(":")[2]
        code = MISCHIEF.replace("KEY", str(DATA / "admin.key")).replace("PORT", port)
        result = sandbox.exec(("python3", "-c", code), timeout=30)
        if "DONE" in result.stdout or not result.ok:
            raise Broken(f"something got out of the sandbox, or could not be tried: {result.stdout}{result.stderr}")
        self.paper.say("What a program inside tried, and what it was told:")
        for line in result.stdout.splitlines():
            self.paper.quiet(line)

    def _fork(self, sandbox: Sandbox) -> None:
        sandbox.run_code("numbers = list(range(100_000))")
        began = time.monotonic()
        (twin,) = sandbox.fork(1)
        fork_s = time.monotonic() - began
        if twin.run_code("sum(numbers)").text != str(sum(range(100_000))):
            raise Broken("the fork does not remember what the original knew")
        twin.kill()
        began = time.monotonic()
        sandbox.pause()
        pause_s = time.monotonic() - began
        began = time.monotonic()
        if sandbox.run_code("len(numbers)").text != "100000":
            raise Broken("the sandbox does not remember what it knew before it was paused")
        self.paper.figure(format_duration(fork_s), "to fork it while its Python runs; the twin knows what it knew")
        self.paper.figure(format_duration(pause_s), "to save it with its processes: nothing of it is left in memory")
        self.paper.figure(format_duration(time.monotonic() - began), "to be back, from a question to its answer")

    def agent(self) -> None:
        self.paper.chapter("An agent: a model writes code, a sandbox runs it")
        self.paper.quiet(f"bastide deploy examples/agent --env AGENT_TIER={self.tier}")
        began = time.monotonic()
        self.town.command("deploy", "examples/agent", "--env", f"AGENT_TIER={self.tier}")
        self.paper.figure(
            format_duration(time.monotonic() - began), "to deploy the directory: packed, built, started, healthy"
        )
        answer, took_s = self._ask()
        self.paper.say(f"> {QUESTION}")
        self.paper.quote([f"{answer['code']}   ->   {answer['printed']}"])
        if answer["exit_code"] != 0 or answer["tier"] != self.tier:
            raise Broken(f"the agent's answer is not right: {answer}")
        self.paper.figure(
            format_duration(took_s), f"in all: the app, the model's code, a new {answer['tier']} sandbox for it"
        )
        self.paper.quiet("The model is tiny and not clever; what matters is that its code never ran anywhere else.")
        self.client.sleep("agent", "frozen")
        answer, took_s = self._ask()
        self.paper.figure(format_duration(took_s), "the same, with the app asleep before: held, woken, answered")

    def _ask(self) -> tuple[dict[str, Any], float]:
        asked = urllib.request.Request(f"{self.client.url}/apps/default/agent/ask?q=Calculate+something")
        asked.add_header("authorization", f"Bearer {self.client.key}")
        began = time.monotonic()
        try:
            with urllib.request.urlopen(asked, timeout=120) as response:
                found: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise Broken(f"the agent answered {error.code}: {error.read().decode(errors='replace')[:400]}") from None
        return found, time.monotonic() - began
