"""From a ModelTraining to its children: dict literals that look like the YAML they become. Pure."""

from __future__ import annotations

from modelyard_operator.objects import (
    ANNOTATION_STATUS_CA,
    LABEL_ATTEMPT,
    LABEL_RANK,
    TRAINING,
    child_metadata,
    labels_for,
    output_claim_name,
    owner_reference,
    peer_service_name,
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
from modelyard_operator.training.environment import (
    DATASET_PATH,
    METRICS_PORT,
    MODEL_PATH,
    OUTPUT_PATH,
    STATUS_AUDIENCE,
    STATUS_PATH,
    TOKEN_SECONDS,
    Surroundings,
    claim_location,
    environment,
    initial_uri,
    output_location,
)
from modelyard_operator.training.failure import CONTAINER
from modelyard_operator.training.rendezvous import PORT
from modelyard_operator.training.scheduling import (
    away_from_the_lost,
    placement,
    queue_annotations,
    queue_labels,
    with_topology,
)
from modelyard_operator.training.spec import ModelTrainingSpec


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
        "metadata": child_metadata(training, peer_service_name(meta["name"])),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {
                "app.kubernetes.io/managed-by": "modelyard",
                "modelyard.dev/training": meta["name"],
            },
            "ports": [{"name": "rendezvous", "port": PORT, "protocol": "TCP", "targetPort": PORT}],
        },
    }


def make_pod_metadata(training: Object, spec: ModelTrainingSpec, attempt: int, rank: int, status_ca: str) -> Object:
    """Everything of a pod that can be repaired while it lives."""
    annotations = {**spec.pod.annotations, **queue_annotations(training, spec)}
    if status_ca:
        annotations[ANNOTATION_STATUS_CA] = status_ca
    labels = {
        **spec.pod.labels,
        **queue_labels(training, spec, attempt),
        LABEL_ATTEMPT: str(attempt),
        LABEL_RANK: str(rank),
    }
    metadata = child_metadata(training, pod_name(training["metadata"]["name"], attempt, rank), labels)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "annotations": annotations}}


def make_pod(training: Object, spec: ModelTrainingSpec, attempt: int, rank: int, surroundings: Surroundings) -> Object:
    """One node of the gang. Passes the `restricted` Pod Security Standard, whatever the user asked for."""
    builtin = bool(spec.trainer.builtin)
    pod = make_pod_metadata(training, spec, attempt, rank, surroundings.status_ca)
    volumes, mounts = _volumes(training, spec, rank, surroundings)
    container: Object = {
        "name": CONTAINER,
        "image": spec.trainer.image or surroundings.workloads_image,
        "env": environment(training, spec, attempt, rank, surroundings),
        **_credentials(training, spec),
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
        pod["spec"]["subdomain"] = peer_service_name(training["metadata"]["name"])
    pod["spec"] |= placement(spec)
    affinity = away_from_the_lost(pod["spec"].get("affinity") or {}, training, attempt)
    if affinity := with_topology(affinity, training, spec, attempt):
        pod["spec"]["affinity"] = affinity
    return pod


def _credentials(training: Object, spec: ModelTrainingSpec) -> Object:
    """The keys of the Secrets as variables, under a prefix each. The kubelet reads them, the operator never does."""
    pinned = (training.get("status") or {}).get("model") or {}
    secrets = {
        "MODELYARD_DATASET_": spec.dataset.secret_ref,
        "MODELYARD_MODEL_": spec.model.secret_ref or pinned.get("secretRef", ""),
        "MODELYARD_OUTPUT_": spec.output.secret_ref,
    }
    sources = [{"prefix": prefix, "secretRef": {"name": name}} for prefix, name in secrets.items() if name]
    return {"envFrom": sources} if sources else {}


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
        location = output_location(training, spec)
        output: Object = {"emptyDir": {"sizeLimit": spec.output.size}}
        if location is not None:
            output = {"persistentVolumeClaim": {"claimName": location.claim}}
        volumes.append({"name": "output", **output})
        mounts.append({"name": "output", "mountPath": OUTPUT_PATH})
    read = {"dataset": (spec.dataset.uri, DATASET_PATH), "model": (initial_uri(training, spec), MODEL_PATH)}
    for name, (uri, path) in read.items():
        if location := claim_location(uri):
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": location.claim, "readOnly": True}})
            mounts.append({"name": name, "mountPath": path, "readOnly": True})
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
