"""E3 in small: pools shrink in the order they should, a seed replays, and what makes no sense is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import DATA, needs

from bastide.domain.errors import InvalidRequest
from bastide.policy.pooling import TURN_S
from bastide.sim.evaluate.pool import Pool
from bastide.sim.evaluate.pooldevices import LOAD_S, MEMORY_TOKENS, MOVES_TOKENS_PER_S, STEPS, Device, Model
from bastide.sim.evaluate.pooled import GRID, LENGTHS, RATE_MAX, RATES, Clients, draw_arrivals, grid, read_clients
from bastide.sim.evaluate.pooling import needed, rows


@needs(LENGTHS)
def test_twenty_models() -> None:
    models, arrivals = draw_arrivals("poisson_20x0.1", read_clients(DATA), 42)
    pools = {
        policy: needed(policy, models, arrivals)
        for policy in ("dedicated", "keepalive_autoscale", "oracle_free", "bastide")
    }
    assert all(score.met() and score.requests == len(arrivals) for _, score in pools.values())
    assert pools["bastide"][1].tokens == sum(answer - 1 for *_, answer in arrivals)
    size = {policy: pool for policy, (pool, _) in pools.items()}
    assert size["dedicated"] == 20 > size["keepalive_autoscale"] > size["bastide"]
    assert size["bastide"] <= max(1.15 * size["oracle_free"], size["oracle_free"] + 1)
    assert needed("bastide", models, arrivals)[1] == pools["bastide"][1], "a seed replays"


def test_one_request_is_what_it_costs() -> None:
    score = Pool("bastide", 1, 1).run([(0.0, 0, 8000, 101)])
    assert (score.requests, score.tokens, score.first_late, score.tokens_late, score.loads) == (1, 100, 0, 0, 1)


def test_what_comes_too_late_is_counted() -> None:
    score = Pool("bastide", 1, 1).run([(0.0, 0, 8000 * 11, 101)])
    assert score.first_late == 1 and not score.met()


def test_bad_traces_are_refused(tmp_path: Path) -> None:
    for trace in (
        "poisson_0x1",
        "poisson_5x0",
        "poisson_5xnan",
        "servegen_0",
        "servegen_x",
        "servegen_4x3",
        "poisson_٣x0.1",
        "other",
    ):
        with pytest.raises(InvalidRequest, match="there is no trace"):
            draw_arrivals(trace, Clients((), (), dict), 1)
    assert grid(tmp_path) == list(GRID), "no rates, no clients with their own"
    columns = ", ".join(
        f"{value} as p{share}"
        for share, value in zip(
            (5, 25, 50, 75, 90, 95, 99), ("1.0", "'nan'::double", "3", "4", "5", "6", "7"), strict=True
        )
    )
    select = f"select 'language' as category, 'm' as model, 1 as client, 'input_tokens' as field, {columns}"
    duckdb.connect().execute(f"copy ({select}) to '{tmp_path / LENGTHS}' (format parquet)")
    with pytest.raises(InvalidRequest, match="input_tokens of client 1 of m has no proper quantiles"):
        read_clients(tmp_path)
    with pytest.raises(InvalidRequest, match="3,000,000,000 requests are too many"):
        draw_arrivals("poisson_10000x1000", Clients((), (), dict), 1)
    with pytest.raises(InvalidRequest, match="there is no policy"):
        list(rows(tmp_path, (), ("other",), (1,)))


@needs(LENGTHS, RATES)
def test_clients_with_rates_of_their_own() -> None:
    clients = read_clients(DATA)
    models, arrivals = draw_arrivals("servegen_40", clients, 42)
    assert models == 40 and arrivals == sorted(arrivals)
    asked = Counter(number for _, number, _, _ in arrivals)
    assert max(asked.values()) > 5 * min(asked.values()), "some are asked far more often than others"
    assert len(arrivals) < models * RATE_MAX * 300
    assert grid(DATA)[-1] == "servegen_80"
    with pytest.raises(InvalidRequest, match="only 215 ask at most"):
        draw_arrivals("servegen_10000", clients, 42)


@needs(LENGTHS)
@pytest.mark.parametrize(
    ("trace", "devices"), [("poisson_80x0.1", 14), ("poisson_40x0.5", 14), ("servegen_40", 9), ("poisson_20x0.5", 8)]
)
def test_pools_that_were_once_too_small(trace: str, devices: int) -> None:
    models, arrivals = draw_arrivals(trace, read_clients(DATA), 42)
    assert Pool("bastide", devices, models).run(arrivals).met()


@given(
    st.sampled_from(("keepalive_autoscale", "oracle_free", "oracle_paying", "bastide")),
    st.integers(1, 3),
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 6), st.integers(1, 60_000), st.integers(1, 300)),
        min_size=1,
        max_size=40,
    ),
)
@settings(deadline=None, max_examples=60)
def test_every_token_is_made_once_and_places_are_kept(
    policy: str, devices: int, arrivals: list[tuple[float, int, int, int]]
) -> None:
    pool = Watched(policy, devices, 7)
    score = pool.run(sorted(arrivals))
    assert score.requests == len(arrivals)
    assert score.tokens == sum(answer - 1 for *_, answer in arrivals)
    assert all(device.idle and not device.streams for device in pool.devices)


class Watched(Pool):
    """A pool that goes on however late it is, and looks at its places, lanes and memory at every turn."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.lane_s = [0.0] * len(self.devices)  # until when each is taken by loads
        self.blocks = False

    def _hopeless(self) -> bool:
        return False

    def _begin_ahead(self, device: Device, running: Model) -> None:
        loads = self.score.loads
        super()._begin_ahead(device, running)
        if self.score.loads > loads:
            self._loaded(device, device.ready_s)

    def _batch(self, device: Device, model: Model, now_s: float) -> None:
        if self.blocks:
            self._loaded(device, device.loaded_s)
        super()._batch(device, model, now_s)

    def _loaded(self, device: Device, there_s: float) -> None:
        assert there_s >= max(self._now_s, self.lane_s[device.index]) + self._load_s - 1e-6, "one after the other"
        self.lane_s[device.index] = there_s

    def _turn(self, device: Device, model: Model) -> None:
        assert device.idle and device.until_s <= self._now_s + 1e-6
        self.blocks = model.number not in device.held and device.loading != model.number
        super()._turn(device, model)
        assert device.until_s > self._now_s, "a turn in which nothing is done would never end"
        lane_s = 2 * LOAD_S + 2 * MEMORY_TOKENS / MOVES_TOKENS_PER_S
        assert device.until_s <= self._now_s + 2 * TURN_S + lane_s, "however long a prompt is, others have their turn"
        caches = device.used() + sum(m.cached(device.index) for m in self.models)
        assert caches <= device.room(device.places()) + STEPS
        for one in self.devices:
            there = {*one.held, *([] if one.loading is None else [one.loading])}
            assert len(there) <= self._held
            assert there == {m.number for m in self.models if one.index in m.holders}
        for m in self.models:
            assert m.prompts == sum(stream.left for stream in (*m.waiting, *m.begun))
            assert all(stream.computed == 0 for stream in m.waiting)
            assert set(m.runs) == {one.index for one in self.devices if not one.idle and one.running == m.number}


def test_a_burst_for_one_model_is_answered_by_several_devices() -> None:
    burst = [(0.0, 0, 16_000, 20)] * 9  # 18 s of prompts
    alone, together = Pool("bastide", 1, 1).run(burst), Pool("bastide", 3, 1).run(burst)
    assert alone.first_late and not together.first_late
    assert together.loads <= 3


@pytest.mark.parametrize("number", [0, 1], ids=["same model", "another"])
def test_a_long_prompt_is_computed_in_pieces_and_stops_nobody(number: int) -> None:
    score = Pool("bastide", 1, 2).run([(0.0, 0, 1_000, 200), (1.0, number, 48_000, 2)])  # 6 s of prompt
    assert (score.first_late, score.tokens_late) == (0, 0)
