"""The status of a ModelTraining, from what was observed. Pure.

`phase` and `display` are for people and derived from the conditions; programs read the conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard_operator import conditions
from modelyard_operator.conditions import Conditions
from modelyard_operator.lineage import Unresolved
from modelyard_operator.objects import format_duration, format_time
from modelyard_operator.plan import Object, Report, Urgency
from modelyard_operator.training import ledger
from modelyard_operator.training.checks import unused_settings
from modelyard_operator.training.failure import Failure
from modelyard_operator.training.gang import Gang
from modelyard_operator.training.parameters import defaults_of
from modelyard_operator.training.rendezvous import processes_per_node
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.spec import ModelTrainingSpec
from modelyard_operator.training.stall import NO_PROGRESS
from modelyard_operator.training.waiting import refused
from modelyard_operator.training.waiting import waiting as waiting_for

KEPT = (
    "startTime",
    "completionTime",
    "attempt",
    "restarts",
    "restartsCountTowardsMax",
    "noProgressRestarts",
    "nextAttemptTime",
    "memoryPerNode",
    "defaults",
    "model",
    "progress",
    "checkpoint",
    "lastFailure",
    "artifacts",
)
"""What a status carries over from the one before: decisions and facts that no child shows any more."""

_WAITING = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "FailedMount": "MountFailed",
    "FailedAttachVolume": "MountFailed",
}
_FATAL_WAITING = (
    "ImagePullFailed",
    "MountFailed",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
_QUIET = ("Scheduled", "StorageReady", "Reconciling")
"""Conditions on the way to Running: a change in these alone may wait a second for the next."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the reconcile found out beyond the pods: where the training stands in its life."""

    suspended: bool = False
    restarting: str = ""
    """The reason of the failure after which all nodes begin again."""
    why_restarting: str = ""
    finished: bool | None = None
    """True after success, False after failure, None while there is something to do."""
    reason: str = ""
    message: str = ""
    stalled: str = ""
    """That it runs and does not move, in words."""
    waiting: Unresolved | None = None
    """What is missing before any pod is made."""


def make_status(situation: Situation, step: Step) -> Object:
    """The whole status. Nothing in it depends on `now` but the times at which something changed."""
    before, gang, spec = situation.status, situation.gang, situation.spec
    generation = situation.training["metadata"].get("generation", 1)
    marks = Conditions(before.get("conditions") or (), generation, situation.now)
    _set_conditions(marks, situation, step)
    status: Object = {
        "observedGeneration": generation,
        **{name: before[name] for name in KEPT if name in before},
        "conditions": marks.as_list(),
        "phase": phase_of(marks),
    }
    status.setdefault("attempt", gang.attempt)
    status.setdefault("restarts", 0)
    if spec.trainer.builtin:
        status.setdefault("defaults", defaults_of(spec.trainer.builtin))
    status["nodes"] = {
        "desired": gang.size,
        "ready": gang.running,
        "failed": gang.failed,
        "worldSize": gang.size * processes_per_node(spec),
    }
    if gang.started == gang.size and "startTime" not in status:
        status["startTime"] = format_time(situation.now)
    if situation.report is not None and situation.report.has_begun and step.finished is None:
        status |= progress_fields(situation.report)
    if checkpoint := ledger.newest(situation):
        status["checkpoint"] = checkpoint
    status["display"] = display_of(spec, status, gang)
    return status


def _set_conditions(marks: Conditions, situation: Situation, step: Step) -> None:
    gang, children = situation.gang, situation.children
    marks.set("Accepted", True, "Valid", "; ".join(["the spec is valid", *unused_settings(situation.spec)]))
    waiting = [(_WAITING.get(reason, reason), text) for reason, text in waiting_for(situation)]
    active = not step.suspended and step.finished is None and not step.restarting
    _set_scheduling(marks, situation, waiting, step)
    running = active and gang.running > 0 and gang.running + gang.succeeded == gang.size
    reason = "AllNodesRunning" if running else step.reason or "NodesNotRunning"
    marks.set("Running", running, reason, f"{gang.running} of {gang.size} nodes run")
    marks.set("Suspended", step.suspended, "Suspended" if step.suspended else "NotSuspended")
    if step.restarting:
        marks.set("Restarting", True, step.restarting, step.why_restarting)
    elif situation.was("Restarting") and not running and active:
        marks.keep("Restarting")
    else:
        marks.set("Restarting", False, "NotRestarting")
    if children.report is not None or situation.was("ProgressMade"):
        marks.set("ProgressMade", True, "ProgressReported", "rank 0 reports progress")
    _set_stalled(marks, refused(situation), waiting if active else [], step)
    settled = step.finished is not None or step.suspended or gang.scheduled == gang.size or marks.is_true("Stalled")
    settled = settled or marks.is_true("Queued")
    marks.set("Reconciling", not settled, "Settled" if settled else "StartingPods")
    active_reason = marks.reason("Stalled") if marks.is_true("Stalled") else step.reason or "Active"
    marks.set("Succeeded", step.finished, step.reason if step.finished is not None else active_reason, step.message)
    marks.set("Finished", step.finished is not None, step.reason or "Active", step.message)


