"""E3: many models on few devices. Owns the devices' costs, the baselines and the search for the smallest pool.

A device runs one model at a time: the prompts that wait, then steps of decoding for its whole batch. It holds a few models;
another is loaded first. A request is in time when its first token comes within 10 s; a token, when it comes by 100 ms
times its place after the first (earlier is kept for the reader, as in Aegaeon, SOSP'25). The pool is large enough when 99 %
of requests and 99 % of tokens are in time. What arrives is drawn in `pooled`. The devices are modelled on an 8B model on an
80 GB device; no run of ours calibrates them yet.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bastide.domain.errors import InvalidRequest
from bastide.policy.pooling import (
    FIRST_EARLIER_S,
    MARGIN_S,
    STAY_LOADS,
    Candidate,
    Held,
    due_s,
    gives_way,
    load_ahead,
    next_turn,
)
from bastide.sim.evaluate.pooled import Arrival, draw_arrivals, grid, read_clients

POLICIES = ("dedicated", "keepalive_autoscale", "static_multiplexing", "oracle_free", "oracle_paying", "bastide")
TTFT_S, TBT_S, IN_TIME = 10.0, 0.1, 0.99
PROMPT_TOKENS_PER_S = 8000.0
STEP_S = 0.025
LOAD_S = 0.68  # measured for Llama-3.1-8B on H100 by ServerlessLLM
HELD = 4  # models of 16 GB that a device of 80 GB holds beside their caches
TURN_S = 0.5
LATE_S = 1.0  # a prompt that must begin within this goes before streams that would have to pause for it
LOADS_AHEAD = ("oracle_paying", "bastide")  # copying a model while another computes, as Aegaeon does
Settings = tuple[
    float, float, float
]  # margin, how many loads' time a load must pay for, how much earlier a first token is due
SHIPPED: Settings = (MARGIN_S, STAY_LOADS, FIRST_EARLIER_S)
HINDSIGHT: tuple[Settings, ...] = (SHIPPED, (4.0, 4.0, 0.0), (2.0, 8.0, 0.0), (1.0, 4.0, 0.0), (0.5, 1.0, 0.0))


@dataclass(slots=True)
class Stream:
    """A request: when it came, tokens of its prompt and answer, tokens made, and when the first was."""

    at_s: float
    prompt: int
    answer: int
    made: int = 0
    first_s: float = 0.0


@dataclass(slots=True)
class Model:
    """What waits and what streams. `busy`: a device runs it now; `on`: the last device that did, while it streams."""

    number: int
    waiting: list[Stream] = field(default_factory=list)
    active: list[Stream] = field(default_factory=list)
    on: int | None = None
    busy: bool = False

    def due_s(self, now_s: float, earlier_s: float) -> float:
        first = math.inf
        if self.waiting:
            ahead = sum(stream.prompt for stream in self.waiting) / PROMPT_TOKENS_PER_S
            first = self.waiting[0].at_s + TTFT_S - ahead
        following = min((stream.first_s + TBT_S * stream.made for stream in self.active), default=math.inf)
        return due_s(first, following, earlier_s) - now_s


@dataclass(slots=True)
class Device:
    held: list[int] = field(default_factory=list)  # least recently run first
    running: int | None = None
    loaded_s: float = -math.inf
    idle: bool = True
    loading: int | None = None  # brought here while another runs, there at `ready_s`
    ready_s: float = 0.0


@dataclass(slots=True)
class Score:
    requests: int = 0
    first_late: int = 0
    tokens: int = 0
    tokens_late: int = 0
    loads: int = 0

    def met(self) -> bool:
        return self.first_late <= (1 - IN_TIME) * self.requests and self.tokens_late <= (1 - IN_TIME) * max(
            1, self.tokens
        )


class Pool:
    """One run of one policy with so many devices."""

    def __init__(
        self,
        policy: str,
        devices: int,
        models: int,
        together: int = 1,
        settings: Settings = SHIPPED,
    ) -> None:
        self.policy, self.together = policy, together
        self._settings, self._earlier_s = settings[:2], settings[2]
        self.devices = [Device() for _ in range(devices)]
        self.models = [Model(number) for number in range(models)]
        self._holders = [0] * models
        self.score = Score()
        self._held = {"keepalive_autoscale": 1, "static_multiplexing": together}.get(policy, HELD)
        self._load_s = 0.0 if policy in ("oracle_free", "static_multiplexing") else LOAD_S

    def run(self, arrivals: Sequence[Arrival]) -> Score:
        """Until every request is answered, or it is plain that too many are late."""
        events: list[tuple[float, int, int]] = []  # when, device, the model whose turn ends
        order = iter(arrivals)
        arrival = next(order, None)
        worst = (1 - IN_TIME) * len(arrivals)
        worst_tokens = (1 - IN_TIME) * sum(answer - 1 for _, _, _, answer in arrivals)
        while arrival is not None or events:
            if arrival is not None and (not events or arrival[0] <= events[0][0]):
                now_s, number, prompt, answer = arrival
                self.models[number].waiting.append(Stream(now_s, prompt, answer))
                arrival = next(order, None)
            else:
                now_s, device, number = heapq.heappop(events)
                self.models[number].busy = False
                self.devices[device].idle = True
            for index in self._idle(number):
                chosen = self._choose(index, now_s)
                if chosen is not None:
                    heapq.heappush(events, (self._turn(index, chosen, now_s), index, chosen.number))
            if self.score.first_late > worst or self.score.tokens_late > max(worst_tokens, 1):
                break
        return self.score

    def _gives_way(self, numbers: Sequence[int], now_s: float) -> int:
        """Which of these it lets go."""
        held = [
            Held(str(one), self.models[one].due_s(now_s, self._earlier_s), self._holders[one] > 1) for one in numbers
        ]
        turn = gives_way(held)
        assert turn.index is not None
        return numbers[turn.index]

    def _idle(self, number: int) -> list[int]:
        """Idle devices, those first that hold this model, then those that hold the fewest."""
        idle = [index for index, device in enumerate(self.devices) if device.idle]
        return sorted(
            idle, key=lambda index: (number not in self.devices[index].held, len(self.devices[index].held), index)
        )

    def _choose(self, index: int, now_s: float) -> Model | None:
        device = self.devices[index]
        able = [model for model in self.models if not model.busy and (model.waiting or model.active)]
        if self.policy == "static_multiplexing":
            able = [model for model in able if model.number // self.together == index]
        elif self.policy == "keepalive_autoscale":  # an instance keeps its device while it has requests
            able = [model for model in able if model.on in (None, index)]
        if not able:
            return None
        if self.policy == "keepalive_autoscale":
            stays = [model for model in able if model.number == device.running]
            return stays[0] if stays else min(able, key=lambda model: model.waiting[0].at_s)
        self._arrived(device, now_s)
        turn = next_turn(self._candidates(device, able, now_s), now_s - device.loaded_s, *self._settings)
        return able[turn.index] if turn.index is not None else None

    def _candidates(self, device: Device, able: Sequence[Model], now_s: float) -> list[Candidate]:
        found = []
        for model in able:
            here = model.number in device.held
            load_s = 0.0 if here else self._load_s
            if model.number == device.loading:
                here, load_s = True, max(0.0, device.ready_s - now_s)
            elsewhere = not here and self._holders[model.number] > 0 and self._load_s > 0
            found.append(
                Candidate(
                    str(model.number),
                    model.due_s(now_s, self._earlier_s),
                    load_s,
                    model.number == device.running,
                    elsewhere,
                )
            )
        return found

    @staticmethod
    def _arrived(device: Device, now_s: float) -> None:
        if device.loading is not None and device.ready_s <= now_s:
            device.held.append(device.loading)
            device.loaded_s, device.loading = device.ready_s, None

    def _begin_ahead(self, device: Device, running: Model, now_s: float) -> None:
        """While `running` has its turn, the next model comes."""
        if self.policy not in LOADS_AHEAD or device.loading is not None:
            return
        able = [m for m in self.models if not m.busy and m is not running and (m.waiting or m.active)]
        goes = None
        if len(device.held) >= self._held:
            others = [number for number in device.held if number != running.number]
            if not others:
                return
            goes = self._gives_way(others, now_s)
            if self.models[goes].waiting or self.models[goes].active:
                return
        able = [model for model in able if model.number not in device.held]
        turn = load_ahead(self._candidates(device, able, now_s), self._settings[0])
        if turn.index is None:
            return
        if goes is not None:
            device.held.remove(goes)
            self._holders[goes] -= 1
        device.loading, device.ready_s = able[turn.index].number, now_s + self._load_s
        self._holders[device.loading] += 1
        self.score.loads += 1

    def _turn(self, index: int, model: Model, now_s: float) -> float:
        """Load it if need be, compute the prompts that wait, then decode for a while. Returns when that ends."""
        device, score = self.devices[index], self.score
        if model.number == device.loading:
            now_s = max(now_s, device.ready_s)
        elif device.loading is not None and model.number not in device.held:
            now_s = max(now_s, device.ready_s)  # one after the other: they come over the same lane
        self._arrived(device, now_s)
        if model.number in device.held:
            device.held.remove(model.number)
        else:
            now_s += self._load_s  # and the caches of its streams, through the host's memory: small beside its weights
            device.loaded_s = now_s
            score.loads += 1
            self._holders[model.number] += 1
            if len(device.held) >= self._held:
                goes = self._gives_way(device.held, now_s)
                device.held.remove(goes)
                self._holders[goes] -= 1
        device.held.append(model.number)
        device.running, device.idle, model.busy, model.on = model.number, False, True, index
        self._begin_ahead(device, model, now_s)
        while model.waiting and self._prompt_first(model, now_s):
            stream = model.waiting.pop(0)
            now_s += stream.prompt / PROMPT_TOKENS_PER_S
            stream.first_s, stream.made = now_s, 1
            score.requests += 1
            score.first_late += now_s - stream.at_s > TTFT_S
            if stream.answer > 1:
                model.active.append(stream)
        if model.active:
            steps = min(math.ceil(TURN_S / STEP_S), max(stream.answer - stream.made for stream in model.active))
            for stream in model.active:
                made = min(steps, stream.answer - stream.made)
                # Token i of this turn comes at now + (i + 1) steps, and is due at first + (made + i) x 100 ms.
                behind_s = now_s + STEP_S - stream.first_s - TBT_S * stream.made
                late = math.ceil(behind_s / (TBT_S - STEP_S) - 1e-9) if behind_s > 0 else 0
                score.tokens += made
                score.tokens_late += min(made, late)
                stream.made += made
            now_s += steps * STEP_S
            model.active = [stream for stream in model.active if stream.made < stream.answer]
        if not model.active and not model.waiting:
            model.on = None
        return now_s

    @staticmethod
    def _prompt_first(model: Model, now_s: float) -> bool:
        """Whether the next prompt is computed before the streams go on: they can spare the time, or it can't wait."""
        takes_s = model.waiting[0].prompt / PROMPT_TOKENS_PER_S
        spare_s = min((stream.first_s + TBT_S * stream.made for stream in model.active), default=math.inf) - now_s
        return takes_s <= spare_s or model.waiting[0].at_s + TTFT_S - now_s - takes_s < LATE_S


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
    low, high = 0, models
    best = Pool(policy, high, models, settings=tried[0]).run(arrivals)
    while high - low > 1:
        middle = (low + high) // 2
        for settings in tried:
            score = Pool(policy, middle, models, settings=settings).run(arrivals)
            if score.met():
                break
        if score.met():
            high, best = middle, score
        else:
            low = middle
    return high, best


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
