"""The main job as a user does it: the chart, both samples at once, a served model, predictions, metrics."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from cluster.laboratory import Laboratory
from cluster.operator_process import ROOT

BEST_POSSIBLE_ACCURACY, REQUIRED_ACCURACY = 100.0, 98.5


def demo(command: str, seconds: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "COLUMNS": "120"}
    run = [sys.executable, "-m", "demo", command]
    return subprocess.run(run, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=seconds, check=False)


def removed(laboratory: Laboratory) -> None:
    """Nothing of it is left. The definitions are the laboratory's: the demo uses them and leaves them."""
    told = demo("down", 240)
    assert told.returncode == 0, told.stdout
    assert not laboratory.api.find("ModelTraining", "modelyard-demo", "digits")


@pytest.mark.timeout(1200)
def test_the_samples_lead_to_right_predictions(laboratory: Laboratory) -> None:
    try:
        told = demo("up", 700)
        assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-2000:]
        found = re.search(r"accuracy +(\d+\.\d+)%", told.stdout[told.stdout.index("Ask it") :])
        assert found, told.stdout[-4000:]
        assert REQUIRED_ACCURACY <= float(found[1]) <= BEST_POSSIBLE_ACCURACY
        for series in ("modelyard_leader", "modelyard_training_loss", "modelyard_inference_seconds"):
            assert series in told.stdout
        digest = laboratory.api.get("ModelService", "modelyard-demo", "digits")["status"]["model"]["digest"]
        artifacts = laboratory.api.get("ModelTraining", "modelyard-demo", "digits")["status"]["artifacts"]
        assert digest in {artifact["digest"] for artifact in artifacts}
    finally:
        removed(laboratory)
