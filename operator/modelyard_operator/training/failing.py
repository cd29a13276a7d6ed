"""Whether an attempt has failed: by a rank that ended, a pod or node that is gone, or time that is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modelyard_operator.objects import is_terminating, pod_name
from modelyard_operator.training import deadlines, stall
from modelyard_operator.training.failure import Failure, first_failure, lost_with_node, node_lost_since
from modelyard_operator.training.removal import seconds_left
from modelyard_operator.training.situation import Situation

SYMPTOM_PATIENCE_SECONDS = 15.0
"""How long to wait for the cause when only its echo is known so far. Counted from the end of the container, of which a
busy kubelet tells up to ten seconds later, and of each pod apart; a rank that was killed is known at once, and nothing
is waited for."""
NODE_SILENT_SECONDS = 40
"""A node is called lost when its kubelet has been silent for at least so long (kube-controller-manager's
node-monitor-grace-period): so much of nodeLostSeconds is over by then."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A failure to act upon, or how long nothing is to be concluded; and a stall that is still being looked into."""

    failure: Failure | None = None
    wait: float | None = None
    """Seconds until to look again; None where time alone changes nothing."""
    stall: stall.Stall | None = None


def judge(situation: Situation) -> Verdict:
    """What is wrong with the current attempt, the most telling first."""
    gang, children, now = situation.gang, situation.children, situation.now
    if failure := first_failure(gang.pods):
        age = (now - failure.at).total_seconds() if failure.at else SYMPTOM_PATIENCE_SECONDS
        if failure.is_symptom and gang.active and age < SYMPTOM_PATIENCE_SECONDS:
            return Verdict(wait=SYMPTOM_PATIENCE_SECONDS - age)
        return Verdict(failure=_with_step(failure, situation))
    lost, wait = _lost(situation)
    if lost is None and (gone := sorted(children.absent & _lost_names(situation))):
        lost = Failure(reason="PodDeleted", message=f"pod {gone[0]} was deleted", pod=gone[0])
    if lost is None:
        lost, due = deadlines.exceeded(situation)
        wait = _sooner(wait, due)
    if lost is not None:
        return Verdict(failure=_with_step(lost, situation))
    hanging, due = stall.look(situation)
    if hanging is None:
        return Verdict(wait=_sooner(wait, due))
    if hanging.looked_into or hanging.seconds_left <= 0:
        return Verdict(failure=_with_step(hanging.as_failure(), situation))
    return Verdict(wait=_sooner(wait, hanging.seconds_left), stall=hanging)


def _lost(situation: Situation) -> tuple[Failure | None, float | None]:
    """A pod that outlives its grace period, or that the cluster says stands on a node that does not answer."""
    wait: float | None = None
    for rank, pod in sorted(situation.gang.pods.items()):
        left = seconds_left(pod, situation.now) if is_terminating(pod) else None
        if left is not None and left <= 0:
            return lost_with_node(pod, rank, "deleted, and its node does not end it"), None
        since, allowed = node_lost_since(pod), situation.spec.run_policy.node_lost_seconds
        if since is not None:
            away = (situation.now - since).total_seconds() + NODE_SILENT_SECONDS
            if away >= allowed:
                return lost_with_node(pod, rank, f"its node has not answered for {allowed} s"), None
            wait = _sooner(wait, allowed - away)
        wait = _sooner(wait, left)
    return None, wait


def _lost_names(situation: Situation) -> set[str]:
    """Names of pods that this attempt had, by its status, and has no more."""
    if not situation.was("Scheduled"):
        return set()
    return {pod_name(situation.name, situation.gang.attempt, rank) for rank in situation.gang.missing}


def _with_step(failure: Failure, situation: Situation) -> Failure:
    """The furthest step known of this attempt."""
    reported = situation.report.progress.get("step") if situation.report else None
    shown = (situation.status.get("progress") or {}).get("step")
    known = [s for s in (failure.step, reported, shown) if isinstance(s, int)]
    return replace(failure, step=max(known, default=None))


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((s for s in (one, other) if s is not None), default=None)
