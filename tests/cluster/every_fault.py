"""The long form of test_crash_safety.py, for `make faults`: every write, killed before and after its answer."""

from __future__ import annotations

import pytest
from cluster.crash_safety import CrashSafety
from cluster.laboratory import Laboratory
from cluster.lives import SERVICE_LIFE, TRAINING_LIFE, Life


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("life", [TRAINING_LIFE, SERVICE_LIFE], ids=lambda life: life.name)
def test_every_kill_after_every_write(laboratory: Laboratory, life: Life) -> None:
    safety = CrashSafety(laboratory, life, lanes=6)
    wrong = safety.check(safety.kills(every=True))
    assert not wrong, "\n".join(wrong)
