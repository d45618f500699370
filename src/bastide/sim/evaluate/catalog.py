"""Every evaluation by its name: what it yields and which of its figures a person looks at first."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate import breaking, keeping, openb, placing, pooled, pooling, routing, scaling

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """What to run. Empty sequences stand for all; `tiles` repeats the fleet of E1."""

    data: Path
    workloads: Sequence[str] = ()
    policies: Sequence[str] = ()
    seeds: Sequence[int] = ()
    tiles: int = 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`group`: the column that tells rows of one comparison from another's. `shown`: figures for the terminal.

    `groups`: what that column may hold, in a directory of traces. `undrawn`: policies that give one row, whatever the seeds.
    """

    name: str
    about: str
    group: str
    shown: tuple[str, ...]
    seeds: tuple[int, ...]  # where none are asked for
    rows: Callable[[Ask], Iterator[Row]]
    policies: tuple[str, ...]
    groups: Callable[[Path], list[str]]
    undrawn: frozenset[str] = frozenset()
    reads: bool = True  # traces; else `--data` is not needed
    tiled: bool = False  # its fleet may be repeated
    alone: bool = False  # its rows measure the process they run in: one process for each


def _placing(ask: Ask) -> Iterator[Row]:
    return placing.rows(ask.data, ask.workloads, ask.policies, ask.seeds, ask.tiles)


def _keeping(ask: Ask) -> Iterator[Row]:
    return keeping.rows(ask.data, ask.workloads, ask.policies)


def _pooling(ask: Ask) -> Iterator[Row]:
    return pooling.rows(ask.data, ask.workloads, ask.policies, ask.seeds)


def _routing(ask: Ask) -> Iterator[Row]:
    return routing.rows(ask.data, ask.workloads, ask.policies, ask.seeds)


def _scaling(ask: Ask) -> Iterator[Row]:
    return scaling.rows(ask.data, ask.workloads, ask.policies, ask.seeds)


def _breaking(ask: Ask) -> Iterator[Row]:
    return breaking.rows(ask.data, ask.workloads, ask.policies, ask.seeds)


EVALUATIONS = {
    evaluation.name: evaluation
    for evaluation in (
        Evaluation(
            "E1",
            "placement and fragmentation",
            "workload",
            (
                "alloc_at_90",
                "alloc_at_95",
                "alloc_at_100",
                "alloc_at_130",
                "frag_pct_of_total_at_100",
                "decision_us_mean",
            ),
            tuple(range(42, 52)),
            _placing,
            placing.POLICIES,
            openb.workload_names,
            tiled=True,
        ),
        Evaluation(
            "E2",
            "keep-alive",
            "trace",
            ("cold_rate", "cold_rate_p75", "waste"),
            (0,),
            _keeping,
            keeping.POLICIES,
            lambda _: [keeping.TRACE],
            frozenset(keeping.POLICIES),
        ),
        Evaluation(
            "E3",
            "pooling of many models",
            "trace",
            ("gpus_needed", "models_per_gpu", "saving", "first_tokens_in_time", "tokens_in_time", "loads_per_request"),
            (42, 43, 44),
            _pooling,
            pooling.POLICIES,
            pooled.grid,
        ),
        Evaluation(
            "E4",
            "prefix-aware routing",
            "trace",
            ("ttft_mean_s", "ttft_p99_s", "token_hit_rate", "fetched_tokens_share"),
            tuple(range(42, 52)),
            _routing,
            routing.POLICIES,
            lambda _: [routing.TRACE],
            frozenset(routing.POLICIES) - {"random"},
        ),
        Evaluation(
            "E5",
            "a large fleet",
            "scale",
            (
                "devices",
                "services",
                "full_plan_s",
                "plan_us_p50",
                "plan_us_p99",
                "wall_s",
                "memory_mib",
                "allocated_most",
            ),
            (42,),
            _scaling,
            scaling.POLICIES,
            scaling.groups,
            alone=True,
        ),
        Evaluation(
            "E6",
            "faults in a fleet",
            "world",
            ("broken", "faults", "requests", "starts", "starts_failed", "refused_actions"),
            tuple(range(1, 1001)),
            _breaking,
            breaking.POLICIES,
            lambda _: [breaking.WORLD],
            reads=False,
        ),
    )
}


def evaluation(name: str) -> Evaluation:
    """The evaluation of that name. Raises InvalidRequest where there is none."""
    if name not in EVALUATIONS:
        known = ", ".join(f"{key} ({value.about})" for key, value in EVALUATIONS.items())
        raise InvalidRequest(f"there is no evaluation {name!r}; there are: {known}")
    return EVALUATIONS[name]


def unused(
    chosen: Evaluation, policies: Sequence[str], *, data: bool = False, seeds: bool = False, tiles: bool = False
) -> list[str]:
    """What to say of options that were given and change nothing, so that one command does for every evaluation.

    Raises InvalidRequest for `tiles`: the fleet would not be the one that was asked for.
    """
    if tiles and not chosen.tiled:
        able = ", ".join(one.name for one in EVALUATIONS.values() if one.tiled)
        raise InvalidRequest(f"`--tiles` is for {able} alone; leave it out of {chosen.name}")
    notes = []
    if data and not chosen.reads:
        notes.append(f"{chosen.name} reads no traces: `--data` changes nothing")
    drawing = [policy for policy in chosen.policies if policy not in chosen.undrawn]
    if seeds and (not drawing or (policies and chosen.undrawn.issuperset(policies))):
        where = f"by {', '.join(policies)} in {chosen.name}" if drawing else f"in {chosen.name}"
        notes.append(f"nothing is drawn {where}: `--seeds` changes nothing")
    return notes


SEED = re.compile(r"[0-9]{1,18}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """`42-51`, `42,45` or `42`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not SEED.fullmatch(first) or (dash and not SEED.fullmatch(last)) or int(last or first) < int(first):
            raise InvalidRequest(f"--seeds {text[:80]}: give numbers and ranges, such as 42-51 or 42,45")
        if int(last or first) - int(first) >= 10_000:
            raise InvalidRequest(f"--seeds {text}: between 1 and 10,000 seeds")
        seeds.extend(range(int(first), int(last or first) + 1))
    if not seeds or len(seeds) > 10_000:
        raise InvalidRequest(f"--seeds {text}: between 1 and 10,000 seeds")
    return tuple(seeds)


def summary(
    rows: Iterable[Row], group: str, shown: Sequence[str]
) -> list[tuple[str, str, int, dict[str, tuple[float, float]]]]:
    """By group and policy, in order of appearance: number of rows, mean and standard deviation of each figure."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((str(row[group]), str(row["policy"])), []).append(row)
    summed = []
    for (name, policy), members in found.items():
        figures: dict[str, tuple[float, float]] = {}
        for figure in shown:
            values = [float(row[figure]) for row in members if row.get(figure) is not None]
            if values:
                figures[figure] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        summed.append((name, policy, len(members), figures))
    return summed
