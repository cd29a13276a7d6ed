"""Hugging Face's own Trainer in an image of one's own moves PROGRESS, by its own callback and nothing of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.operator_process import ROOT
from cluster.reporting import operator_that_listens

IMAGE = "localhost/modelyard/test-huggingface:dev"
CONTEXT = Path(__file__).parent / "huggingface"


def build_image() -> None:
    """Build it into the cluster; from the cache where nothing has changed."""
    command = [sys.executable, "-m", "localcluster", "image", str(CONTEXT), "Dockerfile", IMAGE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    subprocess.run(command, check=True, env=environment, timeout=600, cwd=ROOT, capture_output=True)


def training() -> Object:
    resources = {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "250m"}}
    spec: Object = {
        "trainer": {"image": IMAGE, "resourcesPerNode": resources},
        "output": {"size": "1Mi", "retentionPolicy": "Delete"},
        "failurePolicy": {"maxRestarts": 0},
        "runPolicy": {"terminationGracePeriodSeconds": 1},
    }
    meta = {"name": "huggingface"}
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": meta, "spec": spec}


@pytest.mark.timeout(900)
@pytest.mark.side_by_side(seconds=60, busy=True)
def test_an_unmodified_trainer_moves_progress(laboratory: Laboratory) -> None:
    build_image()
    namespace, _ = operator_that_listens(laboratory, "huggingface")
    played = Played.create(laboratory.api, namespace, training())

    def shown(more_than: int) -> int | None:
        percentage = (played.status.get("progress") or {}).get("percentage", 0)
        return percentage if more_than < percentage < 100 else None

    first = eventually("it shows progress", lambda: shown(0), 300, played.told)
    eventually("the progress moves", lambda: shown(first), 120, played.told)
    status = played.status
    assert float(status["progress"]["metrics"]["loss"]) > 0
    assert status["display"]["progress"] == f"{status['progress']['percentage']}%"
    assert status["display"]["loss"] == status["progress"]["metrics"]["loss"]
    assert status["phase"] == "Running" and status["display"]["eta"]
    played.delete()
