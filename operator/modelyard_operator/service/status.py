"""The status of a ModelService, from what was observed. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard_operator.conditions import Conditions
from modelyard_operator.objects import LABEL_REVISION
from modelyard_operator.plan import Children, Object, Urgency
from modelyard_operator.service.model import Unresolved
from modelyard_operator.service.render import CONTAINER, selector_of
from modelyard_operator.service.spec import ModelServiceSpec

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_LOADING = ("ArtifactMissing", "DigestMismatch", "ModelLoadFailed", "GoldenMismatch", "InvalidConfig")
"""What a bundled server says in its termination message when it cannot serve its model."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Revisions and who has the traffic."""

    revision: str | None
    """The revision of the spec as it is now; None while no model is resolved."""
    serving: str | None
    """The revision that the Service points at."""
    ready: bool
    """Whether all pods of `revision` are available."""


@dataclass(frozen=True, kw_only=True)
class ServerFailure:
    """Why a pod of the new revision does not serve."""

    pod: str
    reason: str
    message: str
    exit_code: int | None = None
    log_tail: str | None = None


def make_status(
    service: Object,
    spec: ModelServiceSpec,
    model: Object | Unresolved,
    rollout: Rollout,
    children: Children,
    now: datetime,
) -> Object:
    """The whole status; nothing in it depends on `now` but transition times."""
    before = service.get("status") or {}
    meta = service["metadata"]
    generation = meta.get("generation", 1)
    marks = Conditions(before.get("conditions") or (), generation, now)
    failure = find_failure(children, rollout.revision)
    _set_conditions(marks, spec, model, rollout, children, failure)
    served = _deployment_status(children, rollout.serving)
    status: Object = {
        "observedGeneration": generation,
        "conditions": marks.as_list(),
        "phase": _phase(marks, spec, rollout),
        "replicas": served.get("replicas") or 0,
        "readyReplicas": served.get("readyReplicas") or 0,
        "display": {
            "model": _model_words(spec, model),
            "ready": f"{served.get('readyReplicas') or 0}/{0 if spec.suspend else spec.replicas}",
        },
    }
    if isinstance(model, dict):
        status["model"] = model
    elif "model" in before and rollout.serving:
        status["model"] = before["model"]
    if rollout.revision:
        status["latestCreatedRevision"] = rollout.revision
    latest_ready = rollout.revision if rollout.ready else before.get("latestReadyRevision")
    if latest_ready:
        status["latestReadyRevision"] = latest_ready
    if rollout.serving:
        status |= {
            "url": f"http://{meta['name']}.{meta['namespace']}.svc",
            "selector": ",".join(f"{k}={v}" for k, v in selector_of(meta["name"], rollout.serving).items()),
            "traffic": [{"revisionName": rollout.serving, "percent": 100}],
        }
        status["display"]["traffic"] = f"{rollout.serving} 100%"
    if failure is not None:
        status["lastFailure"] = _failure_fields(failure)
    elif "lastFailure" in before and not rollout.ready:
        status["lastFailure"] = before["lastFailure"]
    return status


def _set_conditions(
    marks: Conditions,
    spec: ModelServiceSpec,
    model: Object | Unresolved,
    rollout: Rollout,
    children: Children,
    failure: ServerFailure | None,
) -> None:
    marks.set("Accepted", True, "Valid", "the spec is valid")
    if isinstance(model, Unresolved):
        marks.set("ModelResolved", False, model.reason, model.message)
    else:
        marks.set("ModelResolved", True, "Resolved", str(model["uri"]))
    reason, message = _why_not_ready(spec, model, rollout, children, failure)
    marks.set("PredictorReady", rollout.ready, "AllReplicasReady" if rollout.ready else reason, message)
    loaded = rollout.ready or (False if failure is not None and failure.reason in _LOADING else None)
    marks.set(
        "ModelLoaded", loaded, "Loaded" if loaded else (failure.reason if loaded is False and failure else "Waiting")
    )
    golden = failure is not None and failure.reason == "GoldenMismatch"
    if spec.validation.golden != "Off":
        validated = rollout.ready or (False if golden else None)
        word = "GoldenAnswersReproduced" if rollout.ready else "GoldenMismatch" if golden else "Waiting"
        marks.set("Validated", validated, word, failure.message if golden and failure else "")
    serving = rollout.serving is not None and bool(children.services)
    marks.set(
        "RoutesReady", serving, "ServicePointsAtRevision" if serving else "NoRevisionReady", rollout.serving or ""
    )
    served = _deployment_status(children, rollout.serving)
    ready = serving and bool(served.get("readyReplicas")) and not spec.suspend
    updating = ready and rollout.serving != rollout.revision
    refused = "; ".join(f"{name}: {text}" for name, text in sorted(children.refusals.items()))
    if ready and not updating:
        marks.set("Ready", True, "Serving", f"revision {rollout.serving} serves")
    elif updating:
        marks.set("Ready", True, "ServingPreviousRevision", f"revision {rollout.serving} serves; {reason}: {message}")
    else:
        marks.set("Ready", False, "Suspended" if spec.suspend else reason, message)
    final = isinstance(model, Unresolved) and (model.final or model.reason == "TrainingNotFound")
    stalled = refused or (message if final or failure is not None else "")
    marks.set("Stalled", bool(stalled), reason if stalled else "NotStalled", stalled)
    marks.set(
        "Reconciling", not (rollout.ready or stalled or spec.suspend), "Settled" if rollout.ready else "StartingServers"
    )


