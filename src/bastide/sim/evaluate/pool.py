"""A pool of devices that share many models: who runs next by the shipped policy or by a baseline, and what comes of it.

A device runs one model at a time: prompts that wait, then steps of decoding for a batch. It holds a few models; another is
loaded first. Several devices may run one model at once: then each has a part of its requests. The caches of a batch must fit beside
the weights; a cache that lies elsewhere is moved first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

from bastide.policy.pooling import (
    FIRST_EARLIER_S,
    MARGIN_S,
    STAY_LOADS,
    TURN_S,
    Candidate,
    Held,
    batch_order_s,
    comes_to_it_s,
    gives_way,
    load_ahead,
    meanwhile,
    next_turn,
    worth_a_move,
    worth_the_place,
)
from bastide.sim.evaluate.pooldevices import (
    HELD,
    IN_TIME,
    LOAD_S,
    MOVES_TOKENS_PER_S,
    PROMPT_TOKENS_PER_S,
    STEP_S,
    STEPS,
    STEPS_MOST,
    TBT_S,
    TTFT_S,
    WEIGHTS_TOKENS,
    Device,
    Model,
    Score,
    Stream,
    decodes,
    prompt_first,
)
from bastide.sim.evaluate.pooled import Arrival

LOADS_AHEAD = ("oracle_paying", "bastide")  # copying a model while another computes, as Aegaeon does
# Margin, how many loads' time a load must pay for, how much earlier a first token is due.
Settings = tuple[float, float, float]
SHIPPED: Settings = (MARGIN_S, STAY_LOADS, FIRST_EARLIER_S)
HINDSIGHT: tuple[Settings, ...] = (SHIPPED, (4.0, 4.0, 0.0), (2.0, 8.0, 0.0), (1.0, 4.0, 0.0), (0.5, 1.0, 0.0))


class Pool:
    """One run of one policy with so many devices. `owners`: by model the device that it never leaves, where it has one."""

    def __init__(
        self,
        policy: str,
        devices: int,
        models: int,
        owners: Mapping[int, int] | None = None,
        settings: Settings = SHIPPED,
    ) -> None:
        self.policy, self.owners = policy, owners
        self._settings, self._earlier_s = settings[:2], settings[2]
        self.devices = [Device(index) for index in range(devices)]
        self.models = [Model(number) for number in range(models)]
        self.score = Score()
        self._held = 1 if policy == "keepalive_autoscale" else HELD
        self._load_s = 0.0 if policy == "oracle_free" or owners is not None else LOAD_S
        self._late_max = self._tokens_late_max = 0.0
        self._now_s = 0.0
        self._dues: dict[int, float] = {}  # of models with work, at this moment
        for number, index in (owners or {}).items():
            self._hold(self.devices[index], self.models[number])
            self.devices[index].held.append(number)

    def run(self, arrivals: Sequence[Arrival]) -> Score:
        """Until every request is answered, or it is plain that too many are late."""
        events: list[tuple[float, int]] = []  # when a device's turn ends
        order = iter(arrivals)
        arrival = next(order, None)
        self.score.asked = len(arrivals)
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
        if self.owners is not None:
            able = [model for model in able if self.owners[model.number] == device.index]
        if self.policy == "keepalive_autoscale":
            return self._kept(device, able)
        self._arrived(device, self._now_s)
        candidates = self._candidates(device, able)
        turn = next_turn(candidates, self._now_s - device.loaded_s, *self._settings)
        if turn.index is None:
            return None
        chosen = able[turn.index]
        if candidates[turn.index].load_s == 0 or self.policy not in LOADS_AHEAD:
            return chosen
        turn = meanwhile(candidates, turn.index, device.loading == chosen.number, *self._settings)
        assert turn.index is not None
        runs = able[turn.index]
        if runs is not chosen and device.loading is None:
            device.expected_s = self._now_s + TURN_S
            self._begin_ahead(device, runs)
        return runs if device.loading is not None else chosen

    def _kept(self, device: Device, able: Iterable[Model]) -> Model | None:
        """An instance keeps its device while it has requests. Another of its model takes one when requests would be late."""
        first: Model | None = None
        for model in able:
            if model.number == device.running:
                return model
            others = [one for one in self.devices if one.running == model.number]
            late = (
                model.prompts > 0
                and self._dues[model.number] < min((one.expected_s for one in others), default=math.inf) - self._now_s
            )
            if (not others or late) and model.prompts and (first is None or model.came_s() < first.came_s()):
                first = model
        return first

    def _candidates(self, device: Device, able: Iterable[Model]) -> list[Candidate]:
        """How each of them stands towards this device, in their order."""
        found = []
        spare = not self._load_s or self._has_place(device) or any(one not in self._dues for one in device.held)
        for model in able:
            number, due_s = model.number, self._dues[model.number]
            here = device.index in model.holders
            load_s = 0.0 if here else self._load_s
            if number == device.loading:
                load_s = max(0.0, device.ready_s - self._now_s)
            others: Iterable[int] = model.runs if here or not self._load_s else model.holders
            elsewhere_s = min((self._comes_s(self.devices[one], number) for one in others), default=math.inf)
            running = number == device.running
            found.append(Candidate(str(number), due_s, load_s, running, elsewhere_s, not spare and not here))
        return found

    def _has_place(self, device: Device) -> bool:
        """Whether one more model fits beside those it holds and all caches that lie there."""
        if device.places() >= self._held:
            return False
        resting = sum(self.models[one].cached(device.index) for one in device.caches)
        return resting + device.needs() <= device.room(device.places() + 1)

    def _comes_s(self, device: Device, number: int) -> float:
        """In how long that device comes to this model; where that is in time at any rate, at most in how long."""
        dues, due_s = self._dues, self._dues[number]
        left_s = max(0.0, device.expected_s - self._now_s)
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

    def _hold(self, device: Device, model: Model) -> None:
        model.holders[device.index] = None
        self.score.loads += 1

    def _let_go(self, device: Device, number: int) -> None:
        device.held.remove(number)
        del self.models[number].holders[device.index]

    def _turn(self, device: Device, model: Model) -> None:
        """Load it if need be, bring caches, compute prompts that wait, then decode for a while: until `until_s`."""
        now_s = self._now_s
        if device.loading is not None and model.number not in device.held:
            now_s = max(now_s, device.ready_s)  # one after the other: they come over the same lane
        self._arrived(device, now_s)
        if model.number in device.held:
            device.held.remove(model.number)
        else:
            now_s = max(now_s, device.moved_s) + self._load_s
            device.loaded_s = now_s
            if device.places() >= self._held:
                self._let_go(device, self._gives_way(device.held))
            self._hold(device, model)
        device.held.append(model.number)
        device.running, device.idle = model.number, False
        model.runs[device.index] = None
        self._batch(device, model, now_s)
        prompts_s = self._prompts(device, model, now_s)
        device.until_s = self._decode(device, prompts_s)
        device.expected_s = prompts_s + (TURN_S if device.streams else 0.0)
        if model.has_work():
            self._dues[model.number] = model.due_s(self._now_s, self._earlier_s)
        else:
            del self._dues[model.number]
        self._begin_ahead(device, model)
        self._move_out(device)

    def _turn_over(self, device: Device) -> int:
        """Its streams may go on anywhere. Answers whose turn it was."""
        assert device.running is not None
        model = self.models[device.running]
        model.active.extend(stream for stream in device.streams if stream.made < stream.answer)
        if device.prompt is not None:
            model.put_back(device.prompt)
        del model.runs[device.index]
        device.streams, device.prompt, device.idle = [], None, True
        return model.number

    @staticmethod
    def _arrived(device: Device, now_s: float) -> None:
        if device.loading is not None and device.ready_s <= now_s:
            device.held.append(device.loading)
            device.loaded_s, device.loading = device.ready_s, None

    # --- what fits -----------------------------------------------------------------------------------------------------

    def _fits(self, device: Device, tokens: int, due_s: float) -> bool:
        """Whether a cache of so many tokens, due then, fits beside the models: those that must run later go for it; where this
        turn has nothing else, any."""
        while tokens > device.room(device.places()):
            others = [number for number in device.held if number != device.running]
            if self.owners is not None or not others:
                return False
            goes = self._gives_way(others)
            if device.streams and not worth_the_place(due_s, self._dues.get(goes, math.inf)):
                return False
            self._let_go(device, goes)
        return True

    def _batch(self, device: Device, model: Model, now_s: float) -> None:
        """Which streams have this turn: those due first, as many as fit. Caches that lie elsewhere begin to come."""
        rest: list[Stream] = []
        used = 0
        full = False
        for stream in sorted(model.active, key=lambda one: batch_order_s(one.next_s(), one.elsewhere(device.index))):
            due_s = stream.next_s() - self._now_s
            held_there = stream.elsewhere(device.index) and stream.home in model.holders
            if held_there and not worth_a_move(due_s) and (device.streams or model.prompts):
                rest.append(stream)
                continue
            tokens = stream.tokens + STEPS_MOST
            full = full or not self._fits(device, used + tokens, due_s)
            if full and device.streams:
                rest.append(stream)
                continue
            used += tokens
            self._bring(device, stream, now_s)
            device.streams.append(stream)
        model.active = rest
        device.caches.pop(model.number, None)
        device.caches[model.number] = None

    def _bring(self, device: Device, stream: Stream, now_s: float) -> None:
        """Its cache comes to this device, after those that came before it."""
        if stream.home != device.index and stream.tokens and self._load_s:
            self.score.moved_tokens += stream.tokens
            takes_s = stream.tokens / MOVES_TOKENS_PER_S
            stream.there_s = device.moved_s = max(now_s, device.moved_s) + takes_s
            if device.loading is not None:
                device.ready_s += takes_s  # they share the lane
        stream.home = device.index

    def _move_out(self, device: Device) -> None:
        """What doesn't fit beside this turn goes: models without work, then caches whose model runs last; the host has a copy."""
        left = device.room(device.places()) - device.needs()
        cached = {number: self.models[number].cached(device.index) for number in device.caches}
        while left < sum(cached.values()) and self.owners is None:
            others = [number for number in device.held if number != device.running and number not in self._dues]
            if not others:
                break
            self._let_go(device, self._gives_way(others))
            left += WEIGHTS_TOKENS
        for number in sorted(cached, key=lambda one: self._dues.get(one, math.inf)):
            left -= cached[number]
            if left < 0:
                for stream in (*self.models[number].active, *self.models[number].begun):
                    if stream.home == device.index:
                        stream.home = None
                        stream.there_s = 0.0
                if number != device.running:
                    del device.caches[number]

    def _begin_ahead(self, device: Device, running: Model) -> None:
        """While `running` has its turn, the next model comes, after its caches."""
        if self.policy not in LOADS_AHEAD or device.loading is not None:
            return
        goes, goes_due_s = None, math.inf
        if not self._has_place(device):
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
        left_s = device.expected_s - self._now_s
        held_due_s = [self._dues[number] for number in device.held if number in self._dues]
        turn = load_ahead(self._candidates(device, able), left_s, held_due_s, goes_due_s, self._settings[0])
        if turn.index is None:
            return
        if goes is not None:
            self._let_go(device, goes)
        device.loading = able[turn.index].number
        device.ready_s = max(self._now_s, device.loaded_s, device.moved_s) + self._load_s
        self._hold(device, able[turn.index])

    # --- what is computed ----------------------------------------------------------------------------------------------

    def _prompts(self, device: Device, model: Model, now_s: float) -> float:
        """Prompts for a turn, the last in part: it goes on in a later one. Returns when they are done."""
        ends_s, used = now_s + TURN_S, device.needs()
        while now_s < ends_s and (stream := model.prompt(device.index)) is not None:
            tokens = min(stream.left, math.ceil((ends_s - now_s) * PROMPT_TOKENS_PER_S))
            if not prompt_first(stream, tokens, device.streams, now_s):
                break
            used += stream.computed + tokens + STEPS_MOST
            if not self._fits(device, used, stream.begin_s() - self._now_s) and device.streams:
                break
            model.take(stream)
            self._bring(device, stream, now_s)
            now_s = max(now_s, stream.there_s) + tokens / PROMPT_TOKENS_PER_S
            stream.computed += tokens
            if stream.left:
                device.prompt = stream
                break
            stream.first_s, stream.made = now_s, 1
            self.score.requests += 1
            self.score.first_late += now_s - stream.at_s > TTFT_S
            if stream.answer > 1:
                device.streams.append(stream)
        return now_s

    def _decode(self, device: Device, now_s: float) -> float:
        """Steps for all its streams: whoever's cache is still on its way joins when it is there, and then all go on for a turn.
        Returns when that ends."""
        if not device.streams or not decodes(device.prompt, device.streams, now_s):
            return now_s
        begins_s = max(now_s, min(stream.there_s for stream in device.streams))
        turn_ends_s = max(now_s, max(stream.there_s for stream in device.streams)) + STEPS * STEP_S
        ends_s = begins_s
        for stream in device.streams:
            joins_s = max(begins_s, stream.there_s)
            steps = math.floor((turn_ends_s - joins_s) / STEP_S + 1e-9)
            made = min(steps, STEPS_MOST, stream.answer - stream.made)
            # Token i of this turn comes after i + 1 steps, and is due at first + (made + i) x 100 ms.
            behind_s = joins_s + STEP_S - stream.next_s()
            late = math.ceil(behind_s / (TBT_S - STEP_S) - 1e-9) if behind_s > 0 else 0
            self.score.tokens += made
            self.score.tokens_late += min(made, late)
            stream.made += made
            ends_s = max(ends_s, joins_s + made * STEP_S)
        return ends_s
