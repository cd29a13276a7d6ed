"""The loop with a task of milliseconds, in real gloo groups: it knows no model, and a resumed run is the run never
stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from trainings.pods import ROOT, free_port


def group(scenario: str, directory: Path, size: int) -> dict[str, Any]:
    """Run a scenario of trainings.toy on `size` ranks; what rank 0 said."""
    base = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'workloads'}:{ROOT / 'tests'}",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "trainings.toy", scenario, str(directory)]
    processes = [
        subprocess.Popen(command, env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE)
        for rank in range(size)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * size
    said: dict[str, Any] = json.loads(outputs[0])
    return said


def test_a_run_stopped_every_three_steps_ends_with_the_very_bits_of_the_run_never_stopped_on_three_ranks(
    tmp_path: Path,
) -> None:
    said = group("resume", tmp_path, 3)
    # 104 points in batches of 12: 8 steps an epoch, so that most stops are in the middle of one.
    assert said["stops"] == [f"stopped at {step}" for step in range(3, 24, 3)]
    assert said["resumed"] == said["whole"]


def test_one_rank_with_a_batch_of_8_learns_what_two_ranks_with_4_each_learn(tmp_path: Path) -> None:
    results = []
    for size in (1, 2):
        group("batch", tmp_path / str(size), size)
        (weights,) = (tmp_path / str(size)).rglob("artifacts/*/model.safetensors")
        results.append(safetensors.torch.load_file(weights))
    alone, together = results
    assert alone.keys() == together.keys()
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=1e-6)
