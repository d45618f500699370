"""The devices of E3 and what they cost: one model at a time, many held, turns by the shipped policy or by a baseline.

A device runs one model at a time: prompts that wait, then steps of decoding for its whole batch. It holds a few models;
another is loaded first. Several devices may run one model at once: then each has a part of its requests. A request is in
time when its first token comes within 10 s; a token, when it comes by 100 ms times its place after the first (earlier is
kept for the reader, as in Aegaeon, SOSP'25). The devices are modelled on an 8B model on an 80 GB device; no run of ours
calibrates them yet.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bastide.policy.pooling import (
    FIRST_EARLIER_S,
    MARGIN_S,
    STAY_LOADS,
    TURN_S,
    Candidate,
    Held,
    comes_to_it_s,
    due_s,
    gives_way,
    load_ahead,
    next_turn,
)
from bastide.sim.evaluate.pooled import Arrival

TTFT_S, TBT_S, IN_TIME = 10.0, 0.1, 0.99
PROMPT_TOKENS_PER_S = 8000.0
STEP_S = 0.025
LOAD_S = 0.68  # measured for Llama-3.1-8B on H100 by ServerlessLLM
HELD = 4  # models of 16 GB that a device of 80 GB holds beside their caches
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
    """What waits for its first token, and what streams and has no turn just now. `holders`: devices that have it in memory;
    `runs`: those that run it at this moment, each with streams of its own."""

    number: int
    waiting: deque[Stream] = field(default_factory=deque)
    active: list[Stream] = field(default_factory=list)
    holders: dict[int, None] = field(default_factory=dict)
    runs: dict[int, None] = field(default_factory=dict)
    prompts: int = 0  # tokens that wait

    def has_work(self) -> bool:
        return bool(self.waiting or self.active)

    def due_s(self, now_s: float, earlier_s: float) -> float:
        first = math.inf
        if self.waiting:
            first = self.waiting[0].at_s + TTFT_S - self.prompts / PROMPT_TOKENS_PER_S
        following = min((stream.first_s + TBT_S * stream.made for stream in self.active), default=math.inf)
        return due_s(first, following, earlier_s) - now_s


@dataclass(slots=True)
class Device:
    """`running`: who had the last turn, which is over at `until_s`; `streams`: of that turn."""

    index: int
    held: list[int] = field(default_factory=list)  # least recently run first
    running: int | None = None
    streams: list[Stream] = field(default_factory=list)
    until_s: float = 0.0
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
        self.devices = [Device(index) for index in range(devices)]
        self.models = [Model(number) for number in range(models)]
        self.score = Score()
        self._held = {"keepalive_autoscale": 1, "static_multiplexing": together}.get(policy, HELD)
        self._load_s = 0.0 if policy in ("oracle_free", "static_multiplexing") else LOAD_S
        self._late_max = self._tokens_late_max = 0.0
        self._now_s = 0.0
        self._dues: dict[int, float] = {}  # of models with work, at this moment

    def run(self, arrivals: Sequence[Arrival]) -> Score:
        """Until every request is answered, or it is plain that too many are late."""
        events: list[tuple[float, int]] = []  # when a device's turn ends
        order = iter(arrivals)
        arrival = next(order, None)
        self._late_max = (1 - IN_TIME) * len(arrivals)
        self._tokens_late_max = (1 - IN_TIME) * sum(answer - 1 for _, _, _, answer in arrivals)
        while arrival is not None or events:
            if arrival is not None and (not events or arrival[0] <= events[0][0]):
                self._now_s, number, prompt, answer = arrival
                model = self.models[number]
                model.waiting.append(Stream(self._now_s, prompt, answer))
                model.prompts += prompt
                arrival = next(order, None)
            else:
                self._now_s, index = heapq.heappop(events)
                number = self._turn_over(self.devices[index])
            idle = self._idle(self.models[number])
            if idle:
                self._dues = {
                    one.number: one.due_s(self._now_s, self._earlier_s) for one in self.models if one.has_work()
                }
            for device in idle:
                chosen = self._choose(device)
                if chosen is not None:
                    self._turn(device, chosen)
                    heapq.heappush(events, (device.until_s, device.index))
            if self._hopeless():
                break
        return self.score

    def _hopeless(self) -> bool:
        """Whether too many are late already."""
        return self.score.first_late > self._late_max or self.score.tokens_late > max(self._tokens_late_max, 1)

    # --- who is next ---------------------------------------------------------------------------------------------------

    def _idle(self, model: Model) -> list[Device]:
        """Idle devices, those first that hold this model, then those that hold the fewest."""
        idle = [device for device in self.devices if device.idle]
        return sorted(idle, key=lambda one: (one.index not in model.holders, len(one.held), one.index))

    def _choose(self, device: Device) -> Model | None:
        able = [self.models[number] for number in self._dues]
        if self.policy == "static_multiplexing":
            able = [model for model in able if model.number // self.together == device.index]
        if self.policy == "keepalive_autoscale":
            return self._kept(device, able)
        self._arrived(device, self._now_s)
        candidates = self._candidates(device, able)
        turn = next_turn(candidates, self._now_s - device.loaded_s, *self._settings)
        return able[turn.index] if turn.index is not None else None

    def _kept(self, device: Device, able: Iterable[Model]) -> Model | None:
        """An instance keeps its device while it has requests. Another of its model takes one when requests would be late."""
        first: Model | None = None
        for model in able:
            if model.number == device.running:
                return model
            others = [one for one in self.devices if one.running == model.number]
            late = (
                bool(model.waiting)
                and self._dues[model.number] < min((one.until_s for one in others), default=math.inf) - self._now_s
            )
            if (
                (not others or late)
                and model.waiting
                and (first is None or model.waiting[0].at_s < first.waiting[0].at_s)
            ):
                first = model
        return first

    def _candidates(self, device: Device, able: Iterable[Model]) -> list[Candidate]:
        found = []
        for model in able:
            number = model.number
            here = device.index in model.holders
            load_s = 0.0 if here else self._load_s
            if number == device.loading:
                load_s = max(0.0, device.ready_s - self._now_s)
            others: Iterable[int] = model.runs if here or not self._load_s else model.holders
            elsewhere_s = min((self._comes_s(self.devices[one], number) for one in others), default=math.inf)
            found.append(Candidate(str(number), self._dues[number], load_s, number == device.running, elsewhere_s))
        return found

    def _comes_s(self, device: Device, number: int) -> float:
        """In how long that device comes to this model; where that is in time at any rate, at most in how long."""
        dues, due_s = self._dues, self._dues[number]
        left_s = max(0.0, device.until_s - self._now_s)
        if device.loading == number:
            left_s = max(left_s, device.ready_s - self._now_s)
        latest_s = left_s + TURN_S * len(device.held)
        if latest_s <= due_s:
            return latest_s
        return comes_to_it_s(left_s, [dues[one] for one in device.held if one in dues and one != number], due_s)

    def _gives_way(self, numbers: Sequence[int]) -> int:
        """Which of these it lets go."""
        held = [Held(str(one), self._dues.get(one, math.inf), len(self.models[one].holders) > 1) for one in numbers]
        turn = gives_way(held)
        assert turn.index is not None
        return numbers[turn.index]

    # --- a turn --------------------------------------------------------------------------------------------------------

    def _turn_over(self, device: Device) -> int:
        """Its streams may go on anywhere. Answers whose turn it was."""
        assert device.running is not None
        model = self.models[device.running]
        model.active.extend(stream for stream in device.streams if stream.made < stream.answer)
        del model.runs[device.index]
        device.streams, device.idle = [], True
        return model.number

    @staticmethod
    def _arrived(device: Device, now_s: float) -> None:
        if device.loading is not None and device.ready_s <= now_s:
            device.held.append(device.loading)
            device.loaded_s, device.loading = device.ready_s, None

    def _hold(self, device: Device, model: Model) -> None:
        model.holders[device.index] = None
        self.score.loads += 1

    def _let_go(self, device: Device, number: int) -> None:
        device.held.remove(number)
        del self.models[number].holders[device.index]

    def _begin_ahead(self, device: Device, running: Model, begins_s: float) -> None:
        """While `running` has its turn, which begins then, the next model comes."""
        if self.policy not in LOADS_AHEAD or device.loading is not None:
            return
        goes, goes_due_s = None, math.inf
        if len(device.held) >= self._held:
            others = [number for number in device.held if number != running.number]
            if not others:
                return
            goes = self._gives_way(others)
            goes_due_s = self._dues.get(goes, math.inf)
        able = [
            self.models[number]
            for number in self._dues
            if number != running.number and device.index not in self.models[number].holders
        ]
        left_s = device.until_s - self._now_s
        held_due_s = [self._dues[number] for number in device.held if number in self._dues]
        turn = load_ahead(self._candidates(device, able), left_s, held_due_s, goes_due_s, self._settings[0])
        if turn.index is None:
            return
        if goes is not None:
            self._let_go(device, goes)
        device.loading, device.ready_s = able[turn.index].number, begins_s + self._load_s
        self._hold(device, able[turn.index])

    def _turn(self, device: Device, model: Model) -> None:
        """Load it if need be, compute prompts that wait, then decode for a while: until `until_s`."""
        now_s = self._now_s
        if device.loading is not None and model.number not in device.held:
            now_s = max(now_s, device.ready_s)  # one after the other: they come over the same lane
        self._arrived(device, now_s)
        if model.number in device.held:
            device.held.remove(model.number)
        else:
            now_s += self._load_s  # and the caches of its streams, through the host's memory: small beside its weights
            device.loaded_s = now_s
            if len(device.held) >= self._held:
                self._let_go(device, self._gives_way(device.held))
            self._hold(device, model)
        device.held.append(model.number)
        device.running, device.idle = model.number, False
        device.streams, model.active = model.active, []
        model.runs[device.index] = None
        begins_s = now_s
        device.until_s = self._decode(device, self._prompts(device, model, now_s))
        if model.waiting:
            self._dues[model.number] = model.due_s(self._now_s, self._earlier_s)
        else:
            del self._dues[model.number]
        self._begin_ahead(device, model, begins_s)

    def _prompts(self, device: Device, model: Model, now_s: float) -> float:
        """Prompts for about as long as a turn, one at least. Returns when they are done."""
        ends_s = now_s + TURN_S
        while model.waiting and now_s < ends_s and self._prompt_first(model.waiting[0], device.streams, now_s):
            stream = model.waiting.popleft()
            model.prompts -= stream.prompt
            now_s += stream.prompt / PROMPT_TOKENS_PER_S
            stream.first_s, stream.made = now_s, 1
            self.score.requests += 1
            self.score.first_late += now_s - stream.at_s > TTFT_S
            if stream.answer > 1:
                device.streams.append(stream)
        return now_s

    @staticmethod
    def _prompt_first(waits: Stream, streams: Iterable[Stream], now_s: float) -> bool:
        """Whether the next prompt is computed before the streams go on: they can spare the time, or it can't wait."""
        takes_s = waits.prompt / PROMPT_TOKENS_PER_S
        spare_s = min((stream.first_s + TBT_S * stream.made for stream in streams), default=math.inf) - now_s
        return takes_s <= spare_s or waits.at_s + TTFT_S - now_s - takes_s < LATE_S

    def _decode(self, device: Device, now_s: float) -> float:
        """Steps for all its streams, for a turn or until the last is done. Returns when that ends."""
        left = max((stream.answer - stream.made for stream in device.streams), default=0)
        steps = min(math.ceil(TURN_S / STEP_S), left)
        for stream in device.streams:
            made = min(steps, stream.answer - stream.made)
            # Token i of this turn comes at now + (i + 1) steps, and is due at first + (made + i) x 100 ms.
            behind_s = now_s + STEP_S - stream.first_s - TBT_S * stream.made
            late = math.ceil(behind_s / (TBT_S - STEP_S) - 1e-9) if behind_s > 0 else 0
            self.score.tokens += made
            self.score.tokens_late += min(made, late)
            stream.made += made
        return now_s + steps * STEP_S
