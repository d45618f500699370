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
from bastide.sim.evaluate.pool import HINDSIGHT, SHIPPED, Pool
from bastide.sim.evaluate.pooldevices import PROMPT_TOKENS_PER_S, STEP_S, Score
from bastide.sim.evaluate.pooled import Arrival, draw_arrivals, grid, read_clients

POLICIES = ("dedicated", "keepalive_autoscale", "static_multiplexing", "oracle_free", "oracle_paying", "bastide")


# MuxServe shares a device among two or three.
TOGETHER_MAX = 3


def dealt(models: int, devices: int, arrivals: Sequence[Arrival]) -> dict[int, int]:
    """By model its device, for good: by what they will be asked (known beforehand, as MuxServe supposes), the largest first, each
    where the least is asked so far and there is a place."""
    asked_s = [0.0] * models
    for _, number, prompt, answer in arrivals:
        asked_s[number] += prompt / PROMPT_TOKENS_PER_S + answer * STEP_S
    owners: dict[int, int] = {}
    load_s, count = [0.0] * devices, [0] * devices
    for number in sorted(range(models), key=lambda one: -asked_s[one]):
        able = [index for index in range(devices) if count[index] < TOGETHER_MAX]
        owners[number] = chosen = min(able, key=lambda index: load_s[index])
        load_s[chosen] += asked_s[number]
        count[chosen] += 1
    return owners


def needed(policy: str, models: int, arrivals: Sequence[Arrival]) -> tuple[int, Score]:
    """The smallest pool that keeps its promises, and what came of the requests there."""
    if policy == "dedicated":
        return models, Pool(policy, models, models, {number: number for number in range(models)}).run(arrivals)
    fewest = math.ceil(models / TOGETHER_MAX) if policy == "static_multiplexing" else 1
    # An oracle knows afterwards which settings were best for these arrivals; what ships has one setting for all.
    tried = HINDSIGHT if policy.startswith("oracle") else (SHIPPED,)

    def best(size: int) -> Score:
        owners = dealt(models, size, arrivals) if policy == "static_multiplexing" else None
        for settings in tried:
            score = Pool(policy, size, models, owners, settings).run(arrivals)
            if score.met():
                break
        return score

    # Too small a pool is soon seen to be, so sizes are doubled until one suffices, then the range is halved.
    low, high = fewest - 1, fewest
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
