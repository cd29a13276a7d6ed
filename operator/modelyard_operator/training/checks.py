"""What must hold between the fields of a ModelTraining: the operator's own check of the CRD's CEL rules, and more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelyard_operator.pod_checks import env_issues, pod_issues, resource_issues
from modelyard_operator.schema import Issue
from modelyard_operator.training.parameters import parameter_issues
from modelyard_operator.training.trainer_spec import (
    PRIVATE_BUILTINS,
    RENDEZVOUS_ENV,
    RENDEZVOUS_PREFIXES,
    RESERVED_ENV_PREFIXES,
    SUPPORTED_BUILTINS,
    Trainer,
)
from modelyard_operator.uris import forms, parse_uri

if TYPE_CHECKING:
    from modelyard_operator.training.spec import ModelTrainingSpec

DATASET_SCHEMES = ("example", "pvc", "s3", "gs", "https", "hf")
MODEL_SCHEMES = ("training", "pvc", "s3", "gs", "https", "hf")
_NO_PROCESSES = ("tensorflow", "none")
"""Ways to meet in which a node is one process, or what its image makes of it."""
OUTPUT_SCHEMES = ("pvc", "s3", "gs")


def check(spec: ModelTrainingSpec) -> Iterator[Issue]:
    """Every issue that no single field shows."""
    yield from _trainer_issues(spec.trainer)
    yield from _data_issues(spec)
    yield from _policy_issues(spec)
    yield from _privacy_issues(spec)
    yield from pod_issues(spec.pod, "spec.pod")


def unused_settings(spec: ModelTrainingSpec) -> list[str]:
    """What says nothing here, and is no reason to refuse the whole."""
    uri = spec.output.uri
    if uri and parse_uri(uri).scheme == "pvc" and "size" in spec.output.asked_for():
        return [f"output.size is not used: {uri} is a claim of yours, and stays as it is"]
    return []


def _trainer_issues(trainer: Trainer) -> Iterator[Issue]:
    path = "spec.trainer"
    if bool(trainer.builtin) == bool(trainer.image):
        yield Issue(path, "write exactly one of builtin (a trainer of ours) and image (your own)")
    if trainer.builtin and (trainer.command or trainer.args):
        yield Issue(path, "a builtin trainer has its own command and args; set parameters, or use image")
    if trainer.parameters and not trainer.builtin:
        message = "parameters belong to a builtin trainer; give your own image its settings by args or env"
        yield Issue(f"{path}.parameters", message)
    elif trainer.builtin in SUPPORTED_BUILTINS:
        yield from parameter_issues(trainer.builtin, trainer.parameters, f"{path}.parameters")
    if trainer.builtin and trainer.rendezvous != "torch":
        yield Issue(f"{path}.rendezvous", "the builtin trainers meet by torch; remove it, or write torch")
    if trainer.rendezvous in _NO_PROCESSES and trainer.num_proc_per_node != "auto":
        message = f"nobody is told of it with rendezvous {trainer.rendezvous}; remove it, and start them in your image"
        yield Issue(f"{path}.numProcPerNode", message)
    yield from env_issues(trainer.env, f"{path}.env")
    yield from _reserved_env_issues(trainer, f"{path}.env")
    yield from resource_issues(trainer.resources_per_node, f"{path}.resourcesPerNode")


def _reserved_env_issues(trainer: Trainer, path: str) -> Iterator[Issue]:
    for index, variable in enumerate(trainer.env):
        here, name = f"{path}[{index}].name", variable.name
        if name.startswith(RESERVED_ENV_PREFIXES):
            yield Issue(here, f"{name} is set by the operator; remove it")
        elif name in RENDEZVOUS_ENV[trainer.rendezvous] or name.startswith(RENDEZVOUS_PREFIXES[trainer.rendezvous]):
            yield Issue(here, f"{name} is set by the operator; remove it, or write rendezvous none")


def _privacy_issues(spec: ModelTrainingSpec) -> Iterator[Issue]:
    if spec.privacy and spec.privacy.differential_privacy and spec.trainer.builtin not in PRIVATE_BUILTINS:
        trainer = spec.trainer.builtin or "your own image"
        message = f"{trainer} cannot be trained privately by us; {', '.join(PRIVATE_BUILTINS)} can"
        yield Issue("spec.privacy.differentialPrivacy", message)


def _data_issues(spec: ModelTrainingSpec) -> Iterator[Issue]:
    if spec.trainer.builtin and not spec.dataset.uri:
        yield Issue("spec.dataset.uri", f"a builtin trainer needs data; write {forms(DATASET_SCHEMES)}")
    for source, path in ((spec.dataset, "spec.dataset"), (spec.model, "spec.model")):
        if source.secret_ref and not source.uri:
            yield Issue(f"{path}.secretRef", "there is no uri that it could be for; write uri, or remove it")
    yield from _output_issues(spec)


def _output_issues(spec: ModelTrainingSpec) -> Iterator[Issue]:
    remote = bool(spec.output.uri) and parse_uri(spec.output.uri).scheme != "pvc"
    if remote and not spec.trainer.builtin:
        message = "only the builtin trainers write to an object store; name a claim, or let your own image write there"
        yield Issue("spec.output.uri", message)
    if spec.output.secret_ref and not remote:
        yield Issue("spec.output.secretRef", "is for an object store; write its uri, or remove it")
    own = "is for the claim that the operator makes; remove it or remove uri"
    if spec.output.uri and spec.output.storage_class_name is not None:
        yield Issue("spec.output.storageClassName", own)
    if spec.output.uri and spec.output.retention_policy == "Delete":
        yield Issue("spec.output.retentionPolicy", f"{own}: what is yours is never deleted")


def _policy_issues(spec: ModelTrainingSpec) -> Iterator[Issue]:
    for index, rule in enumerate(spec.failure_policy.rules):
        if rule.on_exit_codes is None and not rule.on_reasons:
            message = "write onExitCodes or onReasons; a rule without a condition would match every failure"
            yield Issue(f"spec.failurePolicy.rules[{index}]", message)
    oom = spec.failure_policy.on_oom
    if oom is not None and oom.memory_factor > 1:
        if oom.memory_max is None:
            yield Issue("spec.failurePolicy.onOOM", "write memoryMax: the most memory that may be asked for")
        elif "memory" not in spec.trainer.resources_per_node.limits:
            message = "without a memory limit there is nothing to raise; add limits.memory, or remove it"
            yield Issue("spec.failurePolicy.onOOM", message)
    if spec.scheduling.workload_priority_class_name and not spec.scheduling.queue_name:
        message = "is Kueue's, for a queue; write queueName, or priorityClassName instead"
        yield Issue("spec.scheduling.workloadPriorityClassName", message)
    yield from _elastic_issues(spec)
    yield from _checkpoint_issues(spec)


def _checkpoint_issues(spec: ModelTrainingSpec) -> Iterator[Issue]:
    checkpoint = spec.checkpoint
    if not spec.trainer.builtin:
        for name in checkpoint.asked_for():
            message = "only the builtin trainers follow it; tell your own image by args or env, and remove it"
            yield Issue(f"spec.checkpoint.{name}", message)
    elif checkpoint.every_steps is None and checkpoint.every_seconds is None and checkpoint.resume == "Required":
        message = "Required needs checkpoints; set everySteps or everySeconds, or write Auto or Never"
        yield Issue("spec.checkpoint.resume", message)


def _elastic_issues(spec: ModelTrainingSpec) -> Iterator[Issue]:
    policy, nodes = spec.elastic_policy, spec.trainer.num_nodes
    if policy is None:
        return
    if policy.min_nodes > nodes:
        yield Issue("spec.elasticPolicy.minNodes", f"must be at most numNodes, {nodes}")
    if policy.max_nodes is not None and policy.max_nodes < nodes:
        yield Issue("spec.elasticPolicy.maxNodes", f"must be at least numNodes, {nodes}")
    if spec.scheduling.queue_name or spec.scheduling.gang not in ("", "None"):
        message = "a queue or a gang scheduler places all nodes or none; remove elasticPolicy, or scheduling's field"
        yield Issue("spec.elasticPolicy", message)
