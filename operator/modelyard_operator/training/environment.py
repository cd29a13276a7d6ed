"""What a pod of a gang is told: rendezvous, configuration, where to report; and where its data and output are. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from modelyard_operator.objects import API_VERSION, output_claim_name
from modelyard_operator.plan import Object
from modelyard_operator.podspec import manifest
from modelyard_operator.training.parameters import defaults_of
from modelyard_operator.training.rendezvous import rendezvous
from modelyard_operator.training.spec import ModelTrainingSpec
from modelyard_operator.uris import training_artifact

METRICS_PORT = 9400
OUTPUT_PATH = "/modelyard/output"
DATASET_PATH = "/modelyard/dataset"
MODEL_PATH = "/modelyard/model"
STATUS_PATH = "/var/run/modelyard/status"
STATUS_AUDIENCE = "modelyard.dev/status"
TOKEN_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the operator's own installation contributes to its children."""

    workloads_image: str
    image_pull_policy: str = "IfNotPresent"
    status_url: str = ""
    """Base URL of the status server, `https://host:port`; empty where there is none: pods then report nothing."""
    status_ca: str = ""
    """PEM of the authority that signed the status server's certificate."""


@dataclass(frozen=True)
class Location:
    """A directory on a claim, as `pvc://claim/path` names it."""

    claim: str
    path: str

    def under(self, mount: str) -> str:
        return f"{mount}/{self.path}" if self.path else mount


def claim_location(uri: str) -> Location | None:
    if not uri.startswith("pvc://"):
        return None
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return Location(claim, path.strip("/"))


def output_location(training: Object, spec: ModelTrainingSpec) -> Location | None:
    """Where on a claim the output is; None for an object store."""
    if not spec.output.uri:
        return Location(output_claim_name(training["metadata"]["name"]), "")
    return claim_location(spec.output.uri)


def output_path(training: Object, spec: ModelTrainingSpec) -> str:
    """The directory in the pod of rank 0."""
    location = output_location(training, spec)
    return location.under(OUTPUT_PATH) if location else OUTPUT_PATH


def _output_uri(training: Object, spec: ModelTrainingSpec) -> str:
    location = output_location(training, spec)
    if location is None:
        return spec.output.uri.rstrip("/")
    return f"pvc://{location.claim}" + (f"/{location.path}" if location.path else "")


def initial_uri(training: Object, spec: ModelTrainingSpec) -> str:
    """Where the weights to begin with are; another training's are where its artifact was when this one began."""
    pinned = (training.get("status") or {}).get("model") or {}
    return str(pinned.get("uri", "")) if training_artifact(spec.model.uri) else spec.model.uri


def initial_weights(training: Object, spec: ModelTrainingSpec) -> Object:
    """The weights as a bundled trainer opens them; another training's must be those that were pinned."""
    pinned = (training.get("status") or {}).get("model") or {}
    digest = pinned.get("digest") if training_artifact(spec.model.uri) else None
    return {"uri": in_pod(initial_uri(training, spec), MODEL_PATH), "digest": digest or ""}


def in_pod(uri: str, mount: str) -> str:
    """The URI as a pod sees it that has the claim of `pvc://claim/path` at `mount`."""
    claim = claim_location(uri)
    return f"file://{claim.under(mount)}" if claim else uri


def environment(
    training: Object, spec: ModelTrainingSpec, attempt: int, rank: int, surroundings: Surroundings
) -> list[Object]:
    meta = training["metadata"]
    values = {
        "HOME": "/tmp",
        "MODELYARD_TRAINING": meta["name"],
        "MODELYARD_NAMESPACE": meta["namespace"],
        "MODELYARD_ATTEMPT": str(attempt),
        "MODELYARD_GRACE_SECONDS": str(spec.run_policy.termination_grace_period_seconds),
        "MODELYARD_OUTPUT": output_path(training, spec),
    }
    if spec.run_policy.progress_deadline_seconds is not None:
        values["MODELYARD_PROGRESS_DEADLINE_SECONDS"] = str(spec.run_policy.progress_deadline_seconds)
    for name, uri, mount in (
        ("MODELYARD_DATASET", spec.dataset.uri, DATASET_PATH),
        ("MODELYARD_MODEL", initial_uri(training, spec), MODEL_PATH),
    ):
        if uri:  # a directory of the pod, or a URI for the trainer to open
            values[name] = in_pod(uri, mount).removeprefix("file://")
    if spec.trainer.builtin:
        values["MODELYARD_CONFIG"] = json.dumps(_builtin_config(training, spec, attempt), separators=(",", ":"))
    values |= rendezvous(training, spec, attempt, rank)
    if surroundings.status_url:
        path = f"/apis/{API_VERSION}/namespaces/{meta['namespace']}/modeltrainings/{meta['name']}/status"
        values |= {
            "KUBEFLOW_TRAINER_SERVER_URL": surroundings.status_url.rstrip("/") + path,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": f"{STATUS_PATH}/ca.crt",
            "KUBEFLOW_TRAINER_SERVER_TOKEN": f"{STATUS_PATH}/token",
        }
    address = {"name": "MODELYARD_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    ours: list[Object] = [address, *({"name": name, "value": value} for name, value in values.items())]
    return ours + [manifest(variable) for variable in spec.trainer.env]


def _builtin_config(training: Object, spec: ModelTrainingSpec, attempt: int) -> Object:
    """The MODELYARD_CONFIG of a bundled trainer (`modelyard_workloads.config`)."""
    meta = training["metadata"]
    oom = spec.failure_policy.on_oom
    return {
        "task": spec.trainer.builtin,
        "parameters": spec.trainer.parameters,
        "defaults": json.loads((training.get("status") or {}).get("defaults") or defaults_of(spec.trainer.builtin)),
        "training": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "generation": meta.get("generation", 1),
        },
        "attempt": attempt,
        "dataset": {"uri": in_pod(spec.dataset.uri, DATASET_PATH)},
        "model": initial_weights(training, spec),
        "output": {"path": output_path(training, spec), "uri": _output_uri(training, spec)},
        "checkpoint": {
            "everySteps": spec.checkpoint.every_steps,
            "everySeconds": spec.checkpoint.every_seconds,
            "keepLast": spec.checkpoint.keep_last,
            "resume": spec.checkpoint.resume,
        },
        "privacy": manifest(spec.privacy) if spec.privacy else None,
        # An older image does not know the field.
        **({"memoryGrows": True} if oom is not None and oom.memory_factor > 1 else {}),
    }
