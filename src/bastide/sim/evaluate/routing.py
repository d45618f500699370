"""E4: requests with shared prefixes, routed over nodes that each remember what they computed. Owns costs and baselines.

Each node computes one prompt after another and keeps the blocks of prompts in a cache of bounded size (least recently used
goes). The first token of a request comes when its prompt is computed: `ttft`. Costs, of the published comparison (Qin
et al., Mooncake, FAST'25): flops(n) = 80 (4 n^2 d + 22 n d^2) with d = 8192 for a prompt of n tokens, of which p reused
tokens save flops(p); 320 KB of cache a token, moved at 800 Gbit/s. The network is not contended. What share of its peak a
node reaches is not published; see EFFICIENCY.
"""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bastide.domain.errors import InvalidRequest
from bastide.policy.affinity import Prospect, choose
from bastide.sim.evaluate.table import find, text_lines, whole

TRACE = "mooncake_fast25_conversation"
NODES = 16
BLOCK_TOKENS = 512
CACHE_TOKENS = 3_000_000
WIDTH = 8192.0
PEAK_FLOPS = 8 * 312e12
# Chosen once, so that routing by chance gives its published mean time to first token, 19.65 s; the rest follows.
EFFICIENCY = 0.295
BYTES_PER_TOKEN = 320e3
LINK_BYTES_PER_S = 100e9
# Mooncake's own threshold: a neighbour's prefix is fetched when it is this much longer than the one that is there.
FETCH_RATIO = 1.0
POLICIES = ("random", "least_loaded", "local_cache_aware", "global_cache_aware", "bastide")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request: when it comes, how long it is, and its blocks by what they and all before them contain."""

    at_s: float
    tokens: int
    blocks: tuple[int, ...]


@dataclass(slots=True)
class Node:
    """When it is free, and the blocks it remembers with when they are computed (in order of last use)."""

    free_s: float = 0.0
    cache: OrderedDict[int, float] = field(default_factory=OrderedDict)

    def prefix(self, blocks: Sequence[int], by_s: float) -> int:
        """How many of the first blocks it will have by then."""
        for index, block in enumerate(blocks):
            if self.cache.get(block, np.inf) > by_s:
                return index
        return len(blocks)

    def remember(self, blocks: Sequence[int], done_s: float) -> None:
        for block in blocks:
            self.cache[block] = min(self.cache.get(block, done_s), done_s)
            self.cache.move_to_end(block)
        while len(self.cache) > CACHE_TOKENS // BLOCK_TOKENS:
            self.cache.popitem(last=False)


def flops(tokens: float) -> float:
    return 80 * (4 * tokens * tokens * WIDTH + 22 * tokens * WIDTH * WIDTH)


def work_s(tokens: int, reused: int, efficiency: float) -> float:
    """Seconds to compute a prompt of which a prefix is there; the last token is always computed."""
    reused = min(reused, tokens - 1)
    return (flops(tokens) - flops(reused)) / (efficiency * PEAK_FLOPS)


def read(data: Path, trace: str = TRACE) -> list[Prompt]:
    """The prompts of a trace, in the order they come. Raises InvalidRequest with the line of what makes no sense."""
    path = find(data, f"{trace}.jsonl.gz")
    prompts: list[Prompt] = []
    before = 0
    for line, text in text_lines(path):
        what = f"{path}, line {line}"
        try:
            found = json.loads(text)
            at, tokens, blocks = found["timestamp"], found["input_length"], found["hash_ids"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"{what}: is torn or lacks a field: {error}") from None
        at_ms, length = whole(at, 0, f"{what}, timestamp"), whole(tokens, 1, f"{what}, input_length")
        if at_ms < before:
            raise InvalidRequest(f"{what}: the trace is not sorted by time")
        before = at_ms
        whole(found.get("output_length", 0), 0, f"{what}, output_length")
        if not isinstance(blocks, list):
            raise InvalidRequest(f"{what}, hash_ids: is not a list")
        prompts.append(Prompt(at_ms / 1000, length, tuple(whole(block, 0, f"{what}, hash_ids") for block in blocks)))
    if not prompts:
        raise InvalidRequest(f"{path} has no requests")
    return prompts


class Router:
    """One policy over the nodes. `decide` returns the node and how many blocks it fetches first."""

    def __init__(self, policy: str, seed: int, efficiency: float) -> None:
        if policy not in POLICIES:
            raise InvalidRequest(f"there is no policy {policy!r} in E4; there are: {', '.join(POLICIES)}")
        self._policy, self._efficiency = policy, efficiency
        self._chance = random.Random(seed)

    def decide(self, prompt: Prompt, nodes: Sequence[Node]) -> tuple[int, int]:
        """The node by index, and the length in blocks of the prefix it fetches (0: none)."""
        waits = [max(0.0, node.free_s - prompt.at_s) for node in nodes]
        if self._policy == "random":
            return self._chance.randrange(len(nodes)), 0
        if self._policy == "least_loaded":
            return min(range(len(nodes)), key=waits.__getitem__), 0
        here = [node.prefix(prompt.blocks, prompt.at_s + wait) for node, wait in zip(nodes, waits, strict=True)]
        if self._policy == "local_cache_aware":
            return min(range(len(nodes)), key=lambda i: waits[i] + self._work_s(prompt, here[i])), 0
        ready = [node.prefix(prompt.blocks, prompt.at_s) for node in nodes]
        longest = max(ready)
        if self._policy == "global_cache_aware":
            best = (float("inf"), 0, 0)
            for index, wait in enumerate(waits):
                if longest > FETCH_RATIO * here[index]:
                    takes = wait + self.fetch_s(longest - here[index]) + self._work_s(prompt, longest)
                    best = min(best, (takes, index, longest))
                else:
                    best = min(best, (wait + self._work_s(prompt, here[index]), index, 0))
            return best[1], best[2]
        prospects = [
            Prospect(
                wait,
                self._work_s(prompt, have),
                self.fetch_s(longest - have) if longest > have else float("inf"),
                self._work_s(prompt, longest),
            )
            for wait, have in zip(waits, here, strict=True)
        ]
        chosen = choose(prospects)
        return chosen.index, longest if chosen.fetch else 0

    def _work_s(self, prompt: Prompt, blocks: int) -> float:
        return work_s(prompt.tokens, blocks * BLOCK_TOKENS, self._efficiency)

    def fetch_s(self, blocks: int) -> float:
        """Seconds to bring that many blocks from a neighbour."""
        return blocks * BLOCK_TOKENS * BYTES_PER_TOKEN / LINK_BYTES_PER_S


def run(prompts: Sequence[Prompt], policy: str, seed: int, efficiency: float = EFFICIENCY) -> dict[str, float]:
    """Every prompt once, by one policy."""
    router = Router(policy, seed, efficiency)
    nodes = [Node() for _ in range(NODES)]
    waited: list[float] = []
    hit = total = fetched_tokens = 0
    for prompt in prompts:
        index, fetched = router.decide(prompt, nodes)
        node = nodes[index]
        start_s = max(prompt.at_s, node.free_s)
        have = node.prefix(prompt.blocks, start_s)
        if fetched > have:
            fetched_tokens += (fetched - have) * BLOCK_TOKENS
            start_s += router.fetch_s(fetched - have)
            have = fetched
        reused = min(have * BLOCK_TOKENS, prompt.tokens - 1)
        done_s = start_s + work_s(prompt.tokens, reused, efficiency)
        node.free_s = done_s
        node.remember(prompt.blocks, done_s)
        waited.append(done_s - prompt.at_s)
        hit += reused
        total += prompt.tokens
    return {
        "ttft_mean_s": round(float(np.mean(waited)), 4),
        "ttft_p99_s": round(float(np.percentile(waited, 99)), 4),
        "token_hit_rate": round(hit / total, 5),
        "fetched_tokens_share": round(fetched_tokens / total, 5),
    }


def rows(data: Path, traces: Sequence[str], policies: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row per trace, policy and seed; only `random` draws, so the others have one row, of the first seed."""
    for policy in policies:
        Router(policy, 0, EFFICIENCY)
    for trace in traces or (TRACE,):
        prompts = read(data, trace)
        for policy in policies or POLICIES:
            for seed in seeds if policy == "random" else seeds[:1]:
                yield {"trace": trace, "policy": policy, "seed": seed, **run(prompts, policy, seed)}
