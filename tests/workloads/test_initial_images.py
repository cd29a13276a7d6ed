"""image-classification that begins with weights: another training's, those of timm, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from modelyard_workloads.exits import DataError
from trainings.inprocess import Ended, run

ARCHITECTURE = "resnet18"


def training(model: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    small = {"imageSize": 8, "smallInputStem": True, "batchSize": 16, "maxSteps": 1, "learningRate": 1e-9}
    return {
        "task": "image-classification",
        "dataset": {"uri": "example://digits"},
        "model": model or {},
        "parameters": {"architecture": "resnet10", "weightDecay": 0, **small, **parameters},
    }


def weights(ended: Ended | None, name: str) -> torch.Tensor:
    """One tensor of the final weights."""
    assert ended is not None
    (file,) = ended.artifacts["final"].weights
    return safetensors.torch.load_file(file)[name]


def test_it_begins_with_the_weights_of_another_training_and_refuses_any_but_those(tmp_path: Path) -> None:
    first = run(tmp_path / "1", training(seed=1))
    assert first is not None
    artifact = first.artifacts["final"]
    model = {"uri": artifact.path.as_uri(), "digest": artifact.digest}
    second = run(tmp_path / "2", training(model, seed=2))
    name = "layer1.0.conv1.weight"
    torch.testing.assert_close(weights(second, name), weights(first, name), rtol=0, atol=1e-6)
    with pytest.raises(DataError, match=r"model.uri: .* expected sha256:0000"):
        run(tmp_path / "3", training({**model, "digest": f"sha256:{'0' * 64}"}))


def test_it_begins_with_weights_as_timm_saves_them_whatever_their_classes(tmp_path: Path) -> None:
    network = timm.create_model(ARCHITECTURE, num_classes=1000, in_chans=1)
    (tmp_path / "timm").mkdir()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "timm" / "model.safetensors")
    model = {"uri": (tmp_path / "timm").as_uri()}
    ended = run(tmp_path / "1", training(model, architecture=ARCHITECTURE, smallInputStem=False, imageSize=32))
    name = "layer4.1.conv2.weight"
    torch.testing.assert_close(weights(ended, name), network.state_dict()[name], rtol=0, atol=1e-6)
    assert weights(ended, "fc.weight").shape == (10, 512)


def test_weights_that_are_none_or_of_another_network_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "readme.txt").write_text("nothing")
    model = {"uri": directory.as_uri()}
    with pytest.raises(DataError, match=r"has neither modelyard.json nor a file that ends with .safetensors"):
        run(tmp_path / "1", training(model))
    safetensors.torch.save_file({"a": torch.zeros(2)}, directory / "model.safetensors")
    with pytest.raises(DataError, match=r"do not fit this network; \d+ tensors differ, first conv1.weight"):
        run(tmp_path / "1", training(model))
