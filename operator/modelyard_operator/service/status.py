"""The status of a ModelService, from what was observed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from modelyard_operator.conditions import Conditions
from modelyard_operator.lineage import Unresolved
from modelyard_operator.objects import LABEL_COMPONENT, ROUTER
from modelyard_operator.plan import Children, Object, Urgency
from modelyard_operator.service.acceptance import refusal_of
from modelyard_operator.service.autoscaler_status import Word, scaling_word
from modelyard_operator.service.checks import BUILTIN, LANGUAGE_TASKS, unused_settings
from modelyard_operator.service.failures import LOADING, ServerFailure
from modelyard_operator.service.render import selector_of
from modelyard_operator.service.rollout import Rollout
from modelyard_operator.service.runtime import GRPC_PORT
from modelyard_operator.service.spec import ModelServiceSpec


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look at a service: what was observed, and what was decided from it."""

    service: Object
    spec: ModelServiceSpec
    model: Object | Unresolved
    rollout: Rollout
    revisions: Mapping[str, Object]
    """The Deployments by revision."""
    replicas: int
    """Servers that are wanted of what serves."""
    scale: Object | None
    """`status.scaling`; None where the operator does not scale."""
    failure: ServerFailure | None
    children: Children
    now: datetime

    @property
    def name(self) -> str:
        return str(self.service["metadata"]["name"])

    @property
    def front(self) -> dict[str, str] | None:
        """Whom the service's own Service names, as last seen; None where there is none."""
        for found in self.children.services:
            if found["metadata"]["name"] == self.name:
                return dict(found["spec"]["selector"])
        return None

    @property
    def routers(self) -> list[Object]:
        """The routers' Deployment, if there is one."""
        named = self.children.deployments
        return [d for d in named if (d["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == ROUTER]

    def deployment_status(self, revision: str | None) -> Object:
        found = self.revisions.get(revision or "")
        return dict(found.get("status") or {}) if found is not None else {}

    @property
    def proven(self) -> bool:
        """Whether servers of the wanted revision have loaded the model and answered as it should: one is enough."""
        return self.rollout.ready or bool(self.deployment_status(self.rollout.revision).get("availableReplicas"))

    @property
    def asleep(self) -> bool:
        """Whether there are no servers because nobody asks for any."""
        return self.replicas == 0 and not self.spec.suspend and self.scale is not None

    @property
    def waking(self) -> bool:
        """Whether the first servers are on their way, and what served before is what is wanted."""
        serving, before = self.rollout.serving, self.service.get("status") or {}
        held = self.front is not None and LABEL_COMPONENT in self.front and self.scale is not None
        proven = serving == self.rollout.revision == before.get("latestReadyRevision")
        has_none = not self.deployment_status(serving).get("readyReplicas")
        return held and proven and has_none and self.replicas > 0 and self.failure is None

    @property
    def router_pods(self) -> list[Object]:
        pods = self.children.pods
        return [p for p in pods if (p["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == ROUTER]


def make_status(seen: Seen) -> Object:
    """The whole status; nothing in it depends on `now` but transition times."""
    service, spec, rollout, failure = seen.service, seen.spec, seen.rollout, seen.failure
    before = service.get("status") or {}
    meta = service["metadata"]
    generation = meta.get("generation", 1)
    marks = Conditions(before.get("conditions") or (), generation, seen.now)
    _set_conditions(marks, seen)
    served = seen.deployment_status(rollout.serving)
    status: Object = {
        "observedGeneration": generation,
        "conditions": marks.as_list(),
        "phase": _phase(marks, seen),
        "replicas": served.get("replicas") or 0,
        "readyReplicas": served.get("readyReplicas") or 0,
        "display": {
            "model": _model_words(spec, seen.model),
            "ready": f"{served.get('readyReplicas') or 0}/{seen.replicas}",
        },
    }
    if isinstance(seen.model, dict):
        status["model"] = seen.model
    elif "model" in before and rollout.serving:
        status["model"] = before["model"]
    if rollout.revision:
        status["latestCreatedRevision"] = rollout.revision
    latest_ready = rollout.revision if rollout.ready else before.get("latestReadyRevision")
    if latest_ready:
        status["latestReadyRevision"] = latest_ready
    if rollout.serving:
        shares = [{"revisionName": name, "percent": percent} for name, percent in rollout.shares]
        status |= {
            "url": f"http://{meta['name']}.{meta['namespace']}.svc",
            "selector": ",".join(f"{k}={v}" for k, v in selector_of(meta["name"], rollout.serving).items()),
            "traffic": shares,
        }
        if spec.runtime == BUILTIN:
            status["grpcUrl"] = f"{meta['name']}.{meta['namespace']}.svc:{GRPC_PORT}"
        if isinstance(seen.model, dict) and seen.model.get("task") in LANGUAGE_TASKS:
            status["openaiUrl"] = f"{status['url']}/v1"
        status["display"]["traffic"] = ", ".join(f"{name} {percent}%" for name, percent in rollout.shares)
    if rollout.canary is not None:
        status["canary"] = rollout.canary
    if seen.scale is not None:
        status["scaling"] = seen.scale
    download = seen.children.load.download if seen.children.load is not None else None
    if download is not None and not rollout.ready:
        status["download"] = {"doneBytes": download.done_bytes}
        if download.total_bytes is not None:
            status["download"]["totalBytes"] = download.total_bytes
    if failure is not None:
        status["lastFailure"] = _failure_fields(failure)
    elif "lastFailure" in before and not rollout.ready:
        status["lastFailure"] = before["lastFailure"]
    return status


def _set_conditions(marks: Conditions, seen: Seen) -> None:
    rollout, failure = seen.rollout, seen.failure
    task = str(seen.model.get("task") or "") if isinstance(seen.model, dict) else ""
    unused = unused_settings(seen.spec, task) if task and seen.spec.runtime == BUILTIN else []
    marks.set("Accepted", True, "Valid", "; ".join(["the spec is valid", *unused]))
    if isinstance(seen.model, Unresolved):
        marks.set("ModelResolved", False, seen.model.reason, seen.model.message)
    else:
        marks.set("ModelResolved", True, "Resolved", str(seen.model["uri"]))
    reason, message = _why_not_ready(seen)
    done = "ScaledToZero" if seen.asleep else "AllReplicasReady"
    marks.set("PredictorReady", rollout.ready, done if rollout.ready else reason, message)
    if failure is not None and failure.reason in LOADING and not rollout.ready:
        marks.set("ModelLoaded", False, failure.reason)
    else:
        marks.set("ModelLoaded", seen.proven or None, "Loaded" if seen.proven else _waiting(seen))
    _set_validated(marks, seen)
    routed = rollout.serving is not None and seen.front is not None
    words = "ServicePointsAtRouter" if seen.front and LABEL_COMPONENT in seen.front else "ServicePointsAtRevision"
    none = (False, "NoService", f"Service {seen.name} is not there") if rollout.serving else (False, "NoRevision", "")
    refusal = _refused_outside(seen) if routed else none
    marks.set("RoutesReady", *(refusal or (True, words, rollout.serving or "")))
    _set_canary(marks, rollout)
    _set_scaling(marks, seen)
    _set_ready(marks, seen, routed, reason, message)


def _waiting(seen: Seen) -> str:
    return "Suspended" if seen.spec.suspend else "Waiting"


def _set_validated(marks: Conditions, seen: Seen) -> None:
    """Of the bundled server alone: others know no golden answers."""
    validation, failure = seen.spec.validation, seen.failure
    if validation.golden == "Off" or seen.spec.runtime != BUILTIN:
        return
    if failure is not None and failure.reason == "GoldenMismatch" and not seen.rollout.ready:
        marks.set("Validated", False, failure.reason, failure.message)
    elif not seen.proven:
        marks.set("Validated", None, _waiting(seen))
    elif validation.golden == "Required" or _has_golden_answers(seen.model):
        marks.set("Validated", True, "GoldenAnswersReproduced")
    else:
        message = "golden answers were reproduced if the artifact has any; golden: Required refuses one without"
        marks.set("Validated", True, "ReproducedIfPresent", message)


def _has_golden_answers(model: Object | Unresolved) -> bool:
    """Every artifact of a bundled trainer has; what others left may have none."""
    return isinstance(model, dict) and bool(model.get("task"))


def _set_scaling(marks: Conditions, seen: Seen) -> None:
    word: Word | None = scaling_word(seen.name, seen.spec.scaling, seen.children)
    if seen.scale is not None:
        word = True, seen.scale["reason"], f"{seen.scale['desired']} servers: {seen.scale['message']}"
    if word is not None:
        marks.set("ScalingReady", *word)


def _refused_outside(seen: Seen) -> tuple[bool | None, str, str] | None:
    """What is the matter with the way in from outside, if it is one that gateways have to accept."""
    gateway = seen.spec.route.gateway_ref
    if seen.spec.route.mode != "HTTPRoute" or gateway is None:
        return None
    refused = seen.children.refusals.get(f"HTTPRoute/{seen.name}")
    if refused is not None:
        return False, "ChildRefused", refused
    return refusal_of(next((c for c in seen.children.extras if c["kind"] == "HTTPRoute"), None), gateway.name)


def _set_canary(marks: Conditions, rollout: Rollout) -> None:
    canary = rollout.canary
    if canary is None:
        return
    told = f"revision {canary['revisionName']}: {canary['message']}"
    if canary["verdict"] == "Progressing" and rollout.serving != rollout.revision:
        marks.set("CanaryReady", None, "CanaryProgressing", f"revision {canary['revisionName']}, step {canary['step']}")
    elif canary["verdict"] == "Promoted":
        marks.set("CanaryReady", True, "CanaryPromoted", told)
    elif canary["verdict"] == "RolledBack":
        marks.set("CanaryReady", False, "CanaryRolledBack", told)


def _set_ready(marks: Conditions, seen: Seen, routed: bool, reason: str, message: str) -> None:
    rollout, spec = seen.rollout, seen.spec
    served = seen.deployment_status(rollout.serving)
    ready = routed and not spec.suspend and (bool(served.get("readyReplicas")) or (seen.asleep and rollout.ready))
    refused = "; ".join(f"{name}: {text}" for name, text in sorted(seen.children.refusals.items()))
    if ready and rollout.serving == rollout.revision:
        words = "no servers; the next request starts one" if seen.asleep else f"revision {rollout.serving} serves"
        marks.set("Ready", True, "ScaledToZero" if seen.asleep else "Serving", words)
    elif seen.waking:
        marks.set("Ready", True, "Waking", "requests are held until the first server is ready")
    elif ready:
        marks.set("Ready", True, "ServingPreviousRevision", f"revision {rollout.serving} serves; {reason}: {message}")
    else:
        marks.set("Ready", False, "Suspended" if spec.suspend else reason, message)
    model = seen.model
    final = isinstance(model, Unresolved) and (model.final or model.reason == "TrainingNotFound")
    trouble = final or seen.failure is not None or rollout.rolled_back
    stalled = refused or (message if trouble else "")
    marks.set("Stalled", bool(stalled), reason if stalled else "NotStalled", stalled)
    starting = not (rollout.ready or stalled or spec.suspend)
    marks.set("Reconciling", starting, "StartingServers" if starting else "Settled")


def _why_not_ready(seen: Seen) -> tuple[str, str]:
    rollout, children = seen.rollout, seen.children
    if isinstance(seen.model, Unresolved):
        return seen.model.reason, seen.model.message
    if rollout.rolled_back and rollout.canary is not None:
        return "CanaryRolledBack", f"revision {rollout.revision}: {rollout.canary['message']}"
    if seen.failure is not None:
        return seen.failure.reason, f"{seen.failure.pod}: {seen.failure.message}"
    if children.refusals:
        return "ChildRefused", "; ".join(f"{name}: {text}" for name, text in sorted(children.refusals.items()))
    if seen.spec.suspend:
        return "Suspended", "spec.suspend is true"
    if rollout.is_split and rollout.canary is not None:
        return "CanaryProgressing", f"revision {rollout.revision} is at step {rollout.canary['step']}"
    have = seen.deployment_status(rollout.revision).get("availableReplicas") or 0
    words = "no request asks for a server" if seen.asleep else f"{have} of {seen.replicas} servers are ready"
    return ("AllReplicasReady" if rollout.ready else "Loading"), words


def _phase(marks: Conditions, seen: Seen) -> str:
    if seen.spec.suspend:
        return "Suspended"
    if marks.is_true("Ready"):
        if seen.asleep or seen.waking:
            return "ScaledToZero" if seen.asleep else "Waking"
        return "Ready" if seen.rollout.ready or seen.rollout.rolled_back else "Updating"
    if marks.is_true("Stalled"):
        return "Stalled"
    return "Loading" if seen.rollout.revision else "Pending"


def _failure_fields(failure: ServerFailure) -> Object:
    fields = {
        "podName": failure.pod,
        "reason": failure.reason,
        "exitCode": failure.exit_code,
        "message": failure.message,
        "logTail": failure.log_tail,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _model_words(spec: ModelServiceSpec, model: Object | Unresolved) -> str:
    ref = spec.model.source.training_ref
    name = f"{ref.name}/{ref.artifact}" if ref is not None else spec.model.source.uri
    if isinstance(model, dict) and model.get("digest"):
        return f"{name}@{model['digest'].removeprefix('sha256:')[:7]}"
    return name


def urgency_of(before: Object, after: Object) -> Urgency:
    """The way to Ready is told within a second, in as few writes as possible; figures later, all else at once."""
    old = {c["type"]: (c["status"], c["reason"]) for c in before.get("conditions") or ()}
    new = {c["type"]: (c["status"], c["reason"]) for c in after.get("conditions") or ()}
    slow = ("canary", "download")
    if {k: v for k, v in before.items() if k not in slow} == {k: v for k, v in after.items() if k not in slow}:
        return Urgency.LATER
    if after.get("phase") in ("Pending", "Loading") or (old == new and before.get("phase") == after.get("phase")):
        return Urgency.SOON
    return Urgency.NOW
