"""A node that is gone is left in time, and so is one that merely falls silent."""

from __future__ import annotations

import pytest
from cluster.faults.lost_node import LOST_NODE, SILENT_KUBELET
from cluster.faults.promise import Bench, Promise, play_round
from cluster.laboratory import Laboratory


@pytest.mark.side_by_side(seconds=120, busy=True)
@pytest.mark.parametrize("promise", [SILENT_KUBELET, LOST_NODE], ids=lambda promise: str(promise.name))
def test_a_lost_node_is_left_in_time(laboratory: Laboratory, promise: Promise) -> None:
    broken = play_round(promise, Bench(laboratory.api, laboratory.namespace), number=1)
    assert not broken, "\n".join(broken)
