"""The operator is killed after each single write of a life: the end is the undisturbed one, nothing is twice."""

from __future__ import annotations

import pytest
from cluster.crash_safety import CrashSafety
from cluster.laboratory import Laboratory
from cluster.lives import SERVICE_LIFE, TRAINING_LIFE, Life

LANES = {TRAINING_LIFE.name: 4, SERVICE_LIFE.name: 2}


@pytest.mark.side_by_side(seconds=90, busy=True)
@pytest.mark.parametrize("life", [TRAINING_LIFE, SERVICE_LIFE], ids=lambda life: life.name)
def test_a_kill_after_any_write_changes_nothing_in_the_end(laboratory: Laboratory, life: Life) -> None:
    """Each write once, in turns before and after its answer; `every_fault.py` has both for each."""
    safety = CrashSafety(laboratory, life, LANES[life.name])
    assert safety.writes >= 8, "the life is too short to show anything"
    wrong = safety.check(safety.kills(every=False))
    assert not wrong, "\n".join(wrong)
