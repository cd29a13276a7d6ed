"""What gateways say of a service's route is what the service says of its routes."""

from __future__ import annotations

from typing import Any

import pytest
from modelyard_operator.plan import Object
from operator_worlds import serves, world
from simulation import World

ACCEPTED = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 2}
RESOLVED = {**ACCEPTED, "type": "ResolvedRefs", "reason": "ResolvedRefs"}
NO_LISTENER = {**ACCEPTED, "status": "False", "reason": "NoMatchingParent", "message": "no listener is named https"}
NO_BACKEND = {**RESOLVED, "status": "False", "reason": "BackendNotFound", "message": "no Service demo"}


def routed(*parents: list[Object]) -> World:
    """A service that serves, after each parent of its route has said its conditions."""
    made = world(route={"mode": "HTTPRoute", "gatewayRef": {"name": "public"}})
    serves(made)
    route = made.objects["HTTPRoute", "demo"]
    route["metadata"]["generation"] = 2
    route["status"] = {"parents": [{"parentRef": {"name": "public"}, "conditions": said} for said in parents]}
    made.settle()
    assert made.condition("Ready")["status"] == "True", "from within the cluster it serves all the same"
    return made


def test_a_route_that_nobody_answers_for_is_waited_for() -> None:
    told = routed().condition("RoutesReady")
    assert (told["status"], told["reason"]) == ("Unknown", "WaitingForGateway")
    assert "is there a Gateway public" in told["message"]


@pytest.mark.parametrize("refusal", [NO_LISTENER, NO_BACKEND], ids=lambda c: str(c["reason"]))
def test_a_gateway_that_refuses_a_route_is_quoted(refusal: dict[str, Any]) -> None:
    told = routed([ACCEPTED, RESOLVED, refusal]).condition("RoutesReady")
    assert (told["status"], told["reason"]) == ("False", "RouteNotAccepted")
    assert told["message"] == f"Gateway public: {refusal['reason']}: {refusal['message']}"


def test_one_parent_that_lets_requests_in_is_enough() -> None:
    told = routed([NO_LISTENER], [ACCEPTED, RESOLVED]).condition("RoutesReady")
    assert (told["status"], told["reason"]) == ("True", "ServicePointsAtRevision")


def test_what_was_said_of_an_older_route_is_not_said_of_this_one() -> None:
    made = routed([{**ACCEPTED, "observedGeneration": 1}])
    assert made.condition("RoutesReady")["reason"] == "WaitingForGateway"


def test_a_route_that_the_cluster_refused_is_not_ready() -> None:
    made = routed([ACCEPTED])
    made.refusals["HTTPRoute/demo"] = "the cluster knows no HTTPRoute"
    made.settle()
    told = made.condition("RoutesReady")
    assert (told["status"], told["reason"]) == ("False", "ChildRefused")
    assert told["message"] == "the cluster knows no HTTPRoute"
