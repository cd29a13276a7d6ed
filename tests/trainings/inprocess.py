"""A whole training in this process on one rank: seconds instead of a pod."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard_workloads import config as configuration
from modelyard_workloads.artifact import Artifact, read_artifact
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.exits import Stopped
from modelyard_workloads.loop import train
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.randomness import make_deterministic
from modelyard_workloads.tasks import build_task


@dataclass
class Ended:
    """A training that ended: the result, and its artifacts by name."""

    result: dict[str, Any]
    artifacts: dict[str, Artifact]

    def metric(self, name: str) -> float:
        """A metric of the end."""
        return float(self.result["metrics"][name])


def run(output: Path, raw: dict[str, Any], stop: Callable[[], bool] = lambda: False) -> Ended | None:
    """Train as MODELYARD_CONFIG says, silently; None when it was stopped."""
    make_deterministic()
    config = configuration.parse({"output": {"path": str(output)}, "checkpoint": {"everySeconds": None}, **raw})
    try:
        result = train(build_task(config), config, Ranks(RankInfo()), Reporter(rank=1), stop)
    except Stopped:
        return None
    artifacts = {
        entry["name"]: read_artifact(output / "artifacts" / entry["uri"].rsplit("/", 1)[1], entry["digest"])
        for entry in result["artifacts"]
    }
    return Ended(result, artifacts)


def run_in_pieces(output: Path, raw: dict[str, Any], steps: int) -> Ended:
    """Train the same, stopped after every few steps and resumed by another attempt."""
    for attempt in range(1, 1000):
        calls = 0

        def stop() -> bool:
            nonlocal calls
            calls += 1
            return calls >= steps

        ended = run(output, {**raw, "attempt": attempt}, stop)
        if ended is not None:
            return ended
    raise AssertionError("it never ends")
