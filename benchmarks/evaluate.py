"""Every evaluation of the policies, then benchmarks/EVALUATION.md. Owns what was run already; measures nothing itself.

python -m benchmarks.evaluate [E1 E2 …] [--data DIR] [--fresh] [--render]

Rows are kept in benchmarks/evaluation/*.jsonl as they are found, each with the commit it was made at, so that a run goes on
where it was interrupted. `--fresh` runs everything anew; `--render` only makes the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import evaluation_page

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).with_name("evaluation")
# E1 on the fleet three times over: these policies and seeds.
TILED = ("random", "best_fit", "fgd", "bastide")
TILED_SEEDS = (42, 43, 44)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="EVALUATION")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--render", action="store_true")
    asked = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    if not asked.render:
        from bastide.sim.evaluate.catalog import EVALUATIONS, evaluation

        for name in asked.names or EVALUATIONS:
            found = evaluation(name)
            if asked.fresh:
                (KEPT / f"{name}.jsonl").unlink(missing_ok=True)
            run(found, asked.data)
    print(evaluation_page.write(KEPT))


def run(found: Any, data: Path) -> None:
    """What is not kept yet of one evaluation, row by row."""
    from bastide.sim.evaluate.catalog import Ask

    path = KEPT / f"{found.name}.jsonl"
    done = {key(row, found.group) for row in read(path)}
    todo = [
        (group, policy, seed, 1)
        for group in found.groups(data)
        for policy in found.policies
        for seed in (found.seeds[:1] if policy in found.undrawn else found.seeds)
    ]
    if found.name == "E1":
        todo += [("default", policy, seed, 3) for policy in TILED for seed in TILED_SEEDS]
    todo = [one for one in todo if one not in done]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    began = time.monotonic()
    with path.open("a") as file:
        for number, (group, policy, seed, tiles) in enumerate(todo, 1):
            ask = Ask(data, (group,), (policy,), (seed,), tiles)
            for row in alone(found.name, ask) if found.alone else found.rows(ask):
                file.write(json.dumps({**row, "tiles": tiles, "commit": commit.strip()}) + "\n")
                file.flush()
            left_s = (time.monotonic() - began) / number * (len(todo) - number)
            print(f"{found.name}: {number} of {len(todo)} rows, about {left_s / 60:.0f} min left", file=sys.stderr)


def alone(name: str, ask: Any) -> Iterator[dict[str, Any]]:
    """Rows of a process of its own, by the same command that anybody would type."""
    command = [sys.executable, "-m", "bastide.wiring.main", "sim", "evaluate", name, "--json", "--data", str(ask.data)]
    command += ["--workload", ask.workloads[0], "--policy", ask.policies[0], "--seeds", str(ask.seeds[0])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    yield from (json.loads(line) for line in done.stdout.splitlines())


def key(row: dict[str, Any], group: str) -> tuple[str, str, int, int]:
    return row[group], row["policy"], row["seed"], row.get("tiles", 1)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows kept so far; a last line that was torn by an interruption is dropped, and run again."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole))
    return [json.loads(line) for line in whole]


if __name__ == "__main__":
    main()
