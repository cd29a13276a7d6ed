"""The spec of a ModelTraining: the single source of the CRD, its descriptions, and of what the operator accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from modelyard_operator.parsing import parse_object
from modelyard_operator.pods import LabelValue, PodOptions
from modelyard_operator.schema import Model, Quantity, Rule, cel, has_text
from modelyard_operator.training.checks import DATASET_SCHEMES, MODEL_SCHEMES, OUTPUT_SCHEMES, check
from modelyard_operator.training.policy_spec import Checkpoint, ElasticPolicy, FailurePolicy, FailureRule, RunPolicy
from modelyard_operator.training.trainer_spec import Trainer
from modelyard_operator.uris import uri_form

__all__ = [
    "CONTROLLER",
    "Checkpoint",
    "FailurePolicy",
    "FailureRule",
    "ModelTrainingSpec",
    "RunPolicy",
    "Trainer",
    "parse",
]

CONTROLLER = "modelyard.dev/controller"


class ModelSource(Model):
    """The weights to begin with."""

    uri: Annotated[str, uri_form(MODEL_SCHEMES)] = ""
    """Where they are: training://NAME[/ARTIFACT], whose end is waited for; pvc://CLAIM/PATH, s3://, gs://, https://,
    hf://. Safetensors only."""
    secret_ref: Annotated[str, Field(max_length=253)] = ""
    """The Secret with credentials for the URI; its keys become variables with the prefix MODELYARD_MODEL_."""


class DatasetSource(Model):
    """The data to train on."""

    uri: Annotated[str, uri_form(DATASET_SCHEMES)] = ""
    """Where it is: example://NAME needs no network; pvc://CLAIM[/PATH] is a volume of yours; s3://, gs://, https://,
    hf://."""
    secret_ref: Annotated[str, Field(max_length=253)] = ""
    """The Secret with credentials for the URI; its keys become variables with the prefix MODELYARD_DATASET_."""


class Output(
    Model,
    json_schema_extra=cel(
        Rule(
            f"!({has_text('self.uri')}) || !has(self.storageClassName)",
            "storageClassName is for the claim that the operator makes; remove it or remove uri",
        )
    ),
):
    """Where checkpoints and artifacts go."""

    uri: Annotated[str, uri_form(OUTPUT_SCHEMES)] = ""
    """pvc://CLAIM[/PATH], a claim of yours; s3://BUCKET/PATH or gs://BUCKET/PATH, for the builtin trainers. If empty
    the operator makes the claim NAME-output."""
    secret_ref: Annotated[str, Field(max_length=253)] = ""
    """The Secret with credentials for the object store; its keys become variables with the prefix MODELYARD_OUTPUT_.
    Those who refer to this training use it too, unless they name one."""
    size: Quantity = "10Gi"
    """The size of the claim that the operator makes; with an object store, of the pod's own space for what is copied
    there."""
    storage_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Its storage class; the cluster's default if missing."""
    retention_policy: Literal["Retain", "Delete"] = "Retain"
    """Whether that claim outlives this ModelTraining."""


class Scheduling(Model):
    """Who places the pods, and when."""

    queue_name: Annotated[str, Field(max_length=253)] = ""
    """The Kueue LocalQueue to wait in."""
    workload_priority_class_name: LabelValue = ""
    """The WorkloadPriorityClass by which Kueue orders its queue; the pods' PriorityClass if empty."""
    priority_class_name: Annotated[str, Field(max_length=253)] = ""
    """The pods' PriorityClass."""
    scheduler_name: Annotated[str, Field(max_length=253)] = ""
    """The pods' scheduler; the cluster's default if empty."""
    gang: Literal["", "None", "Volcano", "Coscheduling"] = ""
    """Which gang scheduler the pods are labelled and a PodGroup is made for: None, Volcano, Coscheduling."""
    topology: Annotated[str | None, Field(max_length=317)] = None
    """The node label within one value of which all pods must be."""


class DifferentialPrivacy(Model):
    """DP-SGD."""

    epsilon: Annotated[float, Field(gt=0)]
    """The privacy budget."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """The probability with which the budget may be exceeded."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The norm to which each sample's gradient is clipped."""


class Privacy(Model):
    """What may be learned about single samples."""

    differential_privacy: DifferentialPrivacy | None = None
    """DP-SGD in the builtin trainers that support it: image-classification, recommendation, text-classification."""


_BUILTIN_NEEDS_DATA = Rule(
    f"!({has_text('self.trainer.builtin')}) || (has(self.dataset) && ({has_text('self.dataset.uri')}))",
    "a builtin trainer needs dataset.uri; write example://digits or pvc://CLAIM[/PATH], for example",
)


class ModelTrainingSpec(Model, json_schema_extra=cel(_BUILTIN_NEEDS_DATA)):
    """What is to be trained, on what, and how."""

    trainer: Trainer
    """What runs. Immutable once the first attempt has started, except numNodes and resourcesPerNode while suspended."""
    model: ModelSource = ModelSource()
    """The weights to begin with."""
    dataset: DatasetSource = DatasetSource()
    """The data to train on."""
    output: Output = Output()
    """Where checkpoints and artifacts go."""
    checkpoint: Checkpoint = Checkpoint()
    """When state is saved, and what a restart begins from. Of the builtin trainers; your own image is told by you."""
    elastic_policy: ElasticPolicy | None = None
    """Training that goes on with fewer nodes when some find no place, and with more when there is room again."""
    failure_policy: FailurePolicy = FailurePolicy()
    """Which failures are tried again, and how often."""
    run_policy: RunPolicy = RunPolicy()
    """How long things may take, and what remains afterwards."""
    suspend: bool = False
    """True removes the pods (after a checkpoint) and keeps the rest; false goes on from there."""
    managed_by: Annotated[str, Field(max_length=253)] = CONTROLLER
    """The controller in charge; with another value than modelyard.dev/controller this operator keeps its hands off."""
    scheduling: Scheduling = Scheduling()
    """Who places the pods, and when."""
    pod: PodOptions = PodOptions()
    """What may be said about the pods."""
    privacy: Privacy | None = None
    """What may be learned about single samples."""


def parse(body: Mapping[str, Any]) -> ModelTrainingSpec:
    """The spec of a ModelTraining object. Raises InvalidSpec with every issue of it."""
    return parse_object(body, ModelTrainingSpec, check)
