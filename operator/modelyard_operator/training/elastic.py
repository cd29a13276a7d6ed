"""Training with the nodes that there are: `elasticPolicy`. Pure.

Shrinking: an attempt of which some pods find no place for shrinkAfterSeconds begins again with those that did.
Growing: while fewer nodes train than may, spare pods ask the scheduler for the missing places and hold them when there
are any. Then a checkpoint is asked for, and the next attempt takes the places over. How many nodes an attempt has is
decided in `status.nodes.desired`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from modelyard_operator import conditions
from modelyard_operator.objects import LABEL_ROLE, format_time, is_terminating, parse_time
from modelyard_operator.plan import Event, Object, Plan
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.gang import unplaced_since
from modelyard_operator.training.render import make_pod
from modelyard_operator.training.restart import next_attempt
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.status import Step

SPARE = "spare"
GROWING, SHRINKING = "Growing", "Shrinking"
"""Reasons of the condition Restarting."""
CHECKPOINT_SECONDS = 60.0
"""How long the checkpoint before a growth is waited for; the pods save again when they are told to end."""
SETTLE_SECONDS = 10.0
"""How long more places are waited for when some are there."""
STEADY_SECONDS = 60.0
"""How long an attempt runs at least before it is grown."""


def resize(situation: Situation) -> Plan | None:
    """The decision for another number of nodes; None while there is nothing to decide."""
    if situation.spec.elastic_policy is None:
        return None
    return _shrunk(situation) or _grown(situation)


def next_look(situation: Situation) -> float | None:
    """Seconds until time alone could lead to another size."""
    policy, gang, now = situation.spec.elastic_policy, situation.gang, situation.now
    if policy is None:
        return None
    due: list[float] = []
    if since := _waiting_since(situation):
        due.append(policy.shrink_after_seconds - (now - since).total_seconds())
    if grow := parse_time((situation.status.get("nodes") or {}).get("growSince")):
        due.append(CHECKPOINT_SECONDS - (now - grow).total_seconds())
    elif any(pod["spec"].get("nodeName") for pod in gang.spares.values()):
        due.append(_unsteady(situation))
    return min((seconds for seconds in due if seconds > 0), default=None)


def growth(situation: Situation) -> Object:
    """What of `status.nodes` says that a checkpoint is asked for and more nodes follow; empty where none do."""
    nodes = situation.status.get("nodes") or {}
    if not _may_grow(situation):
        return {}
    placed = sum(1 for pod in situation.gang.spares.values() if pod["spec"].get("nodeName"))
    if "growTo" in nodes and placed:
        return {"growTo": nodes["growTo"], "growSince": nodes["growSince"]}
    if not placed or _unsteady(situation) > 0:
        return {}
    return {"growTo": situation.gang.size + placed, "growSince": format_time(situation.now)}


def make_spares(situation: Situation, surroundings: Surroundings) -> list[Object]:
    """The pods that ask for the places of nodes that are missing. They do nothing but hold them."""
    if not _may_grow(situation):
        return []
    gang = situation.gang
    ranks = [rank for rank in range(gang.size, most_nodes(situation)) if rank not in gang.spares]
    return [_spare(make_pod(situation.training, situation.spec, gang.attempt, rank, surroundings)) for rank in ranks]


def is_spare(pod: Object) -> bool:
    """Whether a pod only holds a place."""
    return (pod["metadata"].get("labels") or {}).get(LABEL_ROLE) == SPARE


def most_nodes(situation: Situation) -> int:
    """The number of nodes to grow to."""
    policy, nodes = situation.spec.elastic_policy, situation.written.trainer.num_nodes
    return nodes if policy is None else max(nodes, policy.max_nodes or 0)


def _shrunk(situation: Situation) -> Plan | None:
    policy, gang = situation.spec.elastic_policy, situation.gang
    since = _waiting_since(situation)
    if policy is None or since is None or gang.scheduled < policy.min_nodes:
        return None
    if (situation.now - since).total_seconds() < policy.shrink_after_seconds:
        return None
    waited = f"{gang.scheduled} of {gang.size} nodes have found a place within {policy.shrink_after_seconds} s"
    return _next_attempt(situation, gang.scheduled, SHRINKING, waited)


def _grown(situation: Situation) -> Plan | None:
    nodes = situation.status.get("nodes") or {}
    since = parse_time(nodes.get("growSince"))
    if since is None or "growTo" not in nodes or not growth(situation):
        return None
    saved = parse_time((situation.status.get("checkpoint") or {}).get("time"))
    if situation.report is not None and situation.report.checkpoint:
        saved = parse_time(situation.report.checkpoint.get("time"))
    if (saved is None or saved < since) and (situation.now - since).total_seconds() < CHECKPOINT_SECONDS:
        return None
    return _next_attempt(situation, nodes["growTo"], GROWING, f"there is room for {nodes['growTo']} nodes")


def _next_attempt(situation: Situation, nodes: int, reason: str, why: str) -> Plan:
    message = f"attempt {situation.gang.attempt}: {why}; going on with {nodes} nodes"
    resized = replace(situation, gang=replace(situation.gang, size=nodes))
    status = next_attempt(resized, Step(restarting=reason, why_restarting=message, reason="Restarting"))
    status.pop("nextAttemptTime", None)
    return Plan(status=status, decided=True, events=(Event(reason=reason, message=message),))


def _waiting_since(situation: Situation) -> datetime | None:
    """Since when pods have been waiting for a place that others have found; None if all have one, or none has."""
    gang = situation.gang
    waiting = [pod for pod in gang.pods.values() if not pod["spec"].get("nodeName")]
    if gang.missing or not waiting or len(waiting) == gang.size or any(map(is_terminating, gang.pods.values())):
        return None
    found = [unplaced_since(pod) for pod in waiting]
    return max((since for since in found if since is not None), default=None) if all(found) else None


def _may_grow(situation: Situation) -> bool:
    gang, marked = situation.gang, conditions.find(situation.status, "Stalled")
    stalled = marked is not None and marked["status"] == "True"
    return (
        situation.spec.elastic_policy is not None
        and gang.size < most_nodes(situation)
        and gang.running == gang.size
        and not stalled
    )


def _unsteady(situation: Situation) -> float:
    """Seconds until the places that were found are taken: when all are there, or some for a while."""
    running = conditions.find(situation.status, "Running")
    since = parse_time(running["lastTransitionTime"]) if running and running["status"] == "True" else None
    left = STEADY_SECONDS - (situation.now - since).total_seconds() if since else STEADY_SECONDS
    spares = situation.gang.spares.values()
    if all(pod["spec"].get("nodeName") for pod in spares):
        return left
    placed = [t for pod in spares if pod["spec"].get("nodeName") and (t := _placed_at(pod))]
    return max(left, SETTLE_SECONDS - (situation.now - min(placed, default=situation.now)).total_seconds())


def _placed_at(pod: Object) -> datetime | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled":
            return parse_time(condition.get("lastTransitionTime"))
    return None


def _spare(pod: Object) -> Object:
    """The image is the trainer's own: where the pod waits, the image is there when it is needed."""
    container = {k: v for k, v in pod["spec"]["containers"][0].items() if k not in ("args", "env", "ports")}
    labels = {**pod["metadata"]["labels"], LABEL_ROLE: SPARE}
    return pod | {
        "metadata": {**pod["metadata"], "labels": labels},
        "spec": {
            **pod["spec"],
            "terminationGracePeriodSeconds": 1,
            "containers": [{**container, "command": ["sleep", "infinity"]}],
        },
    }
