"""One round of each fault on the real kubelet: right rank, right pod, right cause."""

from __future__ import annotations

import pytest
from cluster.faults.causes import FAULTS, Fault
from cluster.faults.promise import Bench, play_round
from cluster.laboratory import Laboratory


@pytest.mark.side_by_side(seconds=60, busy=True)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.name))
def test_a_failure_is_told_by_its_cause(laboratory: Laboratory, fault: Fault) -> None:
    broken = play_round(fault.promise(), Bench(laboratory.api, laboratory.namespace), number=1)
    assert not broken, "\n".join(broken)
