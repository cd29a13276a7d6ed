"""Nodes that stop to answer: what the pods show of it, when it is believed, and what becomes of the zombies."""

from __future__ import annotations

from typing import Any

from modelyard_operator.objects import format_time
from simulation import START, World, assert_golden
from trainings_world import to_running, world


def mark_unready(w: World, name: str, **more: Any) -> None:
    """What the node controller does to the running pods of a node whose kubelet is silent."""
    status = w.objects["Pod", name]["status"]
    status["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": format_time(w.now), **more}]
    w.trace.append(f"-- node controller: {name} is not ready")


def test_the_gang_is_restarted_elsewhere_and_the_zombie_is_deleted_by_force() -> None:
    w = world()
    to_running(w)
    w.wait(50)
    mark_unready(w, "demo-1-1")
    w.settle()
    assert w.status["attempt"] == 2, "it has been silent for nodeLostSeconds when it is called lost"
    failure = w.status["lastFailure"]
    assert (failure["reason"], failure["rule"], failure["rank"]) == ("NodeLost", "infrastructure", 1)
    assert failure["nodeName"] == "node-a"
    assert w.status.get("restartsCountTowardsMax", 0) == 0
    to_running(w)
    assert_golden("loses_a_node", w, "Finished")


def test_the_next_attempt_would_rather_not_go_to_the_node_that_is_not_tainted_yet() -> None:
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    mine = {"weight": 1, "preference": term}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [mine]}}
    w = world(pod={"affinity": affinity}, failurePolicy={"backoffSeconds": 0})
    assert preferences(w) == [[mine], [mine]]
    to_running(w)
    w.wait(50)
    mark_unready(w, "demo-1-1")
    w.reconcile()
    assert w.status["attempt"] == 2
    elsewhere = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-a"]}]}
    assert preferences(w) == [[mine, {"weight": 100, "preference": elsewhere}]] * 2
    to_running(w)
    w.pod("demo-2-0", phase="Failed", exit_code=1)
    w.reconcile()
    assert w.status["attempt"] == 3
    assert preferences(w) == [[mine], [mine]], "by then the node has its taint, or is well again"


def preferences(w: World) -> list[Any]:
    affinities = [pod["spec"]["affinity"]["nodeAffinity"] for pod in w.plan().create]
    return [affinity["preferredDuringSchedulingIgnoredDuringExecution"] for affinity in affinities]


def test_more_patience_is_waited_for() -> None:
    w = world(runPolicy={"nodeLostSeconds": 100})
    to_running(w)
    mark_unready(w, "demo-1-1")
    w.settle()
    assert w.status["attempt"] == 1
    left = w.plan().requeue_after
    assert left is not None and 59 <= left <= 60
    w.wait(left)
    w.settle()
    assert w.status["attempt"] == 2


def test_a_node_that_comes_back_in_time_is_not_lost() -> None:
    w = world(runPolicy={"nodeLostSeconds": 100})
    to_running(w)
    mark_unready(w, "demo-1-1")
    w.settle()
    w.wait(30)
    w.objects["Pod", "demo-1-1"]["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    w.wait(100)
    w.settle()
    assert w.status["attempt"] == 1


def test_a_container_that_is_not_ready_is_no_lost_node() -> None:
    w = world()
    to_running(w)
    mark_unready(w, "demo-1-1", reason="ContainersNotReady")
    w.wait(1000)
    w.settle()
    assert w.status["attempt"] == 1


def deleted(w: World, name: str, grace: int, **condition: str) -> None:
    w.objects["Pod", name]["metadata"] |= {
        "deletionTimestamp": format_time(w.now.replace(second=0) if not grace else w.now),
        "deletionGracePeriodSeconds": grace,
    }
    if condition:
        told = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": format_time(w.now), **condition}
        w.objects["Pod", name]["status"]["conditions"] = [told]


def test_a_pod_that_never_started_on_a_lost_node_is_given_up_at_once() -> None:
    w = world()
    w.settle()
    w.placed("demo-1-0", "demo-1-1")
    w.pod("demo-1-0", phase="Running")
    w.settle()
    deleted(w, "demo-1-1", 120, reason="DeletionByTaintManager")
    w.settle()
    assert w.status["attempt"] == 2 and w.status["lastFailure"]["reason"] == "NodeLost"
    assert ("Pod", "demo-1-1") not in w.objects, "by force: nobody would end it"


def test_a_pod_that_outlives_its_grace_is_lost_with_its_node() -> None:
    w = world()
    to_running(w)
    deleted(w, "demo-1-0", 30)
    w.settle()
    assert w.status["attempt"] == 1, "it may be saving"
    w.wait(6)
    w.settle()
    assert w.status["attempt"] == 2
    assert ("Pod", "demo-1-0") not in w.objects


def test_a_finalizer_of_somebody_elses_makes_no_loop() -> None:
    w = world()
    to_running(w)
    deleted(w, "demo-1-0", 0)
    w.wait(100)
    w.reconcile()
    assert w.status["attempt"] == 2
    plan = w.plan()
    assert [d.name for d in plan.delete] == ["demo-1-1"], "it was deleted by force already"
    assert plan.requeue_after is None or plan.requeue_after > 1


def test_the_pods_of_a_lost_node_do_not_outlive_a_pause() -> None:
    w = world()
    to_running(w)
    w.edit(suspend=True)
    w.reconcile()
    deleted(w, "demo-1-0", 120)
    w.wait(6)
    assert {d.name: d.grace_seconds for d in w.plan().delete} == {"demo-1-0": 0, "demo-1-1": None}
    assert w.now > START
