"""E3: pooling."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.sections.tables import Rows, mean, table
from benchmarks.svg import Series, plot

POOLS = ("dedicated", "keepalive_autoscale", "static_multiplexing", "oracle_free", "oracle_paying", "bastide")


def _grid(trace: str) -> str:
    return trace.removeprefix("poisson_").replace("_", " ")


def _size(row: dict[str, Any]) -> str:
    """How many devices; in brackets where even those don't keep the promise."""
    return str(row["gpus_needed"]) if row["slo_met"] else f"({row['gpus_needed']})"


def section(rows: Rows, kept: Path) -> str:
    found = {(row["trace"], row["policy"], row["seed"]): row for row in rows}
    drawn = [
        (trace, seed)
        for trace, seed in dict.fromkeys((row["trace"], row["seed"]) for row in rows)
        if all((trace, pool, seed) in found for pool in POOLS)
    ]
    traces = list(dict.fromkeys(trace for trace, _ in drawn))
    lines, met, sizes = [], 0, {}
    for trace in traces:
        seeds = [seed for one, seed in drawn if one == trace]
        sizes[trace] = {pool: [found[trace, pool, seed]["gpus_needed"] for seed in seeds] for pool in POOLS}
        allowed = [math.floor(max(1.15 * free, free + 1)) for free in sizes[trace]["oracle_free"]]
        ours = [found[trace, "bastide", seed] for seed in seeds]
        within = [one["slo_met"] and one["gpus_needed"] <= most for one, most in zip(ours, allowed, strict=True)]
        met += sum(within)
        lines.append(
            [_grid(trace), *(" ".join(_size(found[trace, pool, seed]) for seed in seeds) for pool in POOLS),
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
            "from ServeGen's clients. The devices are modelled, not measured: an 8B model on 80 GB, at most four held at once, 0.68 s to",
            "load one (ServerlessLLM on H100), 25 ms a step, 8,000 prompt tokens a second. A token's cache takes 128 KiB: those of a batch must",
            "fit beside the weights that are held, and one that lies on another device or in a host's memory must come, over the lane of the",
            "weights (24 GB/s). Each is copied to the host's memory as it is made (1 GB/s at most), so to leave takes no time.",
            "`oracle_free` switches and moves for nothing, `oracle_paying` pays as we do; both choose their settings in hindsight, for each row. Those that pay bring the next model while another runs, as Aegaeon does: copying and computing use",
            "different parts of a device. That one takes its place meanwhile. `static_multiplexing` deals models out by what they will be",
            "asked in all, at most three to a device as its paper has it, which alone decides its sizes at 0.1/s.",
            "Several devices may run one model, each a part of its requests, for all but `dedicated` and `static_multiplexing`. The rows",
            "`servegen` are clients of ServeGen as models, each with a rate (at most 0.5 a second), regularity and lengths of its own, of a",
            "window of ten minutes drawn for it. Where there are several numbers, they are of one seed each. The search takes it that more",
            "devices are never worse. A size in brackets doesn't keep the promise: there some model asks for more than its device gives.",
            "A prompt is computed in pieces of half a second at most, so a long one stops nobody else: others have their turn between two",
            "pieces. Caches come while prompts are computed, and whoever's is not there yet joins the others of the turn later.",
            "Where the bar is missed, three models' caches alone would fill fourteen devices, and must come and go; an oracle that pays for it",
            "misses it too.",
            "",
            f"- Within 1.15 x `oracle_free`, or one device more: {met} of {len(drawn)}. Aegaeon (SOSP'25), whose trace is not public, reports",
            "  up to 7 models a device and 82 % saved; the figures here are of other models and lengths.",
            "",
            *table(["models x rate", *POOLS, "bar", "", "models per device", "saved %"], lines),
            "",
            "![Devices needed](evaluation/E3.svg)",
            "",
        ]
    )
