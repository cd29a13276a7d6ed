"""A training on its way: everything that should be there, and the status of what is. Pure."""

from __future__ import annotations

from datetime import datetime

from modelyard_operator import conditions
from modelyard_operator.objects import is_terminating, parse_time
from modelyard_operator.plan import Deletion, Event, Object, Plan
from modelyard_operator.training import elastic
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.failing import Verdict
from modelyard_operator.training.gang import SETTLING_SECONDS, Gang, is_active, unplaced_since
from modelyard_operator.training.removal import FAILED_GANG_GRACE_SECONDS, next_look, removals
from modelyard_operator.training.render import make_output_claim, make_peer_service, make_pod, make_pod_metadata
from modelyard_operator.training.scheduling import make_pod_group
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.status import Step, make_status, urgency_of


def active(situation: Situation, surroundings: Surroundings, verdict: Verdict) -> Plan:
    """The pods of the current attempt, the Service and the claim; pods of earlier attempts go."""
    training, spec, gang, now = situation.training, situation.spec, situation.gang, situation.now
    before = situation.status
    pause = _pause(before, gang, now)
    missing = [make_pod(training, spec, gang.attempt, rank, surroundings) for rank in gang.missing]
    if missing and situation.was("Scheduled"):
        # This attempt had all its pods. One that is gone is a failure, one that lost its labels is not: ask.
        unsure = [n for pod in missing if (n := pod["metadata"]["name"]) not in situation.children.absent]
        if unsure:
            return Plan(verify=tuple(unsure), create=tuple(missing))
    status = make_status(situation, Step(stalled=verdict.stall.message if verdict.stall else ""))
    status["nodes"] |= elastic.growth(situation)
    # nobody watches pod groups: one is made, or made to fit, when pods are
    group = make_pod_group(training, spec) if missing else None
    fixed = (_output_claim(situation), make_peer_service(training, spec), group)
    kept = (
        make_pod_metadata(training, spec, gang.attempt, rank, surroundings.status_ca)
        for rank, pod in gang.pods.items()
        if not is_terminating(pod)
    )
    saving = _still_saving(situation)
    looks = (verdict.wait, pause, _settling(gang, now), next_look(gang.stale, now), elastic.next_look(situation))
    return Plan(
        status=status,
        urgency=urgency_of(before, status),
        apply=(*(child for child in fixed if child is not None), *kept),
        create=() if pause or saving else (*missing, *elastic.make_spares(situation, surroundings)),
        delete=_removals(situation, saving),
        events=tuple(_news(situation, status)),
        requeue_after=min((s for s in looks if s), default=None),
    )


def _still_saving(situation: Situation) -> list[Object]:
    """Pods of the attempt before that were told to end in peace: what they save, the next attempt begins from."""
    restarting = conditions.find(situation.status, "Restarting")
    if restarting and restarting["status"] == "True" and restarting["reason"] != elastic.GROWING:
        return []  # the attempt before has failed: nothing more comes of it
    return [pod for pod in situation.gang.stale if is_active(pod) and not elastic.is_spare(pod)]


def _removals(situation: Situation, saving: list[Object]) -> tuple[Deletion, ...]:
    """The stale pods; spares hold their places until those that save have ended."""
    gang, now = situation.gang, situation.now
    wanted = range(gang.size, elastic.most_nodes(situation)) if situation.spec.elastic_policy else ()
    unwanted = [pod for rank, pod in gang.spares.items() if rank not in wanted]
    holders = [pod for pod in gang.stale if elastic.is_spare(pod)]
    others = [pod for pod in gang.stale if not elastic.is_spare(pod)]
    if saving:
        return (*removals(others, None, now), *removals(unwanted, 1, now))
    return (*removals(others, FAILED_GANG_GRACE_SECONDS, now), *removals((*holders, *unwanted), 1, now))


def _news(situation: Situation, status: Object) -> list[Event]:
    """What people are told of a status that is about to be written."""
    gang, news = situation.gang, []
    if conditions.is_true(status, "Running") and not situation.was("Running"):
        message = f"attempt {gang.attempt}: {gang.size} of {gang.size} nodes run"
        news.append(Event(reason="Running", message=message))
    stalled = conditions.find(status, "Stalled")
    if stalled and stalled["status"] == "True" and not situation.was("Stalled"):
        news.append(Event(reason="Stalled", message=stalled["message"], type="Warning"))
    return news


def _output_claim(situation: Situation) -> Object | None:
    """The claim as it should be. Of one that is there only the metadata is ours: its size may have grown since."""
    claim = make_output_claim(situation.training, situation.spec)
    claims = situation.children.claims
    if claim is not None and any(c["metadata"]["name"] == claim["metadata"]["name"] for c in claims):
        return {k: v for k, v in claim.items() if k != "spec"}
    return claim


def _settling(gang: Gang, now: datetime) -> float | None:
    """Seconds until a pod has been without a place for so long that it is reported; None where none is fresh."""
    ages = [(now - since).total_seconds() for pod in gang.pods.values() if (since := unplaced_since(pod))]
    return min((SETTLING_SECONDS - age for age in ages if age < SETTLING_SECONDS), default=None)


def _pause(status: Object, gang: Gang, now: datetime) -> float:
    """Seconds of back-off left before the pods of this attempt may be made; 0 for none."""
    due = parse_time(status.get("nextAttemptTime"))
    return max(0.0, (due - now).total_seconds()) if due and not gang.pods else 0.0
