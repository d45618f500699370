"""E3: many models on few devices. Owns the search for the smallest pool that keeps its promises, for each policy.

The pool is large enough when 99 % of requests and 99 % of tokens are in time (`pool` says when one is, and what devices cost).
What arrives is drawn in `pooled`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate.pool import HINDSIGHT, SHIPPED, Pool, Score
from bastide.sim.evaluate.pooled import Arrival, draw_arrivals, grid, read_clients

POLICIES = ("dedicated", "keepalive_autoscale", "static_multiplexing", "oracle_free", "oracle_paying", "bastide")


def needed(policy: str, models: int, arrivals: Sequence[Arrival]) -> tuple[int, Score]:
    """The smallest pool that keeps its promises, and what came of the requests there."""
    if policy == "dedicated":
        return models, Pool("static_multiplexing", models, models, 1).run(arrivals)
    if policy == "static_multiplexing":
        for together in (3, 2, 1):
            pool = math.ceil(models / together)
            score = Pool(policy, pool, models, together).run(arrivals)
            if score.met():
                break
        return pool, score
    # An oracle knows afterwards which settings were best for these arrivals; what ships has one setting for all.
    tried = HINDSIGHT if policy.startswith("oracle") else (SHIPPED,)

    def best(size: int) -> Score:
        for settings in tried:
            score = Pool(policy, size, models, settings=settings).run(arrivals)
            if score.met():
                break
        return score

    # Too small a pool is soon seen to be, so sizes are doubled until one suffices, then the range is halved.
    low, high = 0, 1
    while not (score := best(high)).met() and high < models:
        low, high = high, min(2 * high, models)
    while high - low > 1:
        middle = (low + high) // 2
        tried_score = best(middle)
        if tried_score.met():
            high, score = middle, tried_score
        else:
            low = middle
    return high, score


def rows(data: Path, traces: Sequence[str], policies: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row per trace, policy and seed."""
    for policy in policies:
        if policy not in POLICIES:
            raise InvalidRequest(f"there is no policy {policy!r} in E3; there are: {', '.join(POLICIES)}")
    clients = read_clients(data)
    for trace in traces or grid(data):
        for seed in seeds:
            models, arrivals = draw_arrivals(trace, clients, seed)
            for policy in policies or POLICIES:
                pool, score = needed(policy, models, arrivals)
                yield {
                    "trace": trace,
                    "policy": policy,
                    "seed": seed,
                    "gpus_needed": pool,
                    "models_per_gpu": round(models / pool, 3),
                    "saving": round(1 - pool / models, 4),
                    "slo_met": score.met(),
                    "first_tokens_in_time": round(1 - score.first_late / max(1, score.requests), 5),
                    "tokens_in_time": round(1 - score.tokens_late / max(1, score.tokens), 5),
                    "loads_per_request": round(score.loads / max(1, score.requests), 4),
                }
