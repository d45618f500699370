"""What a fleet's world is made of: locations, nodes, services with their ways to run, policies, faults. Owns no behaviour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bastide.policy.fleet import NodeShape, Request
from bastide.policy.keepalive import WORTH_S

# When a request (or an even stream of `weight` of them over `span_s`) comes, and how long its prompt and answer are.
Arrival = tuple[float, float, float, int, int]


@dataclass(frozen=True, slots=True)
class Location:
    """A site. Prices are in one currency; `power_w`: what its devices may draw together beyond their idle draw.

    `source_bytes_per_s`: weights from where they are published, over one link for the whole location;
    `neighbour_bytes_per_s`: from another node here, to each node.
    """

    name: str
    jurisdiction: str = ""
    price_per_gpu_hour: float = 0.0
    price_per_kwh: float = 0.0
    carbon_g_per_kwh: float = 0.0
    power_w: int | None = None
    source_bytes_per_s: float = 125e6
    neighbour_bytes_per_s: float = 1.25e9


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Of a model of device: watts of one, at full load and idle; bytes it holds; its price beside others (0: by size)."""

    power_w: float
    idle_power_w: float
    memory_bytes: int
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class Way:
    """How one copy of a service may run. `slots`: requests it takes at once; `step_s[n]`: a decoding step with n of them.

    `light_s` (None: that rung doesn't hold), `cached_s`: to wake from host memory, from the node's disk; of that `load_s` is
    loading, which those who start on a node share. `kv_tokens`: room for so many tokens of context.
    """

    request: Request
    prefill_tokens_per_s: float
    step_s: tuple[float, ...]
    slots: int
    cached_s: float
    light_s: float | None = None
    sleep_s: float = 0.2
    load_s: float = 0.0
    kv_tokens: float = math.inf


@dataclass(frozen=True, slots=True)
class Service:
    """A service and its requests, in the order they come. `borders`: locations it may be in; empty: any."""

    name: str
    weights: str
    weights_bytes: int
    ways: tuple[Way, ...]
    arrivals: Callable[[], Iterator[Arrival]]
    least: int = 0
    most: int = 1
    borders: frozenset[str] = frozenset()
    first_token_s: float = 10.0
    queue_max: int = 256
    wait_s_max: float = 120.0


class KeepAlive(StrEnum):
    LEARNED = "learned"
    FIXED = "fixed"
    ALWAYS = "always"


class Placing(StrEnum):
    BASTIDE = "bastide"
    FGD = "fgd"
    BEST_FIT = "best_fit"
    GPU_PACKING = "gpu_packing"


@dataclass(frozen=True, slots=True)
class Policies:
    """Which policies decide, with their settings. The defaults are what ships.

    `worth_s`: seconds of idle warm time that a cold start is worth; `light`: whether the rung in host memory is used;
    `predict`: whether autoscaling looks at the forecast; `soonest`: routing to the copy that answers first, of those that are
    wanted (else the first with room); `give_way`: whether idle copies make room for who waits.
    """

    name: str = "bastide"
    placing: Placing = Placing.BASTIDE
    keep_alive: KeepAlive = KeepAlive.LEARNED
    worth_s: float = WORTH_S
    fixed_s: float = 600.0
    light: bool = True
    predict: bool = True
    sharing: bool = True
    give_way: bool = True
    soonest: bool = True
    starts_per_minute: int = 6000


PRESETS: dict[str, Policies] = {
    "bastide": Policies(),
    "always-on": Policies("always-on", keep_alive=KeepAlive.ALWAYS, predict=False),
    "keepalive-10m": Policies("keepalive-10m", keep_alive=KeepAlive.FIXED, light=False, predict=False),
    "whole-gpu": Policies("whole-gpu", sharing=False),
    "best-fit": Policies("best-fit", placing=Placing.BEST_FIT),
    "fgd": Policies("fgd", placing=Placing.FGD),
}


class Trouble(StrEnum):
    """What may break."""

    NODE_LOST = "node_lost"
    LOCATION_CUT = "location_cut"
    START_SLOW = "start_slow"
    START_HANGS = "start_hangs"
    OOM = "out_of_memory"
    STALE = "stale_inventory"
    HINT_LOST = "hint_lost"
    HINT_DOUBLED = "hint_doubled"
    STORE_TIMEOUT = "store_timeout"
    CLOCK_JUMP = "clock_jump"
    DISK_FULL = "disk_full"
    HERD = "herd"
    STATE_TORN = "state_torn"


# These are of the whole fleet; all others strike nodes.
EVERYWHERE = frozenset(
    {
        Trouble.HINT_LOST,
        Trouble.HINT_DOUBLED,
        Trouble.STORE_TIMEOUT,
        Trouble.CLOCK_JUMP,
        Trouble.HERD,
        Trouble.STATE_TORN,
    }
)
# Over as soon as they begin.
AT_ONCE = frozenset({Trouble.CLOCK_JUMP, Trouble.HERD})


@dataclass(frozen=True, slots=True)
class Fault:
    """Something breaks at a moment, for a while. `where`: a node, location or service by name; empty: by chance."""

    kind: Trouble
    at_s: float
    lasts_s: float
    where: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """A whole world. `tick_s`: how often autoscaling looks at active services; `react_s`: from a hint to the next plan."""

    locations: tuple[Location, ...]
    shapes: tuple[NodeShape, ...]
    services: tuple[Service, ...]
    device_facts: Mapping[str, DeviceFacts]
    duration_s: float
    seed: int = 1
    policies: Policies = field(default_factory=Policies)
    faults: tuple[Fault, ...] = ()
    tick_s: float = 15.0
    react_s: float = 0.02
    samples: int = 240
    disk_bytes: int = 2 * 10**12
    settle_s: float = 0.0  # after the last arrival time goes on so long
    inventory_s: float = 30.0
    prefetched: bool = True  # weights are at every location when time begins
    graded: bool = True  # rhythms in short stretches; else in minutes, for traces by the minute
    check_every_s: float = 0.0  # 0: the checkers don't look
