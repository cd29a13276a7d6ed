"""Canary, shadow and scaling as golden traces, and the order in which a router comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from modelyard_operator.load import Load, RouterLoad, Traffic
from modelyard_operator.objects import LABEL_COMPONENT, LABEL_REVISION
from modelyard_operator.plan import Object
from operator_worlds import available, crash, measured, routers_follow, serves, world
from simulation import World, assert_golden

STEPS = [{"percent": 10, "pauseSeconds": 30}, {"percent": 50, "pauseSeconds": 30}]
CANARY = {"strategy": "Canary", "steps": STEPS, "analysis": {"minRequests": 50}}
SHADOW = {"strategy": "Shadow", "steps": STEPS[:1], "analysis": {"minRequests": 50, "minAgreement": 0.95}}
FAST = {10: 200}


def front(w: World) -> dict[str, str]:
    return dict(w.objects["Service", "demo"]["spec"]["selector"])


def start(w: World) -> tuple[str, str]:
    """A canary under way: its revision is available, and routers with its table have taken the requests over."""
    serves(w)
    old = w.status["latestReadyRevision"]
    w.edit(batching={"maxBatchSize": 8})
    w.settle()
    assert front(w)[LABEL_REVISION] == old, "nothing before the golden gate"
    available(w, w.status["latestCreatedRevision"])
    w.settle()
    routers_follow(w)
    return old, w.status["latestCreatedRevision"]


def is_promoted(w: World) -> None:
    old, new = start(w)
    assert LABEL_COMPONENT in front(w)
    good = Traffic(requests=200, latencies=FAST)
    measured(w, good, good)
    assert w.status["traffic"] == [{"revisionName": old, "percent": 50}, {"revisionName": new, "percent": 50}]
    assert ("Deployment", f"demo-{old}") in w.objects
    measured(w, good, good)
    assert front(w)[LABEL_REVISION] == new
    assert not [n for k, n in w.objects if k == "Deployment" and n in ("demo-router", f"demo-{old}")]
    assert [n for k, n in w.objects if k == "Service"] == ["demo"]


def is_rolled_back(w: World) -> None:
    old, new = start(w)
    measured(w, Traffic(requests=60, errors=3, latencies=FAST), Traffic(requests=500, latencies=FAST), seconds=5)
    assert front(w)[LABEL_REVISION] == old
    assert w.condition("CanaryReady")["reason"] == "CanaryRolledBack"
    assert w.objects["Deployment", f"demo-{new}"]["spec"]["replicas"] == 0


def is_slow(w: World) -> None:
    start(w)
    measured(w, Traffic(requests=150, latencies={60: 150}), Traffic(requests=500, latencies=FAST), seconds=5)


def crashes(w: World) -> None:
    _, new = start(w)
    crash(w, new, 139, "segmentation fault")
    w.settle()
    routers_follow(w)


def is_suspended(w: World) -> None:
    """Nothing is measured or promoted meanwhile; it goes on with the step that it was at, whose time begins anew."""
    old, new = start(w)
    w.edit(suspend=True)
    w.settle()
    routers_follow(w)
    available(w)
    w.wait(3600)
    w.settle()
    assert {n for k, n in w.objects if k == "Deployment"} == {f"demo-{old}", f"demo-{new}"}, "no router"
    assert w.status["traffic"] == [{"revisionName": old, "percent": 100}]
    w.edit(suspend=False)
    w.settle()
    available(w)
    w.settle()
    routers_follow(w)
    good = Traffic(requests=200, latencies=FAST)
    measured(w, good, good, seconds=5)
    assert (w.status["canary"]["step"], w.status["canary"]["message"]) == (0, "for 30 s")
    measured(w, good, good)
    assert w.status["canary"]["step"] == 1


CANARIES = [is_promoted, is_rolled_back, is_slow, crashes, is_suspended]


@pytest.mark.parametrize("life", CANARIES, ids=lambda life: life.__name__)
def test_a_canary_that(life: Callable[[World], None]) -> None:
    w = world(rollout=CANARY)
    life(w)
    assert_golden(f"canary_{life.__name__}", w, "Ready")
    assert w.plan().status == w.status, "a quiet world is left alone"


def test_a_canary_waits_for_enough_requests_and_for_its_time() -> None:
    w = world(rollout=CANARY)
    start(w)
    few, many = Traffic(requests=40, latencies=FAST), Traffic(requests=400, latencies=FAST)
    measured(w, few, many, seconds=100)
    assert (w.status["canary"]["step"], w.status["canary"]["message"]) == (0, "waiting for 50 requests")
    measured(w, many, many, seconds=2)
    assert w.status["canary"]["step"] == 0, "the routers have counted for two seconds only"


def test_counts_of_another_table_decide_nothing() -> None:
    w = world(rollout=CANARY)
    start(w)
    bad = Traffic(requests=500, errors=500)
    w.load = Load(router=RouterLoad(tables=frozenset({"old", "new"}), seconds=99, traffic=dict.fromkeys("ab", bad)))
    w.wait(99)
    w.settle()
    assert w.status["canary"]["verdict"] == "Progressing"


def test_a_rolled_back_revision_stays_so_until_the_spec_is_another() -> None:
    w = world(rollout=CANARY)
    is_rolled_back(w)
    old = w.status["traffic"][0]["revisionName"]
    w.edit(replicas=2)
    w.settle()
    assert w.condition("CanaryReady")["reason"] == "CanaryRolledBack"
    assert w.objects["Deployment", f"demo-{old}"]["spec"]["replicas"] == 2, "what serves is scaled all the same"
    w.edit(batching={"maxBatchSize": 16})
    w.settle()
    available(w)
    w.settle()
    assert w.status["canary"]["verdict"] == "Progressing"


@pytest.mark.parametrize(("alike", "verdict"), [(99, "Promoted"), (80, "RolledBack")])
def test_a_shadow_is_judged_by_its_answers_and_gets_no_requests_before(alike: int, verdict: str) -> None:
    w = world(rollout=SHADOW)
    old, new = start(w)
    assert w.status["traffic"] == [{"revisionName": old, "percent": 100}]
    good = Traffic(requests=100, latencies=FAST)
    measured(w, good, good, compared=100, agreed=alike)
    assert w.status["canary"]["verdict"] == verdict
    assert w.status["canary"]["agreement"] == alike / 100
    assert front(w)[LABEL_REVISION] == (new if verdict == "Promoted" else old)


ZERO = {"minReplicas": 0, "maxReplicas": 3, "target": 2, "idleSeconds": 60}


def goes_to_zero_and_comes_back(w: World) -> None:
    serves(w)
    routers_follow(w)
    assert LABEL_COMPONENT in front(w)
    table = RouterLoad(tables=frozenset({"t"}))
    w.load = Load(router=replace(table, idle_seconds=61.0))
    w.trace.append("-- routers: idle for 61 s")
    w.settle()
    available(w)
    w.settle()
    assert w.status["phase"] == "ScaledToZero"
    assert w.condition("Ready")["status"] == "True"
    w.load = Load(router=replace(table, held=5))
    w.trace.append("-- routers: 5 requests wait")
    w.settle()
    assert w.status["scaling"]["desired"] == 3
    available(w)
    w.settle()


def test_a_service_goes_to_zero_and_comes_back() -> None:
    w = world(scaling=ZERO)
    goes_to_zero_and_comes_back(w)
    assert_golden("service_goes_to_zero_and_comes_back", w, "Ready")
    assert w.plan().status == w.status


def test_a_new_revision_proves_itself_even_where_no_servers_are_wanted() -> None:
    w = world(scaling=ZERO)
    serves(w)
    routers_follow(w)
    w.load = Load(router=RouterLoad(tables=frozenset({"t"}), idle_seconds=100))
    w.settle()
    w.edit(batching={"maxBatchSize": 8})
    w.settle()
    new: Object = w.objects["Deployment", f"demo-{w.status['latestCreatedRevision']}"]
    assert new["spec"]["replicas"] == 1
    available(w)
    w.settle()
    routers_follow(w)
    assert new is not w.objects["Deployment", new["metadata"]["name"]]
    assert w.objects["Deployment", new["metadata"]["name"]]["spec"]["replicas"] == 0
    assert len([n for k, n in w.objects if k == "Deployment"]) == 2, "the revision and the router"


def test_without_gateway_or_canary_or_zero_no_router_is_in_the_way() -> None:
    w = world()
    serves(w)
    assert ("Deployment", "demo-router") not in w.objects
    assert LABEL_REVISION in front(w)


def test_what_was_rolled_back_is_rolled_out_where_no_canary_is_asked_for() -> None:
    w = world(rollout=CANARY)
    is_rolled_back(w)
    new = w.status["latestCreatedRevision"]
    w.edit(rollout={"strategy": "RollingUpdate"})
    w.settle()
    assert w.objects["Deployment", f"demo-{new}"]["spec"]["replicas"] == 1
    available(w)
    w.settle()
    assert w.status["phase"] == "Ready" and front(w)[LABEL_REVISION] == new
