"""What the passing of time alone decides: startup, progress and active deadlines, and the end of finished objects.

Every deadline is derived from times that the status or the pods hold, so a restarted operator forgets none. Pure.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from modelyard_operator import conditions
from modelyard_operator.objects import parse_time
from modelyard_operator.plan import Children, Object
from modelyard_operator.training.gang import Failure, Gang, waiting_reasons
from modelyard_operator.training.spec import ModelTrainingSpec

_STARTUP_REASONS = {
    "Unschedulable": "Unschedulable",
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
}


def exceeded(
    spec: ModelTrainingSpec, status: Object, gang: Gang, children: Children, now: datetime
) -> tuple[Failure | None, float | None]:
    """(the failure that a passed deadline is, None) or (None, seconds until the next deadline)."""
    left: list[float] = []
    for failure, due in (_startup(spec, gang, children, now), _progress(spec, status, gang, children)):
        if due is None:
            continue
        seconds = (due - now).total_seconds()
        if seconds <= 0:
            return failure, None
        left.append(seconds)
    return None, min(left, default=None)


def _startup(spec: ModelTrainingSpec, gang: Gang, children: Children, now: datetime) -> tuple[Failure, datetime | None]:
    created = [t for pod in gang.pods.values() if (t := parse_time(pod["metadata"].get("creationTimestamp")))]
    due = None
    if created and gang.started < gang.size:
        due = min(created) + timedelta(seconds=spec.run_policy.startup_deadline_seconds)
    waiting = waiting_reasons(gang, children.pod_warnings, now)
    reason, text = waiting[0] if waiting else ("", "no reason is known")
    message = f"not all nodes ran within {spec.run_policy.startup_deadline_seconds} s: {text}"
    return Failure(reason=_STARTUP_REASONS.get(reason, "StartupDeadlineExceeded"), message=message), due


def _progress(
    spec: ModelTrainingSpec, status: Object, gang: Gang, children: Children
) -> tuple[Failure, datetime | None]:
    """Needs a first report of the attempt: a trainer that reports nothing cannot be told from one that hangs."""
    report, seconds = children.report, spec.run_policy.progress_deadline_seconds
    due = None
    if seconds is not None and report is not None and report.attempt == gang.attempt and gang.running == gang.size:
        due = report.advanced + timedelta(seconds=seconds)
    step = (status.get("progress") or {}).get("step")
    message = f"no progress for {seconds} s" + (f" after step {step}" if step is not None else "")
    return Failure(reason="Stalled", message=message, step=step), due


def active(spec: ModelTrainingSpec, status: Object, now: datetime) -> float | None:
    """Seconds left of activeDeadlineSeconds, at most 0 when it has passed; None where there is none."""
    started = parse_time(status.get("startTime"))
    if spec.run_policy.active_deadline_seconds is None or started is None:
        return None
    return (started + timedelta(seconds=spec.run_policy.active_deadline_seconds) - now).total_seconds()


def time_to_live(spec: ModelTrainingSpec, status: Object, now: datetime) -> float | None:
    """Seconds until a finished training is deleted; None to keep it."""
    finished = conditions.find(status, "Finished")
    ttl = spec.run_policy.ttl_seconds_after_finished
    if ttl is None or finished is None:
        return None
    since = parse_time(finished["lastTransitionTime"])
    return None if since is None else (since + timedelta(seconds=ttl) - now).total_seconds()
