"""A training that is told to pause, and to go on. Pure."""

from __future__ import annotations

from dataclasses import replace

from modelyard_operator.plan import Event, Plan
from modelyard_operator.training.removal import next_look, removals
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.status import Step, make_status


def suspended(situation: Situation) -> Plan:
    """Pods get their whole grace period to save a checkpoint; the next attempt begins from it."""
    status = make_status(situation, Step(suspended=True, reason="Suspended", message="spec.suspend is true"))
    already, pods = situation.was("Suspended"), situation.gang.everything
    if "attempt" not in situation.status and not pods:
        status["attempt"] = 0  # the first is still to come
    return Plan(
        status=status,
        decided=not already,
        events=() if already else (Event(reason="Suspended", message="suspended by spec.suspend"),),
        delete=removals(pods, None, situation.now),
        requeue_after=next_look(pods, situation.now),
    )


def resumed(situation: Situation) -> Plan:
    """A new attempt, always: pods of the one before may still be saving, and their names are not used again."""
    gang = replace(situation.gang, size=situation.written.trainer.num_nodes, spares={})
    fresh = replace(situation, gang=gang, children=replace(situation.children, report=None)).without_pods()
    status = make_status(fresh, Step())
    status["attempt"] = int(situation.status.get("attempt") or 0) + 1
    status.pop("startTime", None)
    return Plan(status=status, decided=True, events=(Event(reason="Resumed", message="spec.suspend is false again"),))
