"""What the simulator of one node adds for measuring: a processor that is shared, and other rules than the shipped ones."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastide.domain.errors import InvalidRequest
from bastide.domain.lifecycle import Rung
from bastide.domain.spec import SleepSettings
from bastide.policy.room import Fits, GiveWay, Resident, WaitForRoom
from bastide.sim.baselines import rules_by
from bastide.sim.cores import Cores
from bastide.sim.loop import VirtualClock, run

MIB = 2**20


def took(cores: Cores, works: list[tuple[float, float, str]]) -> list[float]:
    """(work in seconds, cores it can use, group), all begun at once: when each was done."""

    async def main(clock: VirtualClock) -> list[float]:
        loop = asyncio.get_running_loop()

        async def one(work: tuple[float, float, str]) -> float:
            await cores.spend(*work)
            return round(loop.time(), 4)

        return list(await asyncio.gather(*(one(work) for work in works)))

    found: list[float] = run(main)
    return found


@pytest.mark.parametrize(
    ("works", "expected"),
    [
        ([(1.0, 2.0, "")], [1.0]),
        ([(1.0, 1.0, ""), (1.0, 1.0, "")], [1.0, 1.0]),  # two cores
        ([(1.0, 2.0, ""), (1.0, 2.0, "")], [2.0, 2.0]),
        ([(1.0, 2.0, ""), (1.0, 1.0, "")], [1.5, 1.0]),  # what one can't use is for the other
        ([(0.0, 1.0, "")], [0.0]),
    ],
)
def test_shares_are_fair(works: list[tuple[float, float, str]], expected: list[float]) -> None:
    assert took(Cores(2), works) == expected


def test_a_batch_gets_on_faster_together() -> None:
    assert took(Cores(2, gain=1.5), [(1.0, 2.0, "a"), (1.0, 2.0, "a")]) == [pytest.approx(2 / 1.5, abs=1e-3)] * 2
    assert took(Cores(2, gain=1.5), [(1.0, 2.0, "a"), (1.0, 2.0, "b")]) == [2.0, 2.0], "two engines are no batch"


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0.01, 5), st.sampled_from([1.0, 2.0]), st.sampled_from(["", "a"])), max_size=8))
def test_no_work_is_lost_or_done_twice(works: list[tuple[float, float, str]]) -> None:
    ends = took(Cores(2), works)
    needed_s = sum(seconds * wants for seconds, wants, _ in works) / 2
    assert all(end >= round(work[0], 4) - 1e-3 for end, work in zip(ends, works, strict=True))
    assert max(ends, default=0.0) <= sum(work[0] for work in works) + 1e-3
    assert max(ends, default=0.0) >= needed_s - 1e-3


def resident(name: str, idle_s: float, in_flight: int = 0, resident_s: float = 100.0) -> Resident:
    return Resident(name, name, 100 * MIB, 100 * MIB, in_flight, idle_s, resident_s, 0.2, 0.1)


ALL = (resident("a", 3.0), resident("b", 50.0), resident("c", 0.0, 1))


def test_first_come_takes_the_place_of_the_one_used_longest_ago() -> None:
    rules = rules_by("first_come")
    assert rules.make_room(300 * MIB, 0, ALL, 0, 0.0) == Fits()
    given = rules.make_room(300 * MIB, 100 * MIB, ALL, 0, 0.0)
    assert isinstance(given, GiveWay) and given.victims == ("b",) and not given.drain
    busy = tuple(resident(name, 0.0, 1, age) for name, age in (("a", 5.0), ("b", 9.0), ("c", 7.0)))
    drained = rules.make_room(300 * MIB, 100 * MIB, busy, 0, 0.0)
    assert isinstance(drained, GiveWay) and drained.victims == drained.drain == ("b",)
    assert rules.steps(SleepSettings(), {}, frozenset(Rung), None) == ()


def test_keep_alive_alone_lets_nobody_in_before_a_timer_is_over() -> None:
    rules = rules_by("keep_alive:60")
    waiting = rules.make_room(300 * MIB, 100 * MIB, ALL, 0, 0.0)
    assert isinstance(waiting, WaitForRoom) and waiting.look_again_s == 10.0
    (step,) = rules.steps(SleepSettings(), {}, frozenset(Rung), None)
    assert (step.rung, step.at_idle_s) == (Rung.DEEP, 60.0)
    turns = [rules.turn(0.0, None) for _ in range(3)]
    assert turns == sorted(set(turns)), "as they came"


@pytest.mark.parametrize("word", ["nonsense", "keep_alive", "keep_alive:x", "shipped:1"])
def test_rules_that_there_are_not(word: str) -> None:
    with pytest.raises(InvalidRequest, match="there are shipped"):
        rules_by(word)
