"""E5 in small: a part of the fleet for a part of the day, and what makes no sense."""

from __future__ import annotations

import pytest
from traces import DATA, needs

from bastide.domain.errors import InvalidRequest
from bastide.sim.evaluate.keeping import TRACE
from bastide.sim.evaluate.openb import NODES, WORKLOADS
from bastide.sim.evaluate.scaling import rows, world_of
from bastide.sim.fleet.world import World


@needs(NODES, WORKLOADS, f"{TRACE}.parquet")
def test_a_part_of_it() -> None:
    (row,) = rows(DATA, ("0.05x600",), (), (42,), 1800.0)
    assert row["devices"] > 800 and row["services"] == 600 and row["full_plan_starts"] >= 590
    assert row["full_check_refused"] == row["refused_actions"] == 0
    assert row["full_plan_s"] < 1.0 and row["answered_share"] > 0.9


@needs(NODES, WORKLOADS, f"{TRACE}.parquet")
def test_nothing_is_broken_on_the_way() -> None:
    from dataclasses import replace

    world = World(replace(world_of(DATA, 0.02, 200, 7, 1200.0), check_every_s=60.0))
    world.run()
    assert world.checkers.looks == 20 and world.checkers.broken == []


def test_bad_scales() -> None:
    for scale in ("2x100", "0.5", "0.5x0", "x"):
        with pytest.raises(InvalidRequest, match="there is no scale"):
            next(rows(DATA, (scale,), (), (42,)))
    with pytest.raises(InvalidRequest, match="there is no policy"):
        next(rows(DATA, (), ("other",), (42,)))
