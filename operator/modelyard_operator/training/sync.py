"""`sync` of a ModelTraining: observed parent and children in, complete desired state out. Pure.

The life of a training, in the order in which it is looked at: refused, finished, suspended, resumed, waiting for its
first weights, succeeded, failed, another size, on its way. Each stage that decides anything has a file of its own.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from modelyard_operator.objects import format_time
from modelyard_operator.plan import Children, Event, Object, Plan, Report
from modelyard_operator.refusal import refuse
from modelyard_operator.schema import InvalidSpec
from modelyard_operator.training import deadlines, elastic, initial
from modelyard_operator.training.active import active
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.failing import judge
from modelyard_operator.training.failure import termination_record
from modelyard_operator.training.gang import classify, is_active
from modelyard_operator.training.goodput import accounted
from modelyard_operator.training.removal import FAILED_GANG_GRACE_SECONDS, next_look, removals
from modelyard_operator.training.restart import failed
from modelyard_operator.training.shape import of_attempt
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.spec import CONTROLLER, parse
from modelyard_operator.training.status import Step, make_status, progress_fields
from modelyard_operator.training.suspension import resumed, suspended

KEPT_CONDITIONS = (
    "Suspended",
    "Queued",
    "Scheduled",
    "Running",
    "Restarting",
    "StorageReady",
    "ProgressMade",
    "Succeeded",
    "Finished",
)


def sync(training: Object, children: Children, now: datetime, surroundings: Surroundings) -> Plan:
    """The plan for one ModelTraining, from everything observed of it."""
    if (training.get("spec") or {}).get("managedBy", CONTROLLER) != CONTROLLER:
        return Plan()
    status = training.get("status") or {}
    try:
        written = parse(training)
    except InvalidSpec as invalid:
        return refuse(training, invalid, now, KEPT_CONDITIONS)
    spec = of_attempt(written, status)
    gang = classify(training, children.pods, int(status.get("attempt") or 1), spec.trainer.num_nodes)
    if gang.ahead:
        return Plan(requeue_after=0.5)  # the status at hand is older than the pods: the watch will bring the newer
    situation = Situation(training=training, spec=spec, written=written, gang=gang, children=children, now=now)
    plan = _stage(situation, surroundings)
    return plan if plan.status is None else replace(plan, status=accounted(situation, plan.status))


def _stage(situation: Situation, surroundings: Surroundings) -> Plan:
    """The plan of the stage of its life that the training is in."""
    if situation.was("Finished"):
        return _finished(situation)
    if situation.spec.suspend:
        return suspended(situation)
    if situation.was("Suspended"):
        return resumed(situation)
    if (waiting := initial.settle(situation)) is not None:
        return waiting
    if situation.gang.succeeded == situation.gang.size:
        return _succeeded(situation)
    verdict = judge(situation)
    if verdict.failure is not None:
        return failed(situation, verdict.failure)
    return elastic.resize(situation) or active(situation, surroundings, verdict)


def _finished(situation: Situation) -> Plan:
    """Terminal is terminal: pods go by cleanPodPolicy, the object by its time to live, and nothing is started."""
    generation = situation.training["metadata"].get("generation", 1)
    status = {**situation.status, "observedGeneration": generation}
    pods = situation.gang.everything
    going = {"All": pods, "Running": tuple(p for p in pods if is_active(p)), "None": ()}
    doomed = going[situation.spec.run_policy.clean_pod_policy]
    left = deadlines.time_to_live(situation.spec, status, situation.now)
    looks = (left, next_look(doomed, situation.now))
    return Plan(
        status=status,
        delete=removals(doomed, FAILED_GANG_GRACE_SECONDS, situation.now),
        delete_parent=left is not None and left <= 0,
        requeue_after=min((s for s in looks if s is not None), default=None),
    )


def _succeeded(situation: Situation) -> Plan:
    record, now = termination_record(situation.gang.pods[0]), situation.now
    result = record.get("result") or {}
    message = f"all {situation.gang.size} nodes ended with exit code 0"
    status = make_status(situation, Step(finished=True, reason="Completed", message=message))
    status["completionTime"] = format_time(now)
    status["progress"] = _final_progress(status, result, situation.children.report, now)
    if artifacts := result.get("artifacts"):
        status["artifacts"] = artifacts
    status["display"] = {**status["display"], "progress": "100%"}
    if loss := status["progress"].get("metrics", {}).get("loss"):
        status["display"]["loss"] = loss
    return Plan(status=status, decided=True, events=(Event(reason="Succeeded", message=message),))


def _final_progress(status: Object, result: Object, report: Report | None, now: datetime) -> Object:
    """The last figures: the launcher's result, else the last report; a training that succeeded is done."""
    progress = {**(progress_fields(report)["progress"] if report else {}), **(status.get("progress") or {})}
    told = {k: result[k] for k in ("step", "totalSteps", "epoch") if result.get(k) is not None}
    metrics = {**progress.get("metrics", {}), **{str(k): str(v) for k, v in (result.get("metrics") or {}).items()}}
    progress |= told | {"percentage": 100, "estimatedRemainingSeconds": 0, "lastUpdateTime": format_time(now)}
    if metrics:
        progress["metrics"] = metrics
    return progress
