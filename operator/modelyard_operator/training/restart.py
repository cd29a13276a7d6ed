"""An attempt that failed: all nodes begin again, or the training ends. Pure."""

from __future__ import annotations

from datetime import timedelta

from modelyard_operator.objects import format_time
from modelyard_operator.plan import Event, Object, Plan
from modelyard_operator.training import ledger
from modelyard_operator.training.failure import Failure
from modelyard_operator.training.memory import raised
from modelyard_operator.training.policy import Action, Decision, History, decide
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.status import Step, failure_fields, make_status


def failed(situation: Situation, failure: Failure) -> Plan:
    """Restart the whole gang, or end. Written to status before any pod is touched."""
    before = situation.status
    history = History(
        counted=before.get("restartsCountTowardsMax") or 0,
        without_progress=before.get("noProgressRestarts") or 0,
        best_step=(before.get("lastFailure") or {}).get("bestStep") or 0,
    )
    memory = raised(situation.spec, failure)
    decision = decide(failure, situation.spec.failure_policy, history, more_memory=memory is not None)
    what = _in_words(situation.gang.attempt, failure) + _about_memory(situation, failure, memory)
    if decision.action is Action.FAIL:
        status, event = _end(situation, failure, f"{what}; {decision.why}")
    else:
        status, event = _again(situation, failure, decision, what)
        if memory is not None:
            status["memoryPerNode"] = memory
    fields = failure_fields(failure, situation.gang.attempt, decision.rule, decision.action.value, situation.now)
    status |= {
        "restartsCountTowardsMax": decision.history.counted,
        "noProgressRestarts": decision.history.without_progress,
        "lastFailure": fields | {"bestStep": decision.history.best_step},
    }
    return Plan(status=status, decided=True, events=(event,))


def _end(situation: Situation, failure: Failure, message: str) -> tuple[Object, Event]:
    status = make_status(situation, Step(finished=False, reason=failure.reason, message=message))
    status["completionTime"] = format_time(situation.now)
    return status, Event(reason="Failed", message=message, type="Warning")


def next_attempt(situation: Situation, step: Step) -> Object:
    """The status in which all nodes begin again; what the pods of this attempt told at their end is not forgotten."""
    status = make_status(situation.without_pods(), step)
    if checkpoint := ledger.newest(situation):
        status["checkpoint"] = checkpoint
    status["attempt"] = situation.gang.attempt + 1
    status["restarts"] = (situation.status.get("restarts") or 0) + 1
    return status


def _again(situation: Situation, failure: Failure, decision: Decision, what: str) -> tuple[Object, Event]:
    status = next_attempt(situation, Step(restarting=failure.reason, why_restarting=what, reason="Restarting"))
    status["nextAttemptTime"] = format_time(situation.now + timedelta(seconds=decision.delay_seconds))
    delay = f" in {decision.delay_seconds:.0f} s" if decision.delay_seconds else ""
    return status, Event(reason="Restarting", message=f"{what}; restarting all nodes{delay}", type="Warning")


def _in_words(attempt: int, failure: Failure) -> str:
    where = f"rank {failure.rank} ({failure.pod})" if failure.pod and failure.rank is not None else "the attempt"
    how = f" with exit code {failure.exit_code}" if failure.exit_code is not None else ""
    told = f": {failure.message}" if failure.message else ""
    return f"attempt {attempt}: {where} failed{how}, {failure.reason}{told}"


def _about_memory(situation: Situation, failure: Failure, raised_to: str | None) -> str:
    """What onOOM has to say."""
    policy = situation.spec.failure_policy.on_oom
    if failure.reason != "OOMKilled" or policy is None or policy.memory_factor == 1:
        return ""
    return f"; its memory is raised to {raised_to}" if raised_to else f"; it had memoryMax, {policy.memory_max}"
