"""Standstills of real ranks in real pods, one of each kind; and slow work that is none."""

from __future__ import annotations

from functools import partial

import pytest
from cluster.faults.promise import Bench, Promise, play_round
from cluster.faults.stalls import NO_FALSE_ALARM, play
from cluster.laboratory import Laboratory
from cluster.reporting import operator_that_listens

ALL = Promise("stalls", partial(play, ("stopped", "collective", "loader")))
"""One training that hangs in each way, one after the other."""


@pytest.mark.parametrize(
    "promise",
    [
        pytest.param(ALL, marks=pytest.mark.side_by_side(seconds=200, busy=True), id="stalls"),
        pytest.param(NO_FALSE_ALARM, marks=pytest.mark.side_by_side(seconds=300), id="no false alarm"),
    ],
)
def test_a_standstill_is_found_and_slow_work_is_none(laboratory: Laboratory, promise: Promise) -> None:
    namespace, _ = operator_that_listens(laboratory, promise.name.replace(" ", "-"))
    broken = play_round(promise, Bench(laboratory.api, namespace), number=1)
    assert not broken, "\n".join(broken)
