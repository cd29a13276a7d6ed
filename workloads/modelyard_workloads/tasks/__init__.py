"""The builtin trainers by name. A task's module is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from modelyard_workloads.artifact import Artifact, ArtifactError, ArtifactInvalid, read_artifact
from modelyard_workloads.config import TrainingConfig, Weights
from modelyard_workloads.data.sources import MODEL, open_source
from modelyard_workloads.exits import ConfigError, DataError, Issue
from modelyard_workloads.tasks.base import ServedModel, ServedModelBuilder, Task

# name -> module with `build_task(config) -> Task`, and, where its models take tensors, `build_served_model(artifact) ->
# ServedModel`
_MODULES = {
    "bert-pretraining": "modelyard_workloads.tasks.bert_pretraining",
    "causal-lm": "modelyard_workloads.tasks.causal_lm",
    "image-classification": "modelyard_workloads.tasks.image_classification",
    "question-answering": "modelyard_workloads.tasks.question_answering",
    "recommendation": "modelyard_workloads.tasks.recommendation",
    "text-classification": "modelyard_workloads.tasks.text_classification",
    "token-classification": "modelyard_workloads.tasks.token_classification",
}


def build_task(config: TrainingConfig) -> Task:
    """The task of a training. Raises ConfigError when there is none of this name, DataError for weights that are not
    those that were asked for."""
    if config.task not in _MODULES:
        raise ConfigError(
            [Issue("task", f"{config.task!r} is no builtin trainer; choose one of: {', '.join(_MODULES)}")]
        )
    if config.model.digest:
        _require(config.model)
    module: Any = import_module(_MODULES[config.task])
    task: Task = module.build_task(config)
    return task


def _require(weights: Weights) -> None:
    """Raise DataError unless the artifact to begin from is the very one that was looked up when training began."""
    try:
        read_artifact(open_source(weights.uri, MODEL).local_directory(), weights.digest)
    except ArtifactError as error:
        raise DataError(f"model.uri: {error}") from None


def build_model_from_artifact(artifact: Artifact) -> ServedModel:
    """The model of a verified artifact, on the CPU in eval mode. Raises ArtifactInvalid."""
    name = artifact.manifest.task
    if name not in _MODULES:
        raise ArtifactInvalid(f"{artifact.path}: task {name!r} is unknown; known: {', '.join(_MODULES)}")
    module: Any = import_module(_MODULES[name])
    builder: ServedModelBuilder = module.build_served_model
    return builder(artifact)
