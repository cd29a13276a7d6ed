"""What a status says of the time of a training, checked against the clock."""

from __future__ import annotations

from datetime import datetime

import pytest
from cluster.kubernetes_api import Object


def accounted(obj: Object, suspended: float = 0.0) -> Object:
    """Every second has one cause: they sum to the time from creation to completion, less `suspended` seconds. Returns
    the goodput."""
    told: Object = obj["status"]["goodput"]
    causes = sum(v for k, v in told.items() if k.endswith("Seconds") and k != "elapsedSeconds")
    began, ended = obj["metadata"]["creationTimestamp"], obj["status"]["completionTime"]
    lived = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds() - suspended
    assert causes == pytest.approx(told["elapsedSeconds"], rel=0.01), told
    assert told["elapsedSeconds"] == pytest.approx(lived, rel=0.01, abs=1), told
    assert told["restartSeconds"] > 0 and 0 <= told["ratio"] < 1, told
    return told
