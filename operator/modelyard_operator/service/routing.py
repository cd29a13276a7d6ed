"""The ways to the servers: Services, the router where one is needed, routes from outside. Pure.

Requests go from the Service straight to the pods. A router of ours stands between them only where somebody must
divide, copy or hold requests and count what came of them: a canary, a shadow, a service that may have no servers.
"""

from __future__ import annotations

import json

from modelyard_operator.objects import (
    LABEL_COMPONENT,
    LABEL_SERVICE,
    LABEL_TABLE,
    MANAGED_BY,
    MANAGER,
    ROUTER,
    child_metadata,
    revision_name,
    router_name,
)
from modelyard_operator.plan import Object
from modelyard_operator.podspec import container_security_context, pod_security_context
from modelyard_operator.service.render import selector_of
from modelyard_operator.service.rollout import Rollout
from modelyard_operator.service.runtime import GRPC_PORT, HTTP_PORT, Installation
from modelyard_operator.service.server_config import limits
from modelyard_operator.service.spec import ModelServiceSpec

ADMIN_PORT = 9090
HOLD_SECONDS = 300
"""How long a request waits for a server that is started for it."""


def may_have_no_servers(spec: ModelServiceSpec) -> bool:
    return spec.scaling is not None and spec.scaling.backend == "Internal" and spec.scaling.min_replicas == 0


def needs_router(spec: ModelServiceSpec, rollout: Rollout) -> bool:
    if spec.suspend or rollout.serving is None:
        return False
    return may_have_no_servers(spec) or rollout.is_split


def make_service(service: Object, selector: dict[str, str], *, grpc: bool) -> Object:
    """The address of the ModelService: the pods of the revision that has the traffic, or the routers."""
    return _service(service, service["metadata"]["name"], selector, grpc=grpc)


def make_revision_service(service: Object, revision: str, *, grpc: bool) -> Object:
    """The address of one revision, for routers and gateways."""
    name = service["metadata"]["name"]
    return _service(service, revision_name(name, revision), selector_of(name, revision), grpc=grpc)


def _service(service: Object, name: str, selector: dict[str, str], *, grpc: bool) -> Object:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}]
    if grpc:
        told = {"name": "grpc", "port": GRPC_PORT, "protocol": "TCP", "targetPort": "grpc"}
        ports.append({**told, "appProtocol": "kubernetes.io/h2c"})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(service, name),
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": ports,
        },
    }


def router_selector(service: str) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, LABEL_SERVICE: service, LABEL_COMPONENT: ROUTER}


def make_router(service: Object, spec: ModelServiceSpec, rollout: Rollout, installation: Installation) -> Object:
    """The routers with the table that the rollout asks for. Another table makes other pods: they count anew."""
    name = service["metadata"]["name"]
    metadata = child_metadata(service, router_name(name), {LABEL_COMPONENT: ROUTER})
    container: Object = {
        "name": ROUTER,
        "image": installation.router_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "modelyard_operator.router"],
        "env": [{"name": "MODELYARD_ROUTER", "value": router_config(service, spec, rollout)}],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "admin"},
            "periodSeconds": 1,
            "failureThreshold": 3,
            "timeoutSeconds": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "admin"},
            "periodSeconds": 10,
            "failureThreshold": 3,
            "timeoutSeconds": 5,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security_context(read_only_root=True),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    if spec.drain.pre_stop_seconds:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": spec.drain.pre_stop_seconds}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": installation.router_replicas,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": router_selector(name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {**metadata["labels"], LABEL_TABLE: rollout.table}},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": spec.drain.pre_stop_seconds + spec.drain.timeout_seconds + 5,
                    "securityContext": pod_security_context(),
                    "containers": [container],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }


def router_config(service: Object, spec: ModelServiceSpec, rollout: Rollout) -> str:
    """The MODELYARD_ROUTER of `modelyard_operator.router.config`."""
    meta = service["metadata"]

    def backend(revision: str, percent: int) -> Object:
        host = f"{revision_name(meta['name'], revision)}.{meta['namespace']}.svc"
        return {"revision": revision, "host": host, "port": 80, "percent": percent}

    config: Object = {
        "table": rollout.table,
        "backends": [backend(revision, percent) for revision, percent in rollout.shares],
        "port": HTTP_PORT,
        "grpcPort": GRPC_PORT,
        "adminPort": ADMIN_PORT,
        "maxHeld": limits(spec)["maxQueue"],
        "holdSeconds": HOLD_SECONDS,
        "timeoutSeconds": spec.limits.timeout_seconds,
        "drainSeconds": spec.drain.timeout_seconds,
    }
    if rollout.mirror is not None:
        config["mirror"] = backend(rollout.mirror, 0)
        config["tolerance"] = {"rtol": spec.validation.rtol, "atol": spec.validation.atol}
    return json.dumps(config, separators=(",", ":"))


def make_http_route(service: Object, spec: ModelServiceSpec) -> Object:
    """A route of the Gateway API, to the Service: a gateway could divide requests, but not judge a revision by them.

    https://gateway-api.sigs.k8s.io/reference/spec/#httproute
    """
    meta, gateway = service["metadata"], spec.route.gateway_ref
    assert gateway is not None, "the spec's rules have checked this"
    parent: Object = {"name": gateway.name}
    if gateway.section_name:
        parent["sectionName"] = gateway.section_name
    body: Object = {"parentRefs": [parent]}
    if spec.route.hostname:
        body["hostnames"] = [spec.route.hostname]
    body["rules"] = [{"backendRefs": [{"name": meta["name"], "port": 80}]}]
    return _outside(service, "gateway.networking.k8s.io/v1", "HTTPRoute", body)


def make_ingress(service: Object, spec: ModelServiceSpec) -> Object:
    """An Ingress of the cluster's default class, to the Service."""
    backend = {"service": {"name": service["metadata"]["name"], "port": {"name": "http"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    body = {"rules": [{"host": spec.route.hostname, "http": {"paths": [path]}}]}
    return _outside(service, "networking.k8s.io/v1", "Ingress", body)


def _outside(service: Object, api: str, kind: str, body: Object) -> Object:
    metadata = child_metadata(service, service["metadata"]["name"])
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": body}
