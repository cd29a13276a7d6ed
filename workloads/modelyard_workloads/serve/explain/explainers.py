"""Which class explains the models of a task. Its module is imported only in the process that explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.serve.errors import LoadFailure
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort
from modelyard_workloads.serve.tensors import Array


class Explainer(Protocol):
    """A model whose answers can be explained."""

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """One row of checked inputs. Raises InvalidInput where there is nothing to explain."""


_PACKAGE = "modelyard_workloads.serve.explain"
# task -> module with `build(artifact) -> Explainer`
_MODULES = {
    "bert-pretraining": "pretraining",
    "causal-lm": "language",
    "image-classification": "images",
    "question-answering": "questions",
    "recommendation": "recommendation",
    "text-classification": "text_classes",
    "token-classification": "entities",
}


def build_explainer(artifact: Artifact) -> Explainer:
    """The explainer of a verified artifact, on the CPU. Raises LoadFailure, DataError and ArtifactInvalid."""
    task = artifact.manifest.task
    if task not in _MODULES:
        known = ", ".join(_MODULES)
        raise LoadFailure("ModelLoadFailed", f"task '{task}' cannot be explained; known are {known}")
    build: Callable[[Artifact], Explainer] = import_module(f"{_PACKAGE}.{_MODULES[task]}").build
    return build(artifact)
