"""How many servers a load needs: table of loads, pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from modelyard_operator.load import Load, RouterLoad, Sample
from modelyard_operator.service.scaling import decide
from modelyard_operator.service.scaling_spec import Scaling
from simulation import START

NOW = START + timedelta(hours=1)


def spec(**fields: Any) -> Scaling:
    return Scaling.model_validate({"maxReplicas": 10, "target": 10, **fields})


def samples(level: Callable[[float], float], seconds: float = 120, period: float = 2) -> tuple[Sample, ...]:
    """A sample every `period`; `level` gets the seconds before now."""
    ages = [seconds - period * index for index in range(int(seconds / period) + 1)]
    return tuple(Sample(time=NOW - timedelta(seconds=age), concurrency=level(age), rps=level(age)) for age in ages)


def replicas(level: Callable[[float], float], current: int, seconds: float = 120, **fields: Any) -> int:
    return decide(spec(**fields), Load(samples=samples(level, seconds)), current, NOW).replicas


@pytest.mark.parametrize(
    ("load", "current", "expected"),
    [(0, 1, 1), (10, 1, 1), (10.1, 1, 2), (35, 4, 4), (35, 1, 4), (1000, 4, 10), (5, 4, 1), (25, 4, 3)],
)
def test_a_steady_load_gets_its_share_of_servers(load: float, current: int, expected: int) -> None:
    assert replicas(lambda _: load, current) == expected


def test_a_burst_is_answered_before_the_stable_window_has_seen_it() -> None:
    assert replicas(lambda age: 80 if age < 6 else 2, 1) == 8
    # less than twice what there is: the stable window decides
    assert replicas(lambda age: 25 if age < 6 else 15, 2) == 2


def test_nothing_is_taken_away_in_a_burst() -> None:
    assert replicas(lambda age: 100 if age < 6 else 0, 5) == 10


def test_fewer_servers_only_after_fewer_have_sufficed_for_the_delay() -> None:
    fell = 80.0

    def level(age: float) -> float:
        return 30 if age > fell else 5

    assert replicas(level, 3, seconds=300, scaleDownDelaySeconds=10) == 1
    assert replicas(level, 3, seconds=300, scaleDownDelaySeconds=75) == 3


def test_a_fresh_operator_takes_nothing_away_and_gives_at_once() -> None:
    assert decide(spec(), None, 3, NOW).replicas == 3
    assert replicas(lambda _: 0, 3, seconds=10) == 3
    assert replicas(lambda _: 90, 3, seconds=10) == 9


def test_old_figures_decide_nothing() -> None:
    old = Load(samples=samples(lambda _: 0))
    assert decide(spec(), old, 4, NOW + timedelta(seconds=30)).reason == "NoMeasurements"


def test_the_bounds_hold_whatever_the_load() -> None:
    assert decide(spec(minReplicas=2), None, 1, NOW).replicas == 2
    assert decide(spec(maxReplicas=3), None, 7, NOW).replicas == 3
    assert replicas(lambda _: 0, 4, minReplicas=2) == 2


def router(**fields: Any) -> Load:
    return Load(router=RouterLoad(tables=frozenset({"t"}), **fields), samples=samples(lambda _: 0))


@pytest.mark.parametrize(
    ("seen", "current", "expected"),
    [
        (router(idle_seconds=301), 1, 0),
        (router(idle_seconds=299), 1, 1),
        (router(idle_seconds=301, in_flight=1), 1, 1),
        (router(idle_seconds=301, held=1), 1, 1),
        (Load(samples=samples(lambda _: 0)), 1, 1),
        (router(idle_seconds=0), 0, 0),
        (router(held=1), 0, 1),
        (router(held=25), 0, 3),
        (router(held=1000), 0, 10),
        (None, 0, 0),
    ],
)
def test_to_zero_and_back(seen: Load | None, current: int, expected: int) -> None:
    assert decide(spec(minReplicas=0, idleSeconds=300), seen, current, NOW).replicas == expected
