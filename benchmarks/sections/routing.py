"""E4: routing."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sections.tables import Rows, mean, table
from benchmarks.svg import Series, plot


def section(rows: Rows, kept: Path) -> str:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["policy"], []).append(row)
    unit = mean(found["global_cache_aware"], "ttft_mean_s")
    published = {"random": 6.4, "least_loaded": 1.72, "local_cache_aware": 1.17, "global_cache_aware": 1.0}
    lines = [
        [policy, f"{mean(members, 'ttft_mean_s'):.3f}", f"{mean(members, 'ttft_p99_s'):.2f}",
         f"{100 * mean(members, 'token_hit_rate'):.1f}", f"{100 * mean(members, 'fetched_tokens_share'):.1f}",
         f"{mean(members, 'ttft_mean_s') / unit:.2f}", f"{published[policy]:g}" if policy in published else ""]
        for policy, members in found.items()
    ]  # fmt: skip
    ours, best = found["bastide"], found["global_cache_aware"]
    met = all(mean(ours, figure) <= mean(best, figure) for figure in ("ttft_mean_s", "ttft_p99_s"))
    points = [Series(policy, [(n, mean(members, "ttft_mean_s"))]) for n, (policy, members) in enumerate(found.items())]
    (kept / "E4.svg").write_text(
        plot("Mean time to first token", "", "seconds", points, [name.replace("_cache_aware", "") for name in found])
    )
    return "\n".join(
        [
            "## E4 Prefix-aware routing",
            "",
            "`bastide sim evaluate E4 --data DIR --seeds 42-51`: 12,031 requests of an hour (Mooncake, FAST'25) on 16 nodes. Calibrated by",
            "one number, 29.5 % of a node's peak, so that routing by chance gives its published 19.65 s; the network is not contended.",
            "A node that waits for nobody spends nearly all of the mean in computing, so what a router can win ends there.",
            "",
            f"- Mean and 99th percentile not above global cache-aware: {'met' if met else '**missed**'}, with fewer tokens moved.",
            "",
            *table(["policy", "mean s", "p99 s", "tokens reused %", "tokens moved %", "ratio", "published"], lines),
            "",
            "![Mean time to first token](evaluation/E4.svg)",
            "",
        ]
    )