def _why_not_ready(
    spec: ModelServiceSpec,
    model: Object | Unresolved,
    rollout: Rollout,
    children: Children,
    failure: ServerFailure | None,
) -> tuple[str, str]:
    if isinstance(model, Unresolved):
        return model.reason, model.message
    if failure is not None:
        return failure.reason, f"{failure.pod}: {failure.message}"
    if children.refusals:
        return "ChildRefused", "; ".join(f"{name}: {text}" for name, text in sorted(children.refusals.items()))
    if spec.suspend:
        return "Suspended", "spec.suspend is true"
    status = _deployment_status(children, rollout.revision)
    have, want = status.get("availableReplicas") or 0, spec.replicas
    return ("AllReplicasReady" if rollout.ready else "Loading"), f"{have} of {want} servers are ready"


def find_failure(children: Children, revision: str | None) -> ServerFailure | None:
    """The first pod of the revision that says why it does not serve."""
    for pod in children.pods:
        if (pod["metadata"].get("labels") or {}).get(LABEL_REVISION) != revision or revision is None:
            continue
        if failure := _pod_failure(pod, children.pod_warnings.get(pod["metadata"]["name"], "")):
            return failure
    return None


def _pod_failure(pod: Object, warning: str) -> ServerFailure | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return ServerFailure(pod=name, reason="Unschedulable", message=condition.get("message", ""))
    for container in status.get("containerStatuses") or ():
        if container.get("name") != CONTAINER or container.get("ready"):
            continue
        state = container.get("state") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
        if ended and ended.get("exitCode") != 0:
            return _crash(name, ended)
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in _IMAGE:
            return ServerFailure(pod=name, reason="ImagePullFailed", message=waiting.get("message", ""))
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing", "CrashLoopBackOff"):
            return ServerFailure(pod=name, reason=waiting["reason"], message=waiting.get("message", ""))
    if warning and status.get("phase") == "Pending":
        reason, _, message = warning.partition(": ")
        return ServerFailure(pod=name, reason="MountFailed" if reason == "FailedMount" else reason, message=message)
    return None


def _crash(pod: str, ended: Object) -> ServerFailure:
    text = ended.get("message") or ""
    try:
        told: dict[str, Any] = json.loads(text).get("failure") or {}
    except (ValueError, AttributeError):
        told = {}
    reason = told.get("reason") or ("OOMKilled" if ended.get("reason") == "OOMKilled" else "ServerCrashed")
    message = told.get("message") or text or f"exit code {ended.get('exitCode')}"
    return ServerFailure(
        pod=pod,
        reason=str(reason),
        message=str(message)[:1024],
        exit_code=ended.get("exitCode"),
        log_tail=str(told["logTail"])[-2048:] if told.get("logTail") else None,
    )


def _failure_fields(failure: ServerFailure) -> Object:
    fields = {
        "podName": failure.pod,
        "reason": failure.reason,
        "exitCode": failure.exit_code,
        "message": failure.message,
        "logTail": failure.log_tail,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _deployment_status(children: Children, revision: str | None) -> Object:
    for deployment in children.deployments:
        if (deployment["metadata"].get("labels") or {}).get(LABEL_REVISION) == revision:
            return dict(deployment.get("status") or {})
    return {}


def _phase(marks: Conditions, spec: ModelServiceSpec, rollout: Rollout) -> str:
    if spec.suspend:
        return "Suspended"
    if marks.is_true("Ready"):
        return "Ready" if rollout.ready else "Updating"
    if marks.is_true("Stalled"):
        return "Stalled"
    return "Loading" if rollout.revision else "Pending"


def _model_words(spec: ModelServiceSpec, model: Object | Unresolved) -> str:
    ref = spec.model.source.training_ref
    name = f"{ref.name}/{ref.artifact}" if ref is not None else spec.model.source.uri
    if isinstance(model, dict) and model.get("digest"):
        return f"{name}@{model['digest'].removeprefix('sha256:')[:7]}"
    return name


def urgency_of(before: Object, after: Object) -> Urgency:
    """The way to Ready is told within a second, in as few writes as possible; everything else at once."""
    old = {c["type"]: (c["status"], c["reason"]) for c in before.get("conditions") or ()}
    new = {c["type"]: (c["status"], c["reason"]) for c in after.get("conditions") or ()}
    if after.get("phase") in ("Pending", "Loading") or (old == new and before.get("phase") == after.get("phase")):
        return Urgency.SOON
    return Urgency.NOW
