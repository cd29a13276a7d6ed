"""Image trainings from the first step to a server: networks of other families, and the moving average of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.tasks import build_task
from modelyard_workloads.tasks.image_classification import build_served_model
from trainings.builtin import configuration
from trainings.inprocess import run
from trainings.pods import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("architecture", "size", "batch"), [("vgg11_bn", 32, 64), ("inception_v3", 96, 16)], ids=["vgg", "inception"]
)
def test_vgg_and_inception_are_trained_and_served(tmp_path: Path, architecture: str, size: int, batch: int) -> None:
    parameters = {"architecture": architecture, "imageSize": size, "batchSize": batch, "maxSteps": 2, "momentum": 0.0}
    ended = run(
        tmp_path,
        {"task": "image-classification", "dataset": {"uri": "example://digits"}, "parameters": parameters},
    )
    assert ended is not None
    artifact = ended.artifacts["final"]
    (golden,) = artifact.manifest.golden
    given = {value.name: torch.tensor(value.data).reshape(value.shape) for value in golden.inputs}
    answers = build_served_model(artifact)(given)
    for wanted in golden.outputs:
        torch.testing.assert_close(answers[wanted.name].flatten(), torch.tensor(wanted.data).flatten())
    names = safetensors.torch.load_file(artifact.weights[0])
    assert not [name for name in names if "aux" in name.lower()], "Inception is trained without its auxiliary head"


def test_the_moving_average_of_the_weights_is_what_is_evaluated_and_published(tmp_path: Path) -> None:
    ranks, decay = Ranks(RankInfo()), 0.5
    parameters: dict[str, Any] = {**SMALL, "emaDecay": decay}
    config = parse(configuration("image-classification", tmp_path, "example://digits", parameters))
    task = build_task(config)
    training = Training(task, config, ranks)
    model = training.prepare(ranks)
    expected = {name: value.clone() for name, value in training.model.state_dict().items()}
    for step in range(1, 6):
        training.step(model, next(training.data))
        share = min(decay, (1 + step) / (10 + step))
        for name, value in training.model.state_dict().items():
            if value.is_floating_point():
                expected[name] = share * expected[name] + (1 - share) * value
    metrics = training.evaluate(ranks)
    (published,) = training.candidates(is_main=True)
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(published.weights[name], value, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(training.best[name], value, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(v, expected[n]) for n, v in training.model.state_dict().items())
    training.model.load_state_dict(published.weights)
    training.average = None
    assert training.evaluate(ranks) == pytest.approx(metrics)
