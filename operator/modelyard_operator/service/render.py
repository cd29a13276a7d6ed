"""From a ModelService to its children: a Deployment for each revision, one Service. Pure."""

from __future__ import annotations

import json

from modelyard_operator.objects import (
    ANNOTATION_GENERATION,
    LABEL_REVISION,
    LABEL_SERVICE,
    MANAGED_BY,
    MANAGER,
    SERVICE,
    content_hash,
    labels_for,
    owner_reference,
    revision_name,
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
from modelyard_operator.service.spec import ModelServiceSpec

CONTAINER = "server"
HTTP_PORT = 8080
MODEL_PATH = "/modelyard/model"
STARTUP_SECONDS = 600
"""How long a server may take to load its model before the kubelet starts it anew."""


def model_name(service: Object, spec: ModelServiceSpec) -> str:
    return spec.model.name or str(service["metadata"]["name"])


def revision_of(service: Object, spec: ModelServiceSpec, model: Object, image: str) -> str:
    """The hash of everything that makes another server: model, digest, runtime, predictor, batching, validation.

    Scaling, routing and limits make no new revision: they change the Deployment that there is.
    """
    return content_hash(
        {
            "name": model_name(service, spec),
            "uri": model["uri"],
            "digest": model.get("digest"),
            "runtime": spec.runtime,
            "image": spec.predictor.image or image,
            "predictor": manifest(spec.predictor),
            "batching": manifest(spec.batching),
            "validation": manifest(spec.validation),
        }
    )


def make_deployment(service: Object, spec: ModelServiceSpec, model: Object, revision: str, image: str) -> Object:
    """The servers of one revision. `revision` and its selector never change; replicas are the operator's alone."""
    meta = service["metadata"]
    labels = labels_for(SERVICE, meta["name"], {**spec.predictor.labels, LABEL_REVISION: revision})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": revision_name(meta["name"], revision),
            "namespace": meta["namespace"],
            "labels": labels,
            "annotations": {ANNOTATION_GENERATION: str(meta.get("generation", 1))},
            "ownerReferences": [owner_reference(service)],
        },
        "spec": {
            "replicas": 0 if spec.suspend else spec.replicas,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": STARTUP_SECONDS,
            "selector": {"matchLabels": selector_of(meta["name"], revision)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels, "annotations": dict(spec.predictor.annotations)},
                "spec": make_pod_spec(service, spec, model, revision, image),
            },
        },
    }


def selector_of(service: str, revision: str) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, LABEL_SERVICE: service, LABEL_REVISION: revision}


def make_pod_spec(service: Object, spec: ModelServiceSpec, model: Object, revision: str, image: str) -> Object:
    claim, _, path = model["uri"].removeprefix("pvc://").partition("/")
    predictor = spec.predictor
    container: Object = {
        "name": CONTAINER,
        "image": predictor.image or image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(predictor.command) or ["python", "-m", "modelyard_workloads.serve"],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "MODELYARD_CONFIG", "value": _server_config(service, spec, model, revision, path)},
            *(manifest(variable) for variable in predictor.env),
        ],
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/v2/health/ready", period=1, failures=STARTUP_SECONDS),
        "readinessProbe": _probe("/v2/health/ready", period=2, failures=2),
        "livenessProbe": _probe("/v2/health/live", period=10, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": spec.drain.pre_stop_seconds}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security_context(read_only_root=not predictor.image),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "model", "mountPath": MODEL_PATH, "readOnly": True},
            *(manifest(mount) for mount in predictor.volume_mounts),
        ],
    }
    if predictor.args:
        container["args"] = list(predictor.args)
    if resources := resources_manifest(predictor.resources):
        container["resources"] = resources
    if spec.drain.pre_stop_seconds == 0:
        del container["lifecycle"]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.drain.pre_stop_seconds + spec.drain.timeout_seconds + 5,
        "securityContext": pod_security_context(),
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
            *(manifest(volume) for volume in predictor.volumes),
        ],
        **pod_placement(predictor),
    }


def make_service(service: Object, revision: str) -> Object:
    """The address of the ModelService: the pods of the revision that has the traffic."""
    meta = service["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": labels_for(SERVICE, meta["name"]),
            "ownerReferences": [owner_reference(service)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": selector_of(meta["name"], revision),
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def _server_config(service: Object, spec: ModelServiceSpec, model: Object, revision: str, path: str) -> str:
    """The MODELYARD_CONFIG of a bundled server (`modelyard_workloads.serve.config`)."""
    config = {
        "model": {
            "name": model_name(service, spec),
            "path": f"{MODEL_PATH}/{path.strip('/')}".rstrip("/"),
            "digest": model.get("digest") or "",
            "version": revision,
        },
        "batching": {
            "maxBatchSize": spec.batching.max_batch_size,
            "maxLatencyMilliseconds": spec.batching.max_latency_milliseconds,
        },
        "validation": {"golden": spec.validation.golden, "rtol": spec.validation.rtol, "atol": spec.validation.atol},
        "limits": {
            "maxQueue": spec.limits.max_queue,
            "timeoutSeconds": spec.limits.timeout_seconds,
            "maxRequestBytes": int(amount(str(spec.limits.max_request_bytes))),
            "containerConcurrency": spec.limits.container_concurrency,
        },
        "drain": {"timeoutSeconds": spec.drain.timeout_seconds},
        "server": {"host": "0.0.0.0", "port": HTTP_PORT},
    }
    return json.dumps(config, separators=(",", ":"))


def _probe(path: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 2,
    }
