"""From a ModelService to the servers of a revision: a Deployment. Pure."""

from __future__ import annotations

from modelyard_operator.objects import (
    ANNOTATION_GENERATION,
    LABEL_REVISION,
    LABEL_SERVICE,
    MANAGED_BY,
    MANAGER,
    child_metadata,
    content_hash,
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
from modelyard_operator.service.checks import BUILTIN
from modelyard_operator.service.runtime import Installation, RuntimeProfile
from modelyard_operator.service.server_config import KEYS_PATH, server_config
from modelyard_operator.service.source import MODEL_PATH, fetch_container, model_directory, model_volume
from modelyard_operator.service.spec import ModelServiceSpec

CONTAINER = "server"


def model_name(service: Object, spec: ModelServiceSpec) -> str:
    return spec.model.name or str(service["metadata"]["name"])


def revision_of(service: Object, spec: ModelServiceSpec, model: Object, installation: Installation) -> str:
    """The hash of everything that makes another server: model, digest, runtime, predictor, batching, validation.

    Scaling, routing and limits make no new revision: they change the Deployment that there is.
    """
    profile = installation.profile(spec)
    content = {
        "name": model_name(service, spec),
        "uri": model["uri"],
        "digest": model.get("digest"),
        "runtime": spec.runtime if spec.runtime == BUILTIN else manifest(profile),
        "image": spec.predictor.image or profile.image,
        "predictor": manifest(spec.predictor),
        "batching": manifest(spec.batching),
        "validation": manifest(spec.validation),
    }
    if spec.generation is not None:
        generation = manifest(spec.generation)
        if generation.get("dtype") == "float32":  # as it was before there was a choice
            del generation["dtype"]
        content["generation"] = generation
    if spec.explain is not None:
        content["explain"] = manifest(spec.explain)
    return content_hash(content)


def make_deployment(
    service: Object, spec: ModelServiceSpec, model: Object, revision: str, replicas: int, installation: Installation
) -> Object:
    """The servers of one revision. `revision` and its selector never change; replicas are the operator's alone."""
    meta = service["metadata"]
    profile = installation.profile(spec)
    name = revision_name(meta["name"], revision)
    metadata = child_metadata(service, name, {**spec.predictor.labels, LABEL_REVISION: revision})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**metadata, "annotations": {ANNOTATION_GENERATION: str(meta.get("generation", 1))}},
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": profile.startup_seconds,
            "selector": {"matchLabels": selector_of(meta["name"], revision)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": metadata["labels"], "annotations": dict(spec.predictor.annotations)},
                "spec": make_pod_spec(service, spec, model, revision, installation),
            },
        },
    }


def selector_of(service: str, revision: str) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, LABEL_SERVICE: service, LABEL_REVISION: revision}


def make_pod_spec(
    service: Object, spec: ModelServiceSpec, model: Object, revision: str, installation: Installation
) -> Object:
    profile, predictor = installation.profile(spec), spec.predictor
    fetch = fetch_container(spec, model, installation.workloads_image)
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {}}, model_volume(model)]
    if spec.auth.mode == "ApiKey":
        volumes.append({"name": "api-keys", "secret": {"secretName": spec.auth.secret_ref}})
    pod: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.drain.pre_stop_seconds + spec.drain.timeout_seconds + 5,
        "securityContext": pod_security_context(),
        "containers": [_server(service, spec, model, revision, profile)],
        "volumes": [*volumes, *(manifest(volume) for volume in predictor.volumes)],
        **pod_placement(predictor),
    }
    if fetch is not None:
        pod["initContainers"] = [fetch]
    return pod


def _server(service: Object, spec: ModelServiceSpec, model: Object, revision: str, profile: RuntimeProfile) -> Object:
    predictor = spec.predictor
    container: Object = {
        "name": CONTAINER,
        "image": predictor.image or profile.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [*_environment(service, spec, model, revision, profile), *(manifest(v) for v in predictor.env)],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in (("http", profile.port), ("grpc", profile.grpc_port))
            if port is not None
        ],
        "startupProbe": _probe(profile.ready_path, period=1, failures=profile.startup_seconds),
        "readinessProbe": _probe(profile.ready_path, period=2, failures=2),
        "livenessProbe": _probe(profile.live_path, period=10, failures=3),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security_context(read_only_root=profile.read_only_root and not predictor.image),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "model", "mountPath": MODEL_PATH, "readOnly": True},
            *([{"name": "api-keys", "mountPath": KEYS_PATH, "readOnly": True}] if spec.auth.mode == "ApiKey" else []),
            *(manifest(mount) for mount in predictor.volume_mounts),
        ],
    }
    if command := list(predictor.command or profile.command):
        container["command"] = command
    if args := list(predictor.args or ([] if predictor.command else profile.args)):
        container["args"] = args
    if resources := resources_manifest(predictor.resources):
        container["resources"] = resources
    if spec.drain.pre_stop_seconds:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": spec.drain.pre_stop_seconds}}}
    return container


def _environment(
    service: Object, spec: ModelServiceSpec, model: Object, revision: str, profile: RuntimeProfile
) -> list[Object]:
    name = model_name(service, spec)
    if spec.runtime == BUILTIN:
        values = {"MODELYARD_CONFIG": server_config(name, spec, model, revision)}
    else:
        values = {
            "MODELYARD_MODEL_NAME": name,
            "MODELYARD_MODEL_PATH": model_directory(model),
            "MODELYARD_PORT": str(profile.port),
            **profile.env,
        }
    return [{"name": key, "value": value} for key, value in {"HOME": "/tmp", **values}.items()]


def _probe(path: str, *, period: int, failures: int) -> Object:
    action = {"httpGet": {"path": path, "port": "http"}} if path else {"tcpSocket": {"port": "http"}}
    return {**action, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 2}
