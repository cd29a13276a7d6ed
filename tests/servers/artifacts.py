"""A real artifact, complete with golden answers, in a second: a small ResNet with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from modelyard_workloads.artifact import (
    Architecture,
    Artifact,
    Description,
    Golden,
    TensorSpec,
    TensorValue,
    TrainingOrigin,
    write_artifact,
)
from modelyard_workloads.models.image_classifier import ImageArchitecture, build_network
from modelyard_workloads.tasks import build_model_from_artifact

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WEIGHTS = "model.safetensors"
ORIGIN = TrainingOrigin(name="digits", uid="u-1", generation=1, step=450)


def lively(network: Any) -> Any:
    """Weights so large that every answer depends on every token."""
    torch.manual_seed(3)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def image_artifact(
    root: Path, *, name: str = "resnet10", channels: int = 1, size: int = 8, golden: bool = True
) -> Artifact:
    """Write an image-classification artifact for `channels` x `size` x `size` below `root`."""
    small = size <= 64
    architecture = ImageArchitecture(
        name=name, channels=channels, classes=len(LABELS), image_size=size, small_input_stem=small
    )
    torch.manual_seed(7)
    network = build_network(architecture)
    for module in network.modules():  # residual branches begin at zero; the answers shall depend on all weights
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    weights = network.state_dict()
    with tempfile.TemporaryDirectory() as scratch:
        first = _write(Path(scratch), architecture, weights, [])
        answers = [_golden(first, channels, size)] if golden else []
    return _write(root, architecture, weights, answers)


def _write(
    root: Path, architecture: ImageArchitecture, weights: dict[str, torch.Tensor], golden: Sequence[Golden]
) -> Artifact:
    config = asdict(architecture)
    name, channels, size = config.pop("name"), architecture.channels, architecture.image_size

    def fill(directory: Path) -> Description:
        safetensors.torch.save_file(weights, directory / WEIGHTS)
        return Description(
            task="image-classification",
            architecture=Architecture(name=name, config=config),
            weights=[WEIGHTS],
            preprocess={"mean": [0.5] * channels, "std": [0.25] * channels, "imageSize": size},
            labels=list(LABELS),
            inputs=[TensorSpec(name="image", datatype="FP32", shape=[-1, channels, size, size])],
            outputs=[TensorSpec(name=n, datatype="FP32", shape=[-1, len(LABELS)]) for n in ("logits", "probabilities")],
            golden=list(golden),
        )

    return write_artifact(root, fill, ORIGIN, "2026-01-01T00:00:00Z")


def _golden(artifact: Artifact, channels: int, size: int) -> Golden:
    images = torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(1))
    answers = build_model_from_artifact(artifact)({"image": images})
    return Golden(
        inputs=[_value("image", images)], outputs=[_value(name, answers[name]) for name in ("logits", "probabilities")]
    )


def _value(name: str, tensor: torch.Tensor) -> TensorValue:
    return TensorValue(name=name, datatype="FP32", shape=list(tensor.shape), data=tensor.tolist())
