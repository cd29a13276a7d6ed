"""Requests through the gateway of the real Traefik, for `make test-gateway`: divided, moved, refused, led back.

Not among the tests that always run: Traefik takes minutes to build.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster.disturbances import become, servers
from cluster.gateway import CONTROLLER, GATEWAY, LISTENER, Gateway, ask, gateway
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.services import Clients, operator_of_small_servers, small_service

REQUESTS = 5000
SHARE = 20
ANALYSIS = {"minRequests": 40, "maxP99Ratio": 20}
HOST = "digits.example.com"


def canary(pause: int) -> Object:
    steps = [{"percent": SHARE, "pauseSeconds": pause}]
    return {"strategy": "Canary", "steps": steps, "analysis": ANALYSIS}


def created(laboratory: Laboratory, namespace: str, name: str, route: Object, **spec: Any) -> Played:
    played = Played.create(laboratory.api, namespace, small_service(name, route=route, **spec))
    played.wait("ready", 120, phase="Ready")
    return played


def through(name: str, section: str = LISTENER, host: str = HOST) -> Object:
    return {"mode": "HTTPRoute", "hostname": host, "gatewayRef": {"name": name, "sectionName": section}}


def routes_ready(played: Played, reason: str) -> Object:
    """The condition, when it has this reason."""
    conditions = played.wait_reason("RoutesReady", reason)["status"]["conditions"]
    return next(c for c in conditions if c["type"] == "RoutesReady")


def accepted(played: Played) -> bool:
    """What the controller says of the route, and not we."""
    route = played.api.find("HTTPRoute", played.namespace, played.name)
    parents = ((route or {}).get("status") or {}).get("parents") or ()
    said = {c["type"]: c["status"] for p in parents if p["controllerName"] == CONTROLLER for c in p["conditions"]}
    return said.get("Accepted") == said.get("ResolvedRefs") == "True"


def answered(way: Gateway, host: str, wanted: Counter[str] | set[str]) -> None:
    """Requests to a host are answered by these versions, or these codes, alone."""
    eventually(f"{host} is answered by {wanted}", lambda: set(ask(way.url, host, 10)) == set(wanted), 60, way.told)


def a_canary_gets_its_share(way: Gateway, played: Played) -> None:
    """To the request, as the router promises, although a gateway stands before it."""
    with undisturbed(way) as clients:
        become(played, VERSION="2")
        eventually("the canary gets requests", lambda: clients.answers["2"] > 10, 180, played.told)
        eventually("all go through the router", lambda: ask(way.url, HOST, 50)["2"] > 0, 60, way.told)
    counted = ask(way.url, HOST, REQUESTS)
    sys.stdout.write(f"\n{SHARE} % of {REQUESTS} requests through the gateway: {dict(counted)}\n")
    assert set(counted) == {"1", "2"}, counted
    assert abs(counted["2"] - REQUESTS * SHARE / 100) <= 1, counted


def a_promoted_canary_gets_everything(way: Gateway, played: Played) -> None:
    with undisturbed(way) as clients:
        played.edit(rollout=canary(1))
        alone = [{"revisionName": played.status["latestCreatedRevision"], "percent": 100}]
        played.wait("the new one has everything", 180, phase="Ready", traffic=alone)
        servers(played, 1)
        answered(way, HOST, {"2"})
        asked = clients.total
        eventually("requests go on", lambda: clients.total > asked + 50, 60, way.told)


@contextmanager
def undisturbed(way: Gateway) -> Iterator[Clients]:
    """Clients that ask through the gateway meanwhile, of whom none may lose a request."""
    with Clients(way.url, 4, 0.05, host=HOST) as clients:
        eventually("clients get answers", lambda: clients.total > 50, 60, lambda: f"{clients.failures} {way.told()}")
        yield clients
    sys.stdout.write(f"clients meanwhile: {dict(clients.answers)}\n")
    assert set(clients.answers) <= {"1", "2"}, clients.failures


def no_route(played: Played) -> bool:
    return played.api.find("HTTPRoute", played.namespace, played.name) is None


def a_route_that_somebody_spoils_is_mended(way: Gateway, played: Played) -> None:
    api, place = played.api, (played.namespace, played.name)
    api.patch("HTTPRoute", *place, {"spec": {"hostnames": ["elsewhere.example.com"]}})
    answered(way, HOST, {"2"})
    eventually("its host is back", lambda: api.get("HTTPRoute", *place)["spec"]["hostnames"] == [HOST], 60)
    api.delete("HTTPRoute", *place)
    eventually("there is another", lambda: api.find("HTTPRoute", *place), 60)
    answered(way, HOST, {"2"})


def a_route_that_no_gateway_takes_is_explained(laboratory: Laboratory, namespace: str) -> None:
    nowhere = created(laboratory, namespace, "nowhere", through("nowhere", host="nowhere.example.com"))
    told = routes_ready(nowhere, "WaitingForGateway")
    assert told["status"] == "Unknown" and "is there a Gateway nowhere" in told["message"]
    nowhere.edit(route=through(GATEWAY, section="https", host="nowhere.example.com"))
    told = routes_ready(nowhere, "RouteNotAccepted")
    assert told["status"] == "False" and told["message"].startswith(f"Gateway {GATEWAY}: NoMatchingParent"), told
    nowhere.edit(route=through(GATEWAY, host="nowhere.example.com"))
    routes_ready(nowhere, "ServicePointsAtRevision")
    nowhere.delete()


@pytest.mark.timeout(4800)
def test_requests_from_outside_come_in_by_a_gateway(laboratory: Laboratory, tmp_path: Path) -> None:
    operator, namespace = operator_of_small_servers(laboratory, "gateway")
    early = created(laboratory, namespace, "early", through(GATEWAY, host="early.example.com"))
    assert "knows no HTTPRoute" in routes_ready(early, "ChildRefused")["message"]
    with gateway(namespace, tmp_path) as way:
        routes_ready(early, "ServicePointsAtRevision")
        answered(way, "early.example.com", {"1"})
        played = created(laboratory, namespace, "digits", through(GATEWAY), rollout=canary(3600))
        eventually("Traefik has accepted it", lambda: accepted(played), 60, way.told)
        assert routes_ready(played, "ServicePointsAtRevision")["status"] == "True"
        answered(way, HOST, {"1"})
        assert set(ask(way.url, "other.example.com", 1)) != {"1"}
        a_canary_gets_its_share(way, played)
        a_promoted_canary_gets_everything(way, played)
        a_route_that_somebody_spoils_is_mended(way, played)
        a_route_that_no_gateway_takes_is_explained(laboratory, namespace)
        operator.stop()
        early.edit(route={"mode": "Auto", "hostname": None, "gatewayRef": None})
        played.edit(route={"mode": "Ingress", "hostname": HOST, "gatewayRef": None})
        operator.start()
        for service in (early, played):
            eventually(f"the route of {service.name} is gone", partial(no_route, service), 90, operator.tail)
        answered(way, HOST, {"2"})  # by an Ingress now, of the same Traefik
