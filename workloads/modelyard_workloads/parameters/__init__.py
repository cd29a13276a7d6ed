"""The typed parameters of the builtin trainers, one file per family; the key is `spec.trainer.builtin`."""

from __future__ import annotations

from modelyard_workloads.parameters.base import Parameters, Section
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters

PARAMETERS: dict[str, type[Parameters]] = {"image-classification": ImageClassificationParameters}

__all__ = ["PARAMETERS", "Parameters", "Section"]
