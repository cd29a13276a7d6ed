"""A training that is disturbed three times, by chance, and loses nothing."""

from __future__ import annotations

from functools import partial

import pytest
from cluster.faults.preemption import play
from cluster.faults.promise import Bench, Promise, play_round
from cluster.laboratory import Laboratory


@pytest.mark.side_by_side(seconds=100, busy=True)
def test_what_is_preempted_goes_on_where_it_was(laboratory: Laboratory) -> None:
    promise = Promise("preemption", partial(play, 3))
    broken = play_round(promise, Bench(laboratory.api, laboratory.namespace), number=1)
    assert not broken, "\n".join(broken)
