"""image-classification: what each pixel contributed to the logit of the label, against the average colour."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.models.image_classifier import ImageClassifier
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort, integrate
from modelyard_workloads.serve.tensors import Array
from modelyard_workloads.tasks.image_classification import load_classifier

_NUMBERS_AT_ONCE = 300_000  # two pictures of 224 x 224, whose activations are some hundred times as many


class ImageExplainer:
    """Explains a network; the baseline is a picture of nothing but the training's average colour."""

    def __init__(self, network: ImageClassifier, labels: list[str]) -> None:
        self._network = network.eval().requires_grad_(False)
        self._labels = labels

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """{image: FP32 [B, C, H, W]} -> attributions (C, H, W)"""
        image = torch.tensor(arrays["image"][row : row + 1])
        with torch.no_grad():
            best = int(self._network(image).argmax())

        def score(images: Tensor) -> Tensor:
            logits: Tensor = self._network(images)
            return logits[:, best]

        baseline = self._network.mean.expand_as(image).contiguous()
        together = max(1, _NUMBERS_AT_ONCE // image.numel())
        found = integrate(score, (image,), (baseline,), effort, together=min(together, effort.steps))
        return Explanation(
            target=self._labels[best] if self._labels else str(best),
            output=found.output,
            baseline=found.baseline,
            delta=found.delta,
            steps=found.steps,
            attributions=found.attributions[0].contiguous().numpy(),
        )


def build(artifact: Artifact) -> ImageExplainer:
    """Raises ArtifactInvalid."""
    return ImageExplainer(load_classifier(artifact), artifact.manifest.labels)