def _set_stalled(marks: Conditions, refusal: str, waiting: list[tuple[str, str]], step: Step) -> None:
    fatal = next(((r, t) for r, t in waiting if r in (*_FATAL_WAITING, "Unschedulable")), None)
    if step.stalled:
        marks.set("Stalled", True, NO_PROGRESS, step.stalled)
    elif refusal:
        marks.set("Stalled", True, "Blocked", refusal)
    elif step.waiting and step.waiting.reason != "TrainingNotFinished":
        marks.set("Stalled", True, step.waiting.reason, step.waiting.message)
    elif fatal:
        marks.set("Stalled", True, *fatal)
    else:
        marks.set("Stalled", False, "NotStalled")


def _set_scheduling(marks: Conditions, situation: Situation, waiting: list[tuple[str, str]], step: Step) -> None:
    """Queued, Scheduled and StorageReady; what is missing is named in the scheduler's own words."""
    gang, spec = situation.gang, situation.spec
    if step.finished is not None:
        marks.keep("Scheduled", "StorageReady")
        return
    if gang.queued:
        queue = spec.scheduling.queue_name
        marks.set(
            "Queued", True, "WaitingForQuota", f"the pods wait in queue {queue}" if queue else "the pods are gated"
        )
    elif conditions.find(situation.status, "Queued"):
        marks.set("Queued", False, "NotQueued")
    scheduled = bool(gang.pods) and gang.scheduled == gang.size
    unplaced = [(r, t) for r, t in waiting if r in ("Unschedulable", "SchedulingGated", "SchedulerError")]
    if scheduled:
        marks.set("Scheduled", True, "AllNodesScheduled", f"{gang.size} of {gang.size} nodes have a machine")
    else:
        reason, text = unplaced[0] if unplaced else ("Waiting", f"{gang.scheduled} of {gang.size} nodes have a machine")
        if step.waiting:
            reason, text = step.waiting.reason, step.waiting.message
        marks.set("Scheduled", False, reason, text)
    storage = [(r, t) for r, t in waiting if r == "MountFailed" or "persistentvolumeclaim" in t.lower()]
    if scheduled and not storage:
        marks.set("StorageReady", True, "Bound", f"output: {spec.output.uri or 'the claim of this training'}")
    elif storage:
        marks.set("StorageReady", False, "ClaimNotReady", storage[0][1])
    else:
        marks.set("StorageReady", None, "Waiting", "bound when the first pod has a machine")


def phase_of(marks: Conditions) -> str:
    if marks.is_true("Finished"):
        return "Succeeded" if marks.is_true("Succeeded") else "Failed"
    for type_ in ("Suspended", "Stalled", "Queued", "Restarting", "Running", "Scheduled"):
        if marks.is_true(type_):
            return type_
    return "Pending"


def progress_fields(report: Report) -> Object:
    """`progress` of a status from the last post: TrainJob's figures and, if sent, ours."""
    told, ours = report.trainer_status, report.progress
    metrics = {str(m["name"]): str(m["value"]) for m in told.get("metrics") or () if "name" in m and "value" in m}
    progress: dict[str, Any] = {
        "percentage": told.get("progressPercentage"),
        "estimatedRemainingSeconds": told.get("estimatedRemainingSeconds"),
        "step": ours.get("step"),
        "totalSteps": ours.get("totalSteps"),
        "epoch": ours.get("epoch"),
        "samplesPerSecond": ours.get("samplesPerSecond"),
        "stepSeconds": ours.get("stepSeconds"),
        "lastUpdateTime": format_time(report.advanced),
        "metrics": metrics or None,
    }
    return {"progress": {k: v for k, v in progress.items() if v is not None}}


def display_of(spec: ModelTrainingSpec, status: Mapping[str, Any], gang: Gang) -> Object:
    """The columns of `kubectl get` that no plain path into the status can show."""
    progress = status.get("progress") or {}
    display = {
        "trainer": spec.trainer.builtin or "image",
        "nodes": f"{gang.running}/{gang.size}",
        "loss": (progress.get("metrics") or {}).get("loss", ""),
    }
    if (percentage := progress.get("percentage")) is not None:
        display["progress"] = f"{percentage}%"
    remaining = progress.get("estimatedRemainingSeconds")
    if remaining is not None and status["phase"] == "Running":
        display["eta"] = format_duration(remaining)
    return {name: text for name, text in display.items() if text}


def failure_fields(failure: Failure, attempt: int, rule: str, action: str, now: datetime) -> Object:
    """`lastFailure` of a status."""
    fields = {
        "attempt": attempt,
        "time": format_time(failure.at or now),
        "rank": failure.rank,
        "podName": failure.pod,
        "nodeName": failure.node,
        "exitCode": failure.exit_code,
        "signal": failure.signal,
        "reason": failure.reason,
        "rule": rule,
        "action": action,
        "exceptionType": failure.exception_type,
        "message": failure.message or None,
        "logTail": failure.log_tail,
        "stacks": failure.stacks,
        "step": failure.step,
    }
    return {name: value for name, value in fields.items() if value is not None}


def urgency_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> Urgency:
    """How soon this change has to be written."""
    if before.get("phase") != after.get("phase"):
        return Urgency.SOON if after.get("phase") in ("Pending", "Scheduled") else Urgency.NOW
    old = {c["type"]: (c["status"], c["reason"]) for c in before.get("conditions") or ()}
    new = {c["type"]: (c["status"], c["reason"]) for c in after.get("conditions") or ()}
    changed = {type_ for type_ in old.keys() | new.keys() if old.get(type_) != new.get(type_)}
    if not changed:
        shown = ("nodes", "observedGeneration")
        return Urgency.SOON if any(before.get(n) != after.get(n) for n in shown) else Urgency.LATER
    return Urgency.SOON if changed <= set(_QUIET) else Urgency.NOW
