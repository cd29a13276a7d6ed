"""`sync` of a ModelTraining: observed parent and children in, complete desired state out. Pure.

The life of a training, in the order in which it is looked at: refused, finished, suspended, resumed, succeeded,
failed, missing a pod, late, running.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from modelyard_operator import conditions
from modelyard_operator.objects import deletion_of, format_time, is_terminating, parse_time, pod_name
from modelyard_operator.plan import Children, Deletion, Event, Object, Plan, Report
from modelyard_operator.refusal import refuse
from modelyard_operator.schema import InvalidSpec
from modelyard_operator.training import deadlines
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.gang import (
    SETTLING_SECONDS,
    Failure,
    Gang,
    classify,
    first_failure,
    termination_record,
    vanished,
)
from modelyard_operator.training.policy import Action, History, decide
from modelyard_operator.training.render import (
    make_output_claim,
    make_peer_service,
    make_pod,
    make_pod_metadata,
)
from modelyard_operator.training.spec import CONTROLLER, ModelTrainingSpec, parse
from modelyard_operator.training.status import (
    Step,
    failure_fields,
    make_status,
    progress_fields,
    urgency_of,
)

KEPT_CONDITIONS = (
    "Suspended",
    "Scheduled",
    "Running",
    "Restarting",
    "StorageReady",
    "ProgressMade",
    "Succeeded",
    "Finished",
)
FAILED_GANG_GRACE_SECONDS = 5
"""The survivors of a failed gang hang in a collective: there is nothing that they could still save."""
SYMPTOM_PATIENCE_SECONDS = 3.0
"""How long to wait for the cause when only its echo is known so far."""
LOST_NODE_PATIENCE_SECONDS = 5.0


def sync(training: Object, children: Children, now: datetime, surroundings: Surroundings) -> Plan:
    """The plan for one ModelTraining, from everything observed of it."""
    if (training.get("spec") or {}).get("managedBy", CONTROLLER) != CONTROLLER:
        return Plan()
    status = training.get("status") or {}
    try:
        spec = parse(training)
    except InvalidSpec as invalid:
        return refuse(training, invalid, now, KEPT_CONDITIONS)
    gang = classify(training, children.pods, int(status.get("attempt") or 1), spec.trainer.num_nodes)
    if gang.ahead:
        return Plan(requeue_after=0.5)  # the status at hand is older than the pods: the watch will bring the newer
    if conditions.is_true(status, "Finished"):
        return _finished(training, spec, gang, now)
    if spec.suspend:
        return _suspended(training, spec, gang, children, now)
    if conditions.is_true(status, "Suspended"):
        return _resumed(training, spec, gang, children, now)
    if gang.succeeded == gang.size:
        return _succeeded(training, spec, gang, children, now)
    failure, wait = _failure(training, spec, gang, children, now)
    if failure is not None:
        return _failed(training, spec, gang, children, failure, now)
    return _active(training, spec, gang, children, now, surroundings, wait)


def _finished(training: Object, spec: ModelTrainingSpec, gang: Gang, now: datetime) -> Plan:
    """Terminal is terminal: pods go by cleanPodPolicy, the object by its time to live, and nothing is started."""
    status = {**training["status"], "observedGeneration": training["metadata"].get("generation", 1)}
    policy = spec.run_policy.clean_pod_policy
    active = {"All": gang.everything, "Running": tuple(p for p in gang.everything if _is_active(p)), "None": ()}[policy]
    left = deadlines.time_to_live(spec, status, now)
    return Plan(
        status=status,
        delete=_deletions(active, FAILED_GANG_GRACE_SECONDS),
        delete_parent=left is not None and left <= 0,
        requeue_after=left,
    )


def _suspended(training: Object, spec: ModelTrainingSpec, gang: Gang, children: Children, now: datetime) -> Plan:
    """Pods get their whole grace period to save a checkpoint; the next attempt begins from it."""
    step = Step(suspended=True, reason="Suspended", message="spec.suspend is true")
    status = make_status(training, spec, gang, children, step, now)
    already = conditions.is_true(training.get("status"), "Suspended")
    return Plan(
        status=status,
        decided=not already,
        events=() if already else (Event(reason="Suspended", message="suspended by spec.suspend"),),
        delete=_deletions(gang.everything, None),
    )


def _resumed(training: Object, spec: ModelTrainingSpec, gang: Gang, children: Children, now: datetime) -> Plan:
    """A new attempt: the pods of the one suspended may still be saving under their names."""
    status = make_status(training, spec, replace(gang, pods={}), replace(children, report=None), Step(), now)
    if gang.pods or "startTime" in status:
        status["attempt"] = gang.attempt + 1
    status.pop("startTime", None)
    return Plan(status=status, decided=True, events=(Event(reason="Resumed", message="spec.suspend is false again"),))


def _succeeded(training: Object, spec: ModelTrainingSpec, gang: Gang, children: Children, now: datetime) -> Plan:
    result = termination_record(gang.pods[0]).get("result") or {}
    message = f"all {gang.size} nodes ended with exit code 0"
    step = Step(finished=True, reason="Completed", message=message)
    status = make_status(training, spec, gang, children, step, now)
    status["completionTime"] = format_time(now)
    status["progress"] = _final_progress(status, result, children.report, now)
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


def _failure(
    training: Object, spec: ModelTrainingSpec, gang: Gang, children: Children, now: datetime
) -> tuple[Failure | None, float | None]:
    """(the failure to act on, None), or (None, seconds until to look again)."""
    status = training.get("status") or {}
    failure = first_failure(gang)
    if failure is not None:
        age = (now - failure.at).total_seconds() if failure.at else SYMPTOM_PATIENCE_SECONDS
        if failure.is_symptom and gang.running and age < SYMPTOM_PATIENCE_SECONDS:
            return None, SYMPTOM_PATIENCE_SECONDS - age
        return _with_step(failure, status, children.report, gang), None
    lost, wait = _lost(gang, now)
    if lost is None and (gone := sorted(children.absent & _lost_names(training, status, gang))):
        lost = Failure(reason="PodDeleted", message=f"pod {gone[0]} was deleted", pod=gone[0])
    if lost is None:
        lost, deadline = deadlines.exceeded(spec, status, gang, children, now)
        wait = min((s for s in (wait, deadline) if s is not None), default=None)
    if lost is None and (left := deadlines.active(spec, status, now)) is not None:
        if left <= 0:
            seconds = spec.run_policy.active_deadline_seconds
            lost = Failure(reason="DeadlineExceeded", message=f"not done within activeDeadlineSeconds, {seconds} s")
        else:
            wait = min(left, wait) if wait is not None else left
    return (_with_step(lost, status, children.report, gang), None) if lost else (None, wait)


def _lost(gang: Gang, now: datetime) -> tuple[Failure | None, float | None]:
    """A pod that was told to end may save first; when its time is over and it is still there, its node is lost."""
    due = [t for p in gang.pods.values() if is_terminating(p) and (t := parse_time(p["metadata"]["deletionTimestamp"]))]
    if not due:
        return None, None
    left = (min(due) - now).total_seconds() + LOST_NODE_PATIENCE_SECONDS
    return (vanished(gang), None) if left <= 0 else (None, left)


def _lost_names(training: Object, status: Object, gang: Gang) -> set[str]:
    """Names of pods that this attempt had, by its status, and has no more."""
    if not conditions.is_true(status, "Scheduled"):
        return set()
    return {pod_name(training["metadata"]["name"], gang.attempt, rank) for rank in gang.missing}


def _with_step(failure: Failure, status: Object, report: Report | None, gang: Gang) -> Failure:
    """The furthest step known of this attempt."""
    reported = report.progress.get("step") if report and report.attempt == gang.attempt else None
    known = [s for s in (failure.step, reported, (status.get("progress") or {}).get("step")) if isinstance(s, int)]
    return replace(failure, step=max(known, default=None))


def _failed(
    training: Object, spec: ModelTrainingSpec, gang: Gang, children: Children, failure: Failure, now: datetime
) -> Plan:
    """Restart the whole gang, or end. Written to status before any pod is touched."""
    before = training.get("status") or {}
    history = History(
        counted=before.get("restartsCountTowardsMax") or 0,
        without_progress=before.get("noProgressRestarts") or 0,
        best_step=(before.get("lastFailure") or {}).get("bestStep") or 0,
    )
    decision = decide(failure, spec.failure_policy, history)
    where = f"rank {failure.rank} ({failure.pod})" if failure.pod and failure.rank is not None else "the attempt"
    how = f" with exit code {failure.exit_code}" if failure.exit_code is not None else ""
    what = f"attempt {gang.attempt}: {where} failed{how}, {failure.reason}" + (
        f": {failure.message}" if failure.message else ""
    )
    fields = failure_fields(failure, gang.attempt, decision.rule, decision.action.value, now)
    fields["bestStep"] = decision.history.best_step
    if decision.action is Action.FAIL:
        message = f"{what}; {decision.why}"
        step = Step(finished=False, reason=failure.reason, message=message)
        status = make_status(training, spec, gang, children, step, now) | {"completionTime": format_time(now)}
        event = Event(reason="Failed", message=message, type="Warning")
    else:
        step = Step(restarting=failure, why_restarting=what, reason="Restarting")
        status = make_status(training, spec, replace(gang, pods={}), children, step, now)
        status |= {"attempt": gang.attempt + 1, "restarts": (before.get("restarts") or 0) + 1}
        status["nextAttemptTime"] = format_time(now + timedelta(seconds=decision.delay_seconds))
        delay = f" in {decision.delay_seconds:.0f} s" if decision.delay_seconds else ""
        event = Event(reason="Restarting", message=f"{what}; restarting all nodes{delay}", type="Warning")
    status |= {
        "restartsCountTowardsMax": decision.history.counted,
        "noProgressRestarts": decision.history.without_progress,
        "lastFailure": fields,
    }
    return Plan(status=status, decided=True, events=(event,))


def _active(
    training: Object,
    spec: ModelTrainingSpec,
    gang: Gang,
    children: Children,
    now: datetime,
    surroundings: Surroundings,
    wait: float | None,
) -> Plan:
    """Everything that should be there, and the status of what is."""
    before = training.get("status") or {}
    pause = _pause(before, gang, now)
    missing = [make_pod(training, spec, gang.attempt, rank, surroundings) for rank in gang.missing]
    if missing and conditions.is_true(before, "Scheduled"):
        # This attempt had all its pods. One that is gone is a failure, one that lost its labels is not: ask.
        unsure = [n for pod in missing if (n := pod["metadata"]["name"]) not in children.absent]
        if unsure:
            return Plan(verify=tuple(unsure), create=tuple(missing))
    status = make_status(training, spec, gang, children, Step(), now)
    fixed = (_output_claim(training, spec, children), make_peer_service(training, spec))
    kept = (
        make_pod_metadata(training, spec, gang.attempt, rank, surroundings.status_ca)
        for rank, pod in gang.pods.items()
        if not is_terminating(pod)
    )
    urgency = urgency_of(before, status)
    settling = SETTLING_SECONDS if len(gang.pods) > gang.scheduled else None
    running = conditions.is_true(status, "Running") and not conditions.is_true(before, "Running")
    started = Event(reason="Running", message=f"attempt {gang.attempt}: {gang.size} of {gang.size} nodes run")
    return Plan(
        status=status,
        urgency=urgency,
        apply=(*(child for child in fixed if child is not None), *kept),
        create=() if pause else tuple(missing),
        delete=_deletions(gang.stale, FAILED_GANG_GRACE_SECONDS),
        events=(started,) if running else (),
        requeue_after=min((s for s in (wait, pause, settling) if s), default=None),
    )


def _output_claim(training: Object, spec: ModelTrainingSpec, children: Children) -> Object | None:
    """The claim as it should be. Of one that is there only the metadata is ours: its size may have grown since."""
    claim = make_output_claim(training, spec)
    if claim is not None and any(c["metadata"]["name"] == claim["metadata"]["name"] for c in children.claims):
        return {k: v for k, v in claim.items() if k != "spec"}
    return claim


def _pause(status: Object, gang: Gang, now: datetime) -> float:
    """Seconds of back-off left before the pods of this attempt may be made; 0 for none."""
    due = parse_time(status.get("nextAttemptTime"))
    return max(0.0, (due - now).total_seconds()) if due and not gang.pods else 0.0


def _is_active(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _deletions(pods: Iterable[Object], grace_seconds: int | None) -> tuple[Deletion, ...]:
    """Deletions of pods that are not being deleted yet."""
    return tuple(deletion_of(pod, grace_seconds) for pod in pods if not is_terminating(pod))
