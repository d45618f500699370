"""E3: pooling."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from benchmarks.sections.tables import Rows, mean, table
from benchmarks.svg import Series, plot

POOLS = ("dedicated", "keepalive_autoscale", "static_multiplexing", "oracle_free", "oracle_paying", "bastide")


def _grid(trace: str) -> str:
    return trace.removeprefix("poisson_").replace("_", " ")


def section(rows: Rows, kept: Path) -> str:
    found = {(row["trace"], row["policy"], row["seed"]): row for row in rows}
    drawn = [
        (trace, seed)
        for trace, seed in dict.fromkeys((row["trace"], row["seed"]) for row in rows)
        if all((trace, pool, seed) in found for pool in POOLS)
    ]
    # Where one model alone asks for more than a device gives, no pool of one device a model and step suffices.
    able = [(trace, seed) for trace, seed in drawn if found[trace, "oracle_free", seed]["slo_met"]]
    traces = list(dict.fromkeys(trace for trace, _ in able))
    unable = ", ".join(f"{_grid(trace)} (seed {seed})" for trace, seed in drawn if (trace, seed) not in able)
    lines, met, sizes = [], 0, {}
    for trace in traces:
        seeds = [seed for one, seed in able if one == trace]
        sizes[trace] = {pool: [found[trace, pool, seed]["gpus_needed"] for seed in seeds] for pool in POOLS}
        allowed = [math.floor(max(1.15 * free, free + 1)) for free in sizes[trace]["oracle_free"]]
        within = [ours <= most for ours, most in zip(sizes[trace]["bastide"], allowed, strict=True)]
        met += sum(within)
        ours = [found[trace, "bastide", seed] for seed in seeds]
        lines.append(
            [_grid(trace), *(" ".join(str(size) for size in sizes[trace][pool]) for pool in POOLS),
             " ".join(str(most) for most in allowed), "met" if all(within) else f"**{within.count(False)} missed**",
             f"{mean(ours, 'models_per_gpu'):.1f}", f"{100 * mean(ours, 'saving'):.0f}"]
        )  # fmt: skip
    series = [
        Series(policy, [(number, statistics.mean(sizes[trace][policy])) for number, trace in enumerate(traces)])
        for policy in reversed(POOLS)
    ]
    (kept / "E3.svg").write_text(
        plot(
            "Devices needed, mean of the seeds",
            "models x requests per second of each",
            "devices",
            series,
            [_grid(trace) for trace in traces],
        )
    )
    return "\n".join(
        [
            "## E3 Pooling of many models",
            "",
            "`bastide sim evaluate E3 --data DIR --seeds 42-44`: the fewest devices for which 99 % of first tokens come within 10 s and 99 % of",
            "tokens by 100 ms times their place. Poisson arrivals, so many models x so many requests per second each, for 300 s; lengths",
            "from ServeGen's clients. The devices are modelled, not measured: an 8B model on 80 GB, four held at once, 0.68 s to load",
            "one (ServerlessLLM on H100), 25 ms a step, 8,000 prompt tokens a second. `oracle_free` switches for nothing, `oracle_paying`",
            "pays as we do, and both choose their settings in hindsight, for each row. Both of those that pay bring the next model while another",
            "runs, as Aegaeon does: copying and computing use different parts of a device. That one takes a place of the four meanwhile.",
            "The rows `servegen` are clients of ServeGen as models, each with a rate (at most 0.5 a second), regularity and lengths of its",
            "own, of a window of ten minutes drawn for it. Where there are several numbers, they are of one seed each. The search takes it",
            "that more devices are never worse; in small rows a burst for one model, which no pool answers in time, decides.",
            "",
            f"- Within 1.15 x `oracle_free`, or one device more: {met} of {len(able)}. Aegaeon (SOSP'25), whose trace is not public, reports",
            "  up to 7 models a device and 82 % saved; the figures here are of other models and lengths.",
            "",
            *(
                [
                    f"Left out: {unable}. There some models miss the promise even alone on a device, so no pool keeps it.",
                    "",
                ]
                if unable
                else []
            ),
            *table(["models x rate", *POOLS, "bar", "", "models per device", "saved %"], lines),
            "",
            "![Devices needed](evaluation/E3.svg)",
            "",
        ]
    )
