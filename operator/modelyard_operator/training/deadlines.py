"""What the passing of time alone decides: startup and active deadlines, and the end of finished objects.

Every deadline is derived from times that the status or the pods hold, so a restarted operator forgets none. Pure.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from modelyard_operator import conditions
from modelyard_operator.objects import parse_time
from modelyard_operator.plan import Object
from modelyard_operator.training.failure import Failure
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.spec import ModelTrainingSpec
from modelyard_operator.training.waiting import waiting

_STARTUP_REASONS = {
    "Unschedulable": "Unschedulable",
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
}


def exceeded(situation: Situation) -> tuple[Failure | None, float | None]:
    """(the failure that a passed deadline is, None) or (None, seconds until the next deadline)."""
    failure, due = _startup(situation)
    left = None
    if due is not None:
        left = (due - situation.now).total_seconds()
        if left <= 0:
            return failure, None
    remaining = _active(situation)
    if remaining is not None and remaining <= 0:
        seconds = situation.spec.run_policy.active_deadline_seconds
        return Failure(reason="DeadlineExceeded", message=f"not done within activeDeadlineSeconds, {seconds} s"), None
    return None, min((s for s in (left, remaining) if s is not None), default=None)


def _startup(situation: Situation) -> tuple[Failure, datetime | None]:
    """Time in a queue is not counted: the clock of pods that had to wait begins when they were let go."""
    gang, spec = situation.gang, situation.spec
    begun = [t for pod in gang.pods.values() if (t := parse_time(pod["metadata"].get("creationTimestamp")))]
    queued = conditions.find(situation.status, "Queued")
    if queued and begun:
        freed = parse_time(queued["lastTransitionTime"]) if queued["status"] == "False" else situation.now
        begun = [max(min(begun), freed or situation.now)]
    due = None
    if begun and gang.started < gang.size and not gang.queued:
        due = min(begun) + timedelta(seconds=spec.run_policy.startup_deadline_seconds)
    reasons = waiting(situation)
    reason, text = reasons[0] if reasons else ("", "no reason is known")
    message = f"not all nodes ran within {spec.run_policy.startup_deadline_seconds} s: {text}"
    return Failure(reason=_STARTUP_REASONS.get(reason, "StartupDeadlineExceeded"), message=message), due


def _active(situation: Situation) -> float | None:
    """Seconds left of activeDeadlineSeconds, at most 0 when it has passed; None where there is none."""
    started = parse_time(situation.status.get("startTime"))
    seconds = situation.spec.run_policy.active_deadline_seconds
    if seconds is None or started is None:
        return None
    return (started + timedelta(seconds=seconds) - situation.now).total_seconds()


def time_to_live(spec: ModelTrainingSpec, status: Object, now: datetime) -> float | None:
    """Seconds until a finished training is deleted; None to keep it."""
    finished = conditions.find(status, "Finished")
    ttl = spec.run_policy.ttl_seconds_after_finished
    if ttl is None or finished is None:
        return None
    since = parse_time(finished["lastTransitionTime"])
    return None if since is None else (since + timedelta(seconds=ttl) - now).total_seconds()
