"""What the devices of E3 are: an 8B model's costs on an 80 GB device, what waits, what streams, and where caches lie.

A request is in time when its first token comes within 10 s; a token, when it comes by 100 ms times its place after the first
(earlier is kept for the reader, as in Aegaeon, SOSP'25). Nothing here was measured by us: times are published ones, sizes those of
Llama-3.1-8B with 16 bits.

Every cache is copied to the host's memory as it is made (at most 8,000 tokens a second, over a lane that carries 180,000 each way), so
it leaves a device at once. To come takes time.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bastide.policy.pooling import TURN_S, batch_order_s, due_s

TTFT_S, TBT_S, IN_TIME = 10.0, 0.1, 0.99
PROMPT_TOKENS_PER_S = 8000.0
STEP_S = 0.025
STEPS = math.ceil(TURN_S / STEP_S)  # of a turn
STEPS_MOST = 4 * STEPS  # of streams whose caches are there, while those of others come
LOAD_S = 0.68  # measured for Llama-3.1-8B on H100 by ServerlessLLM
HELD = 4  # models at most, beside caches
# All in tokens of cache (128 KiB each): nine tenths of the device, the weights of a model, and what the lane brings in a second.
MEMORY_TOKENS = 0.9 * 80e9 / 2**17
WEIGHTS_TOKENS = 16e9 / 2**17
MOVES_TOKENS_PER_S = WEIGHTS_TOKENS / LOAD_S
LATE_S = 3.0  # a prompt that must begin within this goes before streams that would have to pause for it


@dataclass(slots=True)
class Stream:
    """A request: when it came, tokens of its prompt and answer, those computed and made, and when the first was. `home`: the device where its
    cache lies, None: a host's memory; it is on its way there until `there_s`."""

    at_s: float
    prompt: int
    answer: int
    computed: int = 0
    made: int = 0
    first_s: float = 0.0
    home: int | None = None
    there_s: float = 0.0

    @property
    def tokens(self) -> int:
        """What its cache holds."""
        return self.computed + self.made

    @property
    def left(self) -> int:
        """Tokens of its prompt still to be computed."""
        return self.prompt - self.computed

    def elsewhere(self, device: int) -> bool:
        """Whether its cache lies on another device."""
        return self.home not in (None, device)

    def begin_s(self) -> float:
        """When what is left of its prompt must be begun, for its first token to come in time."""
        return self.at_s + TTFT_S - self.left / PROMPT_TOKENS_PER_S

    def next_s(self) -> float:
        """When its next token is due."""
        return self.first_s + TBT_S * self.made


def dry_s(streams: Iterable[Stream]) -> float:
    """When the first of them runs dry; never, where there is none."""
    return min((stream.next_s() for stream in streams), default=math.inf)


@dataclass(slots=True)
class Model:
    """What waits for its first token, and what streams and has no turn just now. `holders`: devices that have it in memory;
    `runs`: those that run it at this moment, each with streams of its own."""

    number: int
    waiting: deque[Stream] = field(default_factory=deque)
    begun: list[Stream] = field(default_factory=list)  # prompts computed in part, the earliest first
    active: list[Stream] = field(default_factory=list)
    holders: dict[int, None] = field(default_factory=dict)
    runs: dict[int, None] = field(default_factory=dict)
    prompts: int = 0  # tokens that wait

    def has_work(self) -> bool:
        return bool(self.waiting or self.begun or self.active)

    def came_s(self) -> float:
        """When the first whose prompt waits came."""
        return min(one[0].at_s for one in (self.begun, self.waiting) if one)

    def prompt(self, device: int) -> Stream | None:
        """Whose prompt that device computes next: who came first, those begun elsewhere a little later."""
        found = min(self.begun, key=lambda one: batch_order_s(one.at_s, one.elsewhere(device)), default=None)
        return self.waiting[0] if self.waiting and (found is None or self.waiting[0].at_s < found.at_s) else found

    def take(self, stream: Stream) -> None:
        """That prompt is computed now."""
        self.prompts -= stream.left
        if self.waiting and self.waiting[0] is stream:
            self.waiting.popleft()
        else:
            self.begun.remove(stream)

    def put_back(self, stream: Stream) -> None:
        """A piece of that prompt was computed."""
        self.prompts += stream.left
        insort(self.begun, stream, key=lambda one: one.at_s)

    def due_s(self, now_s: float, earlier_s: float) -> float:
        """In how long it must run; infinite without work."""
        first = math.inf
        if self.prompts:
            beside = 1 - STEP_S / TBT_S if self.active or self.runs else 1.0  # streams need the rest of the time
            first = self.came_s() + TTFT_S - self.prompts / (beside * PROMPT_TOKENS_PER_S)
        return due_s(first, dry_s(self.active), earlier_s) - now_s

    def cached(self, device: int) -> int:
        """Tokens of its resting streams whose caches lie there."""
        return sum(one.tokens for rest in (self.active, self.begun) for one in rest if one.home == device)


@dataclass(slots=True)
class Device:
    """`running`: who had the last turn, which is over at `until_s` (others take it for `expected_s`); `streams`: of that turn;
    `caches`: models that left caches here, the least recently run first."""

    index: int
    held: list[int] = field(default_factory=list)  # least recently run first
    running: int | None = None
    streams: list[Stream] = field(default_factory=list)
    prompt: Stream | None = None  # of this turn, computed in part
    caches: dict[int, None] = field(default_factory=dict)
    until_s: float = 0.0
    expected_s: float = 0.0
    loaded_s: float = -math.inf
    moved_s: float = -math.inf  # until when caches come
    idle: bool = True
    loading: int | None = None  # brought here while another runs, there at `ready_s`
    ready_s: float = 0.0

    def room(self, places: int) -> float:
        """Tokens of cache that fit beside so many models."""
        return MEMORY_TOKENS - places * WEIGHTS_TOKENS

    def places(self) -> int:
        """Models that it holds, or that are on their way."""
        return len(self.held) + (self.loading is not None)

    def used(self) -> int:
        """Tokens of the caches of this turn."""
        return sum(stream.tokens for stream in self.streams) + (self.prompt.tokens if self.prompt is not None else 0)

    def needs(self) -> int:
        """What they hold when the turn is over, at most."""
        return self.used() + STEPS_MOST * len(self.streams)


@dataclass(slots=True)
class Score:
    """What came of the requests. `asked`: how many there were."""

    asked: int = 0
    requests: int = 0
    first_late: int = 0
    tokens: int = 0
    tokens_late: int = 0
    loads: int = 0
    moved_tokens: int = 0  # of caches, from one device to another or from a host's memory

    def met(self) -> bool:
        """Whether all were answered, and 99 % of first tokens and of the others came in time."""
        late, tokens_late = (1 - IN_TIME) * self.requests, (1 - IN_TIME) * max(1, self.tokens)
        return self.requests == self.asked and self.first_late <= late and self.tokens_late <= tokens_late


def prompt_first(waits: Stream, tokens: int, streams: Iterable[Stream], now_s: float) -> bool:
    """Whether so many tokens of a prompt are computed before the streams go on: they can spare the time, or it can't wait."""
    return tokens / PROMPT_TOKENS_PER_S <= dry_s(streams) - now_s or waits.begin_s() - now_s < LATE_S


def decodes(begun: Stream | None, streams: Iterable[Stream], now_s: float) -> bool:
    """Whether streams go on now: not while they can wait for another piece of a prompt."""
    return begun is None or dry_s(streams) - now_s < TURN_S
