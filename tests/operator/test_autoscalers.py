"""What an autoscaler of others says of a service is what the service says of its scaling."""

from __future__ import annotations

from typing import Any

import pytest
from modelyard_operator.plan import Object
from operator_worlds import serves, world
from simulation import World

HPA = {"backend": "HPA", "metric": "cpu", "target": 70, "maxReplicas": 5}
KEDA = {"backend": "KEDA", "metric": "cpu", "target": 70, "maxReplicas": 5}
KINDS = {"HPA": "HorizontalPodAutoscaler", "KEDA": "ScaledObject"}
ABLE = {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale", "message": "recommended size matches"}
ACTIVE = {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound", "message": "calculated from cpu"}
BLIND = {**ACTIVE, "status": "False", "reason": "FailedGetResourceMetric", "message": "no metrics returned"}
STUCK = {**ABLE, "status": "False", "reason": "FailedGetScale", "message": "no scale"}
ASLEEP = {**ACTIVE, "status": "False", "reason": "ScalingDisabled", "message": "the replica count is zero"}
READY = {"type": "Ready", "status": "True", "reason": "ScaledObjectReady", "message": "ready for scaling"}
BROKEN = {**READY, "status": "False", "reason": "TriggerError", "message": "Prometheus does not answer"}
BEGINNING = {**READY, "status": "Unknown", "reason": "", "message": ""}


def scaled(scaling: dict[str, Any], *conditions: Object) -> World:
    """A service that serves, after its autoscaler got these conditions."""
    made = world(scaling=scaling)
    serves(made)
    made.objects[KINDS[scaling["backend"]], "demo"]["status"] = {"conditions": list(conditions)}
    made.settle()
    assert made.condition("Ready")["status"] == "True", "what serves goes on serving all the same"
    return made


@pytest.mark.parametrize(
    ("scaling", "conditions", "status", "reason", "message"),
    [
        (HPA, [ABLE, ACTIVE], "True", "ValidMetricFound", "calculated from cpu"),
        (HPA, [ABLE, BLIND], "False", "FailedGetResourceMetric", "HorizontalPodAutoscaler demo: no metrics returned"),
        (HPA, [STUCK, ACTIVE], "False", "FailedGetScale", "HorizontalPodAutoscaler demo: no scale"),
        (HPA, [ABLE, ASLEEP], "Unknown", "ScalingDisabled", "the replica count is zero"),
        (HPA, [ABLE], "Unknown", "WaitingForAutoscaler", "the controller manager of the cluster"),
        (KEDA, [READY], "True", "ScaledObjectReady", "ready for scaling"),
        (KEDA, [BROKEN], "False", "TriggerError", "ScaledObject demo: Prometheus does not answer"),
        (KEDA, [BEGINNING], "Unknown", "WaitingForAutoscaler", "is its operator running?"),
        (KEDA, [], "Unknown", "WaitingForAutoscaler", "is its operator running?"),
    ],
)
def test_the_autoscaler_is_quoted(
    scaling: dict[str, Any], conditions: list[Object], status: str, reason: str, message: str
) -> None:
    told = scaled(scaling, *conditions).condition("ScalingReady")
    assert (told["status"], told["reason"]) == (status, reason)
    assert message in told["message"]


def test_an_autoscaler_that_the_cluster_refused_is_not_ready() -> None:
    made = scaled(KEDA, READY)
    made.refusals["ScaledObject/demo"] = "the cluster knows no ScaledObject"
    made.settle()
    told = made.condition("ScalingReady")
    assert (told["status"], told["reason"]) == ("False", "ChildRefused")
    assert told["message"] == "the cluster knows no ScaledObject"


def test_a_service_of_a_fixed_size_says_nothing_of_scaling() -> None:
    made = scaled(HPA, ABLE, ACTIVE)
    made.edit(scaling=None)
    made.settle()
    assert all(condition["type"] != "ScalingReady" for condition in made.status["conditions"])
