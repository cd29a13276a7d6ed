"""The learning rate: pure, so a table says it all."""

from __future__ import annotations

from typing import Literal

import pytest
from modelyard_workloads.schedule import Schedule


def schedule(shape: Literal["cosine", "linear", "constant", "wsd"], warmup: int = 10) -> Schedule:
    """Peak 1 over 110 steps."""
    return Schedule(peak=1.0, total_steps=110, warmup_steps=warmup, shape=shape)


@pytest.mark.parametrize(
    ("shape", "step", "rate"),
    [
        ("cosine", 0, 0.1),
        ("cosine", 9, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 60, 0.5),
        ("cosine", 110, 0.0),
        ("cosine", 500, 0.0),
        ("linear", 60, 0.5),
        ("linear", 85, 0.25),
        ("constant", 4, 0.5),
        ("constant", 109, 1.0),
        ("wsd", 4, 0.5),
        ("wsd", 89, 1.0),
        ("wsd", 100, 0.5),
        ("wsd", 110, 0.0),
    ],
)
def test_the_rate_warms_up_and_falls_as_its_shape_says(
    shape: Literal["cosine", "linear", "constant", "wsd"], step: int, rate: float
) -> None:
    assert schedule(shape).learning_rate(step) == pytest.approx(rate)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert schedule("cosine", warmup=0).learning_rate(0) == 1.0
    assert schedule("cosine", warmup=0).phase(0) == "train"


def test_a_schedule_that_is_all_warm_up_does_not_divide_by_zero() -> None:
    everything = Schedule(peak=1.0, total_steps=5, warmup_steps=5, shape="cosine")
    assert [everything.learning_rate(step) for step in (0, 4, 5)] == [0.2, 1.0, 1.0]
    assert everything.phase(4) == "warmup"
