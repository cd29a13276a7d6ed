"""From a ModelTraining to its children: dict literals that look like the YAML they become. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from modelyard_operator.objects import (
    ANNOTATION_STATUS_CA,
    API_VERSION,
    LABEL_ATTEMPT,
    LABEL_RANK,
    TRAINING,
    labels_for,
    output_claim_name,
    owner_reference,
    pod_name,
)
from modelyard_operator.plan import Object
from modelyard_operator.podspec import (
    container_security_context,
    manifest,
    pod_placement,
    pod_security_context,
    resources_manifest,
)
from modelyard_operator.quantity import amount
from modelyard_operator.training.gang import CONTAINER
from modelyard_operator.training.spec import ModelTrainingSpec

MASTER_PORT = 29500
METRICS_PORT = 9400
OUTPUT_PATH = "/modelyard/output"
DATASET_PATH = "/modelyard/dataset"
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


def output_location(training: Object, spec: ModelTrainingSpec) -> Location:
    return claim_location(spec.output.uri) or Location(output_claim_name(training["metadata"]["name"]), "")


def make_output_claim(training: Object, spec: ModelTrainingSpec) -> Object | None:
    """The claim of the output; None where the user named one. Kept after the training unless told otherwise."""
    if spec.output.uri:
        return None
    meta = training["metadata"]
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": output_claim_name(meta["name"]),
            "namespace": meta["namespace"],
            "labels": labels_for(TRAINING, meta["name"]),
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": spec.output.size}},
        },
    }
    if spec.output.storage_class_name is not None:
        claim["spec"]["storageClassName"] = spec.output.storage_class_name
    if spec.output.retention_policy == "Delete":
        claim["metadata"]["ownerReferences"] = [owner_reference(training)]
    return claim


def make_peer_service(training: Object, spec: ModelTrainingSpec) -> Object | None:
    """The headless Service that gives the pods of a gang their names; None for a single node, which needs none."""
    if spec.trainer.num_nodes == 1:
        return None
    meta = training["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": labels_for(TRAINING, meta["name"]),
            "ownerReferences": [owner_reference(training)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {
                "app.kubernetes.io/managed-by": "modelyard",
                "modelyard.dev/training": meta["name"],
            },
            "ports": [{"name": "rendezvous", "port": MASTER_PORT, "protocol": "TCP", "targetPort": MASTER_PORT}],
        },
    }


def make_pod_metadata(training: Object, spec: ModelTrainingSpec, attempt: int, rank: int, status_ca: str) -> Object:
    """Everything of a pod that can be repaired while it lives."""
    meta = training["metadata"]
    annotations = {**spec.pod.annotations}
    if status_ca:
        annotations[ANNOTATION_STATUS_CA] = status_ca
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(meta["name"], attempt, rank),
            "namespace": meta["namespace"],
            "labels": labels_for(
                TRAINING,
                meta["name"],
                {**spec.pod.labels, LABEL_ATTEMPT: str(attempt), LABEL_RANK: str(rank)},
            ),
            "annotations": annotations,
            "ownerReferences": [owner_reference(training)],
        },
    }


def make_pod(training: Object, spec: ModelTrainingSpec, attempt: int, rank: int, surroundings: Surroundings) -> Object:
    """One node of the gang. Passes the `restricted` Pod Security Standard, whatever the user asked for."""
    builtin = bool(spec.trainer.builtin)
    pod = make_pod_metadata(training, spec, attempt, rank, surroundings.status_ca)
    volumes, mounts = _volumes(training, spec, rank, surroundings)
    container: Object = {
        "name": CONTAINER,
        "image": spec.trainer.image or surroundings.workloads_image,
        "env": _environment(training, spec, attempt, rank, surroundings),
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        "volumeMounts": [*mounts, *(manifest(mount) for mount in spec.pod.volume_mounts)],
        "securityContext": container_security_context(read_only_root=builtin),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if not spec.trainer.image:
        container["imagePullPolicy"] = surroundings.image_pull_policy
    if builtin:
        container["command"] = ["python", "-m", "modelyard_workloads.launch"]
    if spec.trainer.command:
        container["command"] = list(spec.trainer.command)
    if spec.trainer.args:
        container["args"] = list(spec.trainer.args)
    if resources := resources_manifest(spec.trainer.resources_per_node):
        container["resources"] = resources
    pod["spec"] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.run_policy.termination_grace_period_seconds,
        "securityContext": pod_security_context(),
        "containers": [container],
        "volumes": [*volumes, *(manifest(volume) for volume in spec.pod.volumes)],
        **pod_placement(spec.pod, node_lost_seconds=spec.run_policy.node_lost_seconds),
    }
    if spec.trainer.num_nodes > 1:
        pod["spec"]["hostname"] = pod["metadata"]["name"]
        pod["spec"]["subdomain"] = training["metadata"]["name"]
    if spec.scheduling.priority_class_name:
        pod["spec"]["priorityClassName"] = spec.scheduling.priority_class_name
    if spec.scheduling.scheduler_name:
        pod["spec"]["schedulerName"] = spec.scheduling.scheduler_name
    return pod


def processes_per_node(spec: ModelTrainingSpec) -> int:
    """numProcPerNode; `auto` is one process a GPU, and one where there is none."""
    if spec.trainer.num_proc_per_node != "auto":
        return int(spec.trainer.num_proc_per_node)
    limits = spec.trainer.resources_per_node.limits
    gpus = sum(int(amount(str(count))) for name, count in limits.items() if name.endswith("/gpu") or "/mig-" in name)
    return max(1, gpus)


def _environment(
    training: Object, spec: ModelTrainingSpec, attempt: int, rank: int, surroundings: Surroundings
) -> list[Object]:
    meta = training["metadata"]
    dataset = claim_location(spec.dataset.uri)
    values = {
        "HOME": "/tmp",
        "MODELYARD_TRAINING": meta["name"],
        "MODELYARD_NAMESPACE": meta["namespace"],
        "MODELYARD_ATTEMPT": str(attempt),
        "MODELYARD_OUTPUT": output_location(training, spec).under(OUTPUT_PATH),
    }
    if dataset:
        values["MODELYARD_DATASET"] = dataset.under(DATASET_PATH)
    if spec.trainer.builtin:
        values["MODELYARD_CONFIG"] = json.dumps(_builtin_config(training, spec, attempt), separators=(",", ":"))
    if spec.trainer.rendezvous == "torch":
        values |= _torch_rendezvous(training, spec, attempt, rank)
    if surroundings.status_url:
        path = f"/apis/{API_VERSION}/namespaces/{meta['namespace']}/modeltrainings/{meta['name']}/status"
        values |= {
            "KUBEFLOW_TRAINER_SERVER_URL": surroundings.status_url.rstrip("/") + path,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": f"{STATUS_PATH}/ca.crt",
            "KUBEFLOW_TRAINER_SERVER_TOKEN": f"{STATUS_PATH}/token",
        }
    ours: list[Object] = [{"name": name, "value": value} for name, value in values.items()]
    return ours + [manifest(variable) for variable in spec.trainer.env]


def _torch_rendezvous(training: Object, spec: ModelTrainingSpec, attempt: int, rank: int) -> dict[str, str]:
    """What `init_process_group("env://")` and torchrun (PET_*) read; one process a node sees itself as one rank."""
    meta = training["metadata"]
    nodes, processes = spec.trainer.num_nodes, processes_per_node(spec)
    first = pod_name(meta["name"], attempt, 0)
    address = f"{first}.{meta['name']}.{meta['namespace']}.svc" if nodes > 1 else "localhost"
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(MASTER_PORT),
        "NNODES": str(nodes),
        "NODE_RANK": str(rank),
        "NPROC_PER_NODE": str(processes),
        "RANK": str(rank),
        "WORLD_SIZE": str(nodes),
        "PET_NNODES": str(nodes),
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": str(MASTER_PORT),
    }


def _builtin_config(training: Object, spec: ModelTrainingSpec, attempt: int) -> Object:
    """The MODELYARD_CONFIG of a bundled trainer (`modelyard_workloads.config`)."""
    meta = training["metadata"]
    output, dataset = output_location(training, spec), claim_location(spec.dataset.uri)
    return {
        "task": spec.trainer.builtin,
        "parameters": spec.trainer.parameters,
        "training": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "generation": meta.get("generation", 1),
        },
        "attempt": attempt,
        "dataset": {"uri": f"file://{dataset.under(DATASET_PATH)}" if dataset else spec.dataset.uri},
        "model": {"uri": ""},
        "output": {
            "path": output.under(OUTPUT_PATH),
            "uri": f"pvc://{output.claim}" + (f"/{output.path}" if output.path else ""),
        },
        "checkpoint": {
            "everySteps": spec.checkpoint.every_steps,
            "everySeconds": spec.checkpoint.every_seconds,
            "keepLast": spec.checkpoint.keep_last,
            "resume": spec.checkpoint.resume,
        },
    }


def _volumes(
    training: Object, spec: ModelTrainingSpec, rank: int, surroundings: Surroundings
) -> tuple[list[Object], list[Object]]:
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[Object] = [{"name": "tmp", "mountPath": "/tmp"}]
    if spec.trainer.shared_memory != "0":
        shm: Object = {"medium": "Memory"}
        if size := _shared_memory(spec):
            shm["sizeLimit"] = size
        volumes.append({"name": "shm", "emptyDir": shm})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if rank == 0:  # the other ranks get what they need from rank 0: no shared file system is asked for
        claim = output_location(training, spec).claim
        volumes.append({"name": "output", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "output", "mountPath": OUTPUT_PATH})
    if dataset := claim_location(spec.dataset.uri):
        volumes.append({"name": "dataset", "persistentVolumeClaim": {"claimName": dataset.claim, "readOnly": True}})
        mounts.append({"name": "dataset", "mountPath": DATASET_PATH, "readOnly": True})
    if surroundings.status_url:
        token = {"audience": STATUS_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
        authority = {
            "path": "ca.crt",
            "fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_STATUS_CA}']"},
        }
        sources = [{"serviceAccountToken": token}, {"downwardAPI": {"items": [authority]}}]
        volumes.append({"name": "status", "projected": {"sources": sources}})
        mounts.append({"name": "status", "mountPath": STATUS_PATH, "readOnly": True})
    return volumes, mounts


def _shared_memory(spec: ModelTrainingSpec) -> str:
    """sizeLimit of /dev/shm; empty where a share of no memory limit is asked: the node's own limit then holds."""
    share = spec.trainer.shared_memory
    if not share.endswith("%"):
        return share
    limit = spec.trainer.resources_per_node.limits.get("memory")
    return str(int(amount(str(limit)) * int(share[:-1]) / 100)) if limit is not None else ""
