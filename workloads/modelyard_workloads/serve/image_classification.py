"""image-classification: pictures in, logits, probabilities and the label's name out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.pictures import PictureDecoder
from modelyard_workloads.serve.runtimes import Decoder
from modelyard_workloads.serve.tensors import Array, TensorSpec
from modelyard_workloads.tasks import build_model_from_artifact

_SLACK = 1e-3  # of the pixel range: rounding in the client, half precision


class ImageClassification:
    """Serves what the training exported, plus `label`, BYTES [-1]: the name of the most probable class."""

    task = "image-classification"

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self._model = build_model_from_artifact(artifact)
        self.labels: Sequence[str] = manifest.labels
        self.inputs = [TensorSpec(spec.name, spec.datatype, tuple(spec.shape)) for spec in manifest.inputs]
        self.outputs = [TensorSpec(spec.name, spec.datatype, tuple(spec.shape)) for spec in manifest.outputs]
        if self.labels:
            self.outputs.append(TensorSpec("label", "BYTES", (-1,)))
        self.decoders: Mapping[str, Decoder] = {"image": PictureDecoder(self.inputs[0].shape)}
        self._names = np.array([label.encode() for label in self.labels], dtype=object)

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Pixels are 0 to 1; the classic mistake is to send bytes, which a network answers with nonsense."""
        for name, array in arrays.items():
            low, high = float(array.min()), float(array.max())
            if low < -_SLACK or high > 1 + _SLACK:
                raise InvalidInput(
                    f"input '{name}': pixels must be between 0 and 1 (a byte divided by 255),"
                    f" got values from {low:g} to {high:g}"
                )

    def predict(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """{image: FP32 [B, C, H, W]} -> {logits, probabilities: FP32 [B, K], label: BYTES [B]}"""
        with torch.inference_mode():
            outputs = self._model({name: torch.from_numpy(array) for name, array in arrays.items()})
        answers: dict[str, Array] = {name: tensor.numpy() for name, tensor in outputs.items()}
        if self.labels:
            answers["label"] = self._names[answers["probabilities"].argmax(axis=1)]
        return answers
