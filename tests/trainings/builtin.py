"""Trainings of builtin trainers, one after the other: in this process, or on some ranks of one gloo group.

`python -m trainings.builtin RUNS` as one rank; RUNS is a JSON list of [configuration, steps until a stop or 0].
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.exits import Stopped
from modelyard_workloads.loop import train
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.randomness import make_deterministic
from modelyard_workloads.tasks import build_task
from torch import Tensor

from trainings.ranks import run_ranks
from trainings.toy import after

Run = tuple[dict[str, Any], int]


def configuration(
    task: str, output: Path, dataset: str, parameters: dict[str, Any], *, model: str = "", attempt: int = 1
) -> dict[str, Any]:
    """MODELYARD_CONFIG; no checkpoints but at stops."""
    return {
        "task": task,
        "parameters": parameters,
        "dataset": {"uri": dataset},
        "model": {"uri": model},
        "output": {"path": str(output), "uri": "pvc://output"},
        "attempt": attempt,
        "checkpoint": {"everySeconds": None},
    }


def run(config: dict[str, Any], stop: int = 0, ranks: Ranks | None = None) -> dict[str, Any]:
    """Train; the result, or {"stopped": step} when a stop was asked for during the step number `stop` of this run."""
    if ranks is None:
        make_deterministic()
        ranks = Ranks(RankInfo())
    parsed = parse(config)
    try:
        return train(build_task(parsed), parsed, ranks, Reporter(rank=1), after(stop) if stop else lambda: False)
    except Stopped as stopped:
        return {"stopped": stopped.step}


def run_on_ranks(size: int, runs: Sequence[Run], apart: Path) -> list[dict[str, Any]]:
    """What rank 0 got of each run. Every rank has a working directory and a cache of its own below `apart`, and sees
    what the others write to relative paths no more than a pod on another node does.
    """
    each = []
    for rank in range(size):
        directory = apart / str(rank)
        directory.mkdir(parents=True, exist_ok=True)
        each.append({"PWD": str(directory), "XDG_CACHE_HOME": str(directory / "cache")})
    printed = run_ranks("trainings.builtin", [json.dumps(list(runs))], size, apart, each=each)
    results: list[dict[str, Any]] = json.loads(printed)
    return results


def artifact(result: dict[str, Any], config: dict[str, Any], name: str = "final") -> Path:
    """The directory of a published artifact."""
    entry = next(a for a in result["artifacts"] if a["name"] == name)
    return Path(config["output"]["path"]) / "artifacts" / str(entry["uri"]).rsplit("/", 1)[1]


def weights(result: dict[str, Any], config: dict[str, Any], name: str = "final") -> dict[str, Tensor]:
    """The weights of a published artifact."""
    return safetensors.torch.load_file(artifact(result, config, name) / "model.safetensors")


if __name__ == "__main__":
    make_deterministic()
    _ranks = Ranks(RankInfo.from_environment(os.environ))
    _ranks.start()
    _results = [run(config, stop, _ranks) for config, stop in json.loads(sys.argv[1])]
    if _ranks.is_main:
        sys.stdout.write(json.dumps(_results))
    _ranks.stop()
