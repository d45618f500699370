"""`make demo`: one Bastide on this machine, and its story in short chapters, every figure measured as it is told.

It uses the doors every user has: the command, the sdk, the official openai client. It stays up until Ctrl-C; with ONCE=1
it ends after the story, with 0, and leaves no process. A figure that does not add up ends it with 1.
BASTIDE_LISTEN=HOST:PORT chooses where it listens (default: a free port, for this machine alone).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from typing import Any

for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = "127.0.0.1,localhost,::1," + os.environ.get(_name, "")

import openai  # noqa: E402  the proxy is ruled out first
from demo_boxes import Boxes  # noqa: E402
from demo_paper import Paper  # noqa: E402
from demo_story import Story  # noqa: E402
from demo_talk import WHAT  # noqa: E402
from demo_town import DATA, HOME, ROOT, Broken, Town, is_there  # noqa: E402

from bastide.domain.errors import BastideError  # noqa: E402


def stay(town: Town, story: Story, paper: Paper) -> None:
    """Until Ctrl-C or SIGTERM. Raises Broken where Bastide ends by itself."""
    shown = DATA.relative_to(ROOT)
    if os.environ.get("ONCE") == "1":
        return  # it ends now: nobody could try anything
    paper.line()
    paper.say(f"URL  {story.client.url}/v1   (any OpenAI client)", "bold")
    paper.say(f"key  {story.client.key}", "bold")
    paper.say("")
    paper.say("Try, in another terminal:")
    for command, what in (
        (f'chat chat "{WHAT}"', "it streams, and shows the wake"),
        ("ps", "who is awake, since when, and why"),
        ("why chat", "every decision, with its reason"),
        ("sandbox templates", "what sandboxes are made from, and which tiers hold here"),
    ):
        paper.say(f"  BASTIDE_DATA={shown} .venv/bin/bastide {command}")
        paper.quiet(f"      {what}")
    paper.say("")
    paper.say("Bastide stays up until Ctrl-C.")
    assert town.process is not None
    status = town.process.wait()
    raise Broken(f"`bastide up` ended by itself (status {status}); see {HOME.relative_to(ROOT)}/up.log")


def main() -> int:
    paper = Paper()

    def told(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, told)
    processes: list[int] = []
    town = Town()
    status = 0
    try:
        paper.title(
            "Bastide", "One command on one machine: models, apps and sandboxes that sleep, wake, and are metered."
        )
        with town:
            try:
                town.forget_earlier_runs()
                story = Story(town, paper)
                story.tell()
                Boxes(town, paper, story.client).tell()
                stay(town, story, paper)
            finally:
                processes = town.processes()
    except KeyboardInterrupt:
        status = 0 if processes else 130
    except (Broken, BastideError, openai.OpenAIError) as error:
        paper.console.print()
        paper.bad(str(error))
        status = 1
    except Exception as error:
        # Nobody wants to read a traceback in a story; whoever mends it does.
        log = HOME / "demo.log"
        log.write_text(traceback.format_exc())
        paper.bad(
            f"a fault in the demo itself ({type(error).__name__}: {error}); {log.relative_to(ROOT)} has the details"
        )
        status = 1
    with contextlib.suppress(KeyboardInterrupt):
        return _ended(paper, processes, status)
    return status


def _ended(paper: Paper, processes: list[int], status: int) -> int:
    """Everything that ran must be gone."""
    deadline = time.monotonic() + 5.0
    while (left := [pid for pid in processes if is_there(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        paper.bad(f"processes are left behind: {', '.join(map(str, left))}")
        return 1
    if processes:
        paper.console.print()
        paper.quiet(
            f"Ended; all {len(processes)} processes are gone. What it holds is kept in {DATA.relative_to(ROOT)}; "
            "without ONCE=1 it stays up, and says what to try."
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
