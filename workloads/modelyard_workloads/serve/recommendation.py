"""recommendation: one input for each column, the probability of a click out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.data.features import LONGEST, Features
from modelyard_workloads.serve.errors import InvalidInput, LoadFailure
from modelyard_workloads.serve.tensors import Array, TensorSpec
from modelyard_workloads.tasks import build_model_from_artifact


class Recommendation:
    """Serves what the training exported: columns are encoded here, exactly as they were for the training."""

    task = "recommendation"
    labels: Sequence[str] = ()

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        try:
            self._features = Features.from_json(manifest.preprocess["features"])
        except (KeyError, TypeError, ValueError) as error:
            raise LoadFailure(
                "ModelLoadFailed", f"the artifact does not say how columns are encoded: {error}"
            ) from None
        self._model = build_model_from_artifact(artifact)
        self.inputs = [TensorSpec(spec.name, spec.datatype, tuple(spec.shape)) for spec in manifest.inputs]
        self.outputs = [TensorSpec(spec.name, spec.datatype, tuple(spec.shape)) for spec in manifest.outputs]

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Numbers may be NaN (missing) but not infinite; words are UTF-8 of a bounded length."""
        for name, array in arrays.items():
            if array.dtype == object:
                for index, value in enumerate(array):
                    _check_text(name, index, value)
            elif array.dtype.kind == "f" and np.isinf(array).any():
                index = int(np.flatnonzero(np.isinf(array))[0])
                raise InvalidInput(f"input '{name}'[{index}]: must be a finite number, or NaN where it is not known")

    def predict(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """{column: [B]} -> {probability: FP32 [B], logit: FP32 [B]}"""
        columns = {
            name: [value.decode() for value in array] if array.dtype == object else array.tolist()
            for name, array in arrays.items()
        }
        count = len(next(iter(arrays.values())))
        inputs = {
            "rows": torch.from_numpy(self._features.rows(columns, count)),
            "numbers": torch.from_numpy(self._features.numbers(columns, count)),
        }
        return {name: tensor.numpy() for name, tensor in self._model(inputs).items()}


def _check_text(name: str, index: int, value: bytes) -> None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}'[{index}]: must be UTF-8 text; numbers as their digits") from None
    if len(text) > LONGEST:
        raise InvalidInput(f"input '{name}'[{index}]: must have at most {LONGEST} characters, has {len(text)}")
