"""A cold start: request to first token through Bastide, beside the same engine started by hand.

    python -m benchmarks.cold_start [--models tiny,135m,1b] [--quick]

Both sides begin with no process and end at the first token of the same streamed request. Ours: the request reaches the
gateway, the agent starts the engine, the request goes through. By hand: `python -I -S` is spawned, loads the library,
starts the server with the flags that our own translator makes (the best known), and a client that waits for its "ready" sends the request to its Unix socket.
Weights are in the page cache, nothing is kept of prompts (rung `off`), the two sides take turns.

Predicted before measuring: ours is below one, for the keeper forks engines with Python and the library already loaded:
0.5 for the built-in model, 0.75 for 135m, 0.95 for 1b, where mapping and reading the prompt dominate.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bastide.adapters.runtime.proc as runtime
from bastide.control.specfile import parse
from bastide.domain.instances import Assignment, WeightFile
from bastide.engines.llamacpp import LlamaCpp
from bastide.engines.port import Place
from benchmarks.house import House, house
from benchmarks.instruments import Stream
from benchmarks.models import request, source, spec
from benchmarks.record import Record, arguments, predicted, workplace

ROUNDS = {"tiny": 21, "135m": 15, "1b": 9}
BAR = 1.15
HERE = Path(__file__).parent


def described(weights: Path) -> WeightFile:
    """Only what starting needs."""
    return WeightFile(str(weights), weights.stat().st_size, "")


def by_hand(model: str, weights: Path, work: Path) -> float:
    """Seconds from spawning to the first token."""
    package = importlib.util.find_spec("xllamacpp")
    assert package is not None and package.origin is not None
    launch = LlamaCpp().launch(
        Assignment("hand", 1, 0, parse(f"services:\n{spec(model, 'builtin://tiny')}").services[0], described(weights)),
        Place(str(work), str(work), str(work), threads=2, lease_s=60.0, secret=secrets.token_urlsafe(16)),
    )
    Path(launch.state_directory).mkdir(exist_ok=True)
    child_script = Path(runtime.__file__).with_name("xllamacpp_child.py")
    began_s = time.perf_counter()
    with subprocess.Popen(
        [
            sys.executable, "-I", "-S", str(HERE / "engine_by_hand.py"),
            str(Path(package.origin).parent.parent), str(child_script),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | dict(launch.environment),
    ) as child:  # fmt: skip
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(launch.config.encode() + b"\n")
            child.stdin.flush()
            if child.stdout.readline() != b"ready\n":
                raise RuntimeError("the engine started by hand did not start")
            line = Stream(launch.socket, launch.secret)
            ready_s = time.perf_counter() - began_s
            answer = line.ask(request(model))
            line.close()
            return ready_s + answer.first_s
        finally:
            child.kill()
            Path(launch.socket).unlink(missing_ok=True)


def rounds(town: House, model: str, weights: Path, work: Path, count: int) -> dict[str, Any]:
    line = town.line()
    ours: list[float] = []
    hand: list[float] = []
    for _ in range(count):
        town.awake_pid(model)
        town.put_off(model)
        time.sleep(0.1)
        hand.append(by_hand(model, weights, work))
        time.sleep(0.1)
        answer = line.ask(request(model))
        if answer.rung not in ("off", ""):
            raise RuntimeError(f"{model} woke from {answer.rung}, not from off")
        ours.append(answer.first_s)
        time.sleep(0.1)
    line.close()
    return {
        "ours_ms": round(statistics.median(ours) * 1000, 2),
        "by_hand_ms": round(statistics.median(hand) * 1000, 2),
        "ratio": round(statistics.median(o / h for o, h in zip(ours, hand, strict=True)), 3),
        "rounds": count,
    }


def main() -> None:
    asked = arguments(__doc__).parse_args()
    record = Record("cold_start", predicted(__doc__))
    models = asked.models.split(",")
    with workplace(asked.work) as work, house(work) as town:
        for model in models:
            url, weights = source(model, work)
            town.deploy("services:\n" + spec(model, url))
            town.line().ask(request(model))
            time.sleep(0.2 if asked.quick else 2.0)
            by_hand(model, weights, work)  # what the first start reads from the disk is nobody's merit
            found = rounds(town, model, weights, work, 2 if asked.quick else ROUNDS[model])
            town.sleep(model, "deep")
            record.details[model] = found
            record.row(
                f"cold start to first token, {model}, times the engine started by hand",
                f"<= {BAR}",
                f"{found['ratio']:.2f} ({found['ours_ms']:.0f} against {found['by_hand_ms']:.0f} ms)",
                found["ratio"] <= BAR,
            )
    record.write(asked.quick, asked.out)


if __name__ == "__main__":
    main()
