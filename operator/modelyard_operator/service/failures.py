"""Why a server does not serve, from what its pod says. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from modelyard_operator.objects import LABEL_REVISION, is_terminating
from modelyard_operator.plan import Children, Object
from modelyard_operator.service.render import CONTAINER
from modelyard_operator.service.source import FETCH

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
LOADING = ("ArtifactMissing", "DigestMismatch", "DownloadFailed", "ModelLoadFailed", "GoldenMismatch", "InvalidConfig")
"""What a bundled server says in its termination message when it cannot serve its model."""


@dataclass(frozen=True, kw_only=True)
class ServerFailure:
    """Why a pod of the new revision does not serve."""

    pod: str
    reason: str
    message: str
    exit_code: int | None = None
    log_tail: str | None = None


def find_failure(children: Children, revision: str | None) -> ServerFailure | None:
    """The first pod of the revision that says why it does not serve, else why there are no pods."""
    if revision is None:
        return None
    for pod in children.pods:
        if (pod["metadata"].get("labels") or {}).get(LABEL_REVISION) != revision or is_terminating(pod):
            continue
        if failure := _pod_failure(pod, children.pod_warnings.get(pod["metadata"]["name"], "")):
            return failure
    return _refused_pods(children, revision)


def _refused_pods(children: Children, revision: str) -> ServerFailure | None:
    """A quota, a policy or a missing ServiceAccount: told by the Deployment, because there is no pod to tell it."""
    for deployment in children.deployments:
        meta = deployment["metadata"]
        if (meta.get("labels") or {}).get(LABEL_REVISION) != revision:
            continue
        for condition in (deployment.get("status") or {}).get("conditions") or ():
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                message = str(condition.get("message", ""))
                reason = "QuotaExceeded" if "exceeded quota" in message else "PodsRefused"
                return ServerFailure(pod=meta["name"], reason=reason, message=message)
    return None


def _pod_failure(pod: Object, warning: str) -> ServerFailure | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message", ""))
            missing = "persistentvolumeclaim" in message and "not found" in message
            return ServerFailure(pod=name, reason="VolumeMissing" if missing else "Unschedulable", message=message)
    states = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in states:
        ours = container.get("name") in (CONTAINER, FETCH) and not container.get("ready")
        if ours and (failure := _container_failure(name, container)):
            return failure
    if warning and status.get("phase") == "Pending":
        reason, _, message = warning.partition(": ")
        return ServerFailure(pod=name, reason="MountFailed" if reason == "FailedMount" else reason, message=message)
    return None


def _container_failure(pod: str, container: Object) -> ServerFailure | None:
    state = container.get("state") or {}
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if ended and ended.get("exitCode") != 0:
        return _crash(pod, ended, "DownloadFailed" if container["name"] == FETCH else "ServerCrashed")
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason"), str(waiting.get("message", ""))
    if reason in _IMAGE:
        return ServerFailure(pod=pod, reason="ImagePullFailed", message=message)
    if reason == "CreateContainerConfigError":
        return ServerFailure(pod=pod, reason="SecretMissing" if "secret" in message else reason, message=message)
    if reason not in (None, "ContainerCreating", "PodInitializing", "CrashLoopBackOff"):
        return ServerFailure(pod=pod, reason=reason, message=message)
    return None


def _crash(pod: str, ended: Object, otherwise: str) -> ServerFailure:
    text = ended.get("message") or ""
    try:
        told: dict[str, Any] = json.loads(text).get("failure") or {}
    except (ValueError, AttributeError):
        told = {}
    reason = told.get("reason") or ("OOMKilled" if ended.get("reason") == "OOMKilled" else otherwise)
    message = told.get("message") or text or f"exit code {ended.get('exitCode')}"
    return ServerFailure(
        pod=pod,
        reason=str(reason),
        message=str(message)[:1024],
        exit_code=ended.get("exitCode"),
        log_tail=str(told["logTail"])[-2048:] if told.get("logTail") else None,
    )
