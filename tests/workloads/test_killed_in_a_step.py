"""SIGKILL between two parts of a batch: the gradients of the first ones are lost, and nothing shows of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings.builtin import configuration, run, weights
from trainings.language import TINY, documents
from trainings.pods import ROOT, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

KILLED_AT, SAVED_EVERY, PARTS = 5, 2, 4


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("image-classification", {**SMALL, "maxSteps": 6, "emaDecay": 0.9}),
        ("causal-lm", {**TINY, "dropout": 0.1}),
    ],
)
def test_a_run_killed_within_an_accumulation_ends_with_the_bits_of_one_never_killed(
    tmp_path: Path, task: str, parameters: dict[str, Any]
) -> None:
    dataset = "example://digits" if task == "image-classification" else documents(tmp_path / "data")
    parameters = {**parameters, "accumulationSteps": PARTS}
    whole = configuration(task, tmp_path / "whole", dataset, parameters)
    killed = configuration(task, tmp_path / "killed", dataset, parameters)
    killed["checkpoint"] = {"everySteps": SAVED_EVERY, "everySeconds": None}
    command = [sys.executable, "-m", "trainings.killed", json.dumps(killed), str(KILLED_AT), str(PARTS - 1)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'workloads'}:{ROOT / 'tests'}"}
    # The number of threads decides how sums are rounded.
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    saved = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert saved, "nothing to go on from"
    resumed = {**killed, "attempt": 2}
    found, expected = weights(run(resumed), resumed), weights(run(whole), whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
