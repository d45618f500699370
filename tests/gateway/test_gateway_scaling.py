"""Targets of apps: what is seen becomes a number of instances; times are told, not awaited."""

from __future__ import annotations

from bastide.domain.apps import Target
from bastide.gateway.scaling import MANY, Scaling


def look(scaling: Scaling, now_s: float, in_flight: int = 1, awake: int = 1, cpu: tuple[float, ...] = (0.0,)) -> int:
    return scaling.look(now_s, in_flight, 0, awake, 0, cpu, 8)


def test_requests_a_second_of_all_workers_count() -> None:
    for workers, copies in ((1, 2), (2, 4)):
        scaling = Scaling(Target(rps=10.0), 100, workers)
        for number in range(200):
            scaling.arrived(100.0 + number * 0.05)
        assert look(scaling, 110.0) == copies and scaling.reason == "requests a second"


def test_a_burst_of_a_moment_is_counted_over_a_second() -> None:
    scaling = Scaling(Target(rps=10.0), 100, 1)
    for _ in range(10):
        scaling.arrived(100.0)
    assert look(scaling, 100.001) == 1


def test_slow_answers_ask_for_more_only_where_many_are_in_flight() -> None:
    scaling = Scaling(Target(p95_s=0.1), 100, 1)
    for _ in range(MANY):
        scaling.answered(0.5, 100.0)
    assert look(scaling, 100.0, in_flight=1) == 1, "one slow request is no faster on two"
    assert look(scaling, 101.0, in_flight=5) == 2 and scaling.reason == "first tokens come late"
    assert look(scaling, 500.0, in_flight=5) >= 1


def test_a_few_slow_ones_among_twenty_say_nothing() -> None:
    scaling = Scaling(Target(p95_s=0.1), 100, 1)
    for _ in range(MANY - 1):
        scaling.answered(0.5, 100.0)
    assert look(scaling, 100.0, in_flight=9) == 1


def test_processor_use_adds_up() -> None:
    scaling = Scaling(Target(cpu=0.5), 100, 1)
    assert look(scaling, 100.0, awake=2, cpu=(0.9, 0.4)) == 3 and scaling.reason == "processor use"


def test_it_goes_down_slowly() -> None:
    scaling = Scaling(Target(cpu=0.5), 100, 1)
    assert look(scaling, 100.0, cpu=(1.0,)) == 2
    assert look(scaling, 130.0, awake=2, cpu=(0.1, 0.1)) == 2
    assert look(scaling, 900.0, awake=2, cpu=(0.1, 0.1)) == 1
