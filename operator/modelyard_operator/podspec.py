"""The parts of a pod spec that both kinds share. Every pod passes the `restricted` Pod Security Standard. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from modelyard_operator.plan import Object
from modelyard_operator.pods import PodOptions, Resources
from modelyard_operator.quantity import canonical

USER_ID = 65532
"""The uid and gid of every container, "nonroot" in the images that have such a user; volumes are made its group's."""


def manifest(model: BaseModel) -> Any:
    """A typed part of a spec as the JSON that the user wrote, without what was left out."""
    return model.model_dump(by_alias=True, exclude_unset=True, exclude_none=True, mode="json")


def pod_security_context() -> Object:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security_context(*, read_only_root: bool) -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only_root,
    }


def pod_placement(options: PodOptions, *, node_lost_seconds: int | None = None) -> Object:
    """Where a pod may run and as whom; with `node_lost_seconds`, when it leaves a node that no longer answers."""
    placement: Object = {}
    tolerations = [manifest(t) for t in options.tolerations]
    if node_lost_seconds is not None:
        tolerations += [
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": node_lost_seconds}
            for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ]
    if tolerations:
        placement["tolerations"] = tolerations
    if options.node_selector:
        placement["nodeSelector"] = dict(options.node_selector)
    if options.affinity is not None and (affinity := manifest(options.affinity)):
        placement["affinity"] = affinity
    if options.service_account_name:
        placement["serviceAccountName"] = options.service_account_name
    if options.image_pull_secrets:
        placement["imagePullSecrets"] = [manifest(secret) for secret in options.image_pull_secrets]
    if options.runtime_class_name:
        placement["runtimeClassName"] = options.runtime_class_name
    return placement


def resources_manifest(resources: Resources) -> Object:
    """Requests and limits with canonical quantities; empty where nothing is asked for."""
    parts = {"requests": resources.requests, "limits": resources.limits}
    return {
        part: {name: canonical(str(quantity)) for name, quantity in amounts.items()}
        for part, amounts in parts.items()
        if amounts
    }
