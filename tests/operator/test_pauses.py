"""Queues and suspension: what is shown, what is not counted, and what may be edited meanwhile."""

from __future__ import annotations

from modelyard_operator.objects import format_time
from simulation import World, assert_golden
from trainings_world import IMAGE, to_running, world


def gated(w: World, *names: str) -> None:
    for name in names:
        gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
        w.objects["Pod", name]["status"]["conditions"] = [{**gate, "lastTransitionTime": format_time(w.now)}]
    w.trace.append(f"-- queue: {', '.join(names)} wait")


def freed(w: World, *names: str) -> None:
    for name in names:
        w.objects["Pod", name]["status"].pop("conditions")
    w.trace.append("-- queue: all are let go")


def test_gated_pods_are_queued_and_no_deadline_runs() -> None:
    w = world(runPolicy={"startupDeadlineSeconds": 60})
    w.settle()
    gated(w, "demo-1-0", "demo-1-1")
    w.settle()
    assert w.status["phase"] == "Queued" and w.condition("Queued")["reason"] == "WaitingForQuota"
    assert w.condition("Reconciling")["status"] == "False", "it may take days: nobody is to wait for that"
    w.wait(100_000)
    w.settle()
    assert w.status["phase"] == "Queued"
    freed(w, "demo-1-0", "demo-1-1")
    w.settle()
    assert w.status["phase"] == "Pending"
    w.wait(59)
    w.settle()
    assert w.status["phase"] == "Pending"
    w.wait(2)
    w.settle()
    assert w.status["phase"] == "Failed" and w.condition("Finished")["reason"] == "StartupDeadlineExceeded"
    assert_golden("waits_in_a_queue", w, "Finished")


def test_time_in_a_queue_is_accounted_for() -> None:
    w = world()
    w.settle()
    gated(w, "demo-1-0", "demo-1-1")
    w.settle()
    w.wait(100)
    freed(w, "demo-1-0", "demo-1-1")
    to_running(w)
    assert w.status["goodput"]["queuedSeconds"] == 100


def test_a_queue_takes_its_quota_back() -> None:
    w = world()
    to_running(w)
    for name in ("demo-1-0", "demo-1-1"):
        target = {"type": "TerminationTarget", "status": "True", "reason": "Preempted"}
        w.pod(name, phase="Failed", exit_code=143, status={"conditions": [target]})
    w.settle()
    failure = w.status["lastFailure"]
    assert (failure["reason"], failure["rule"]) == ("Preempted", "infrastructure")


def test_numbers_and_resources_edited_during_a_pause_hold_for_the_next_attempt() -> None:
    w = world()
    to_running(w)
    w.edit(suspend=True)
    w.settle()
    w.edit(trainer={**IMAGE["trainer"], "numNodes": 3, "resourcesPerNode": {"limits": {"cpu": "2"}}})
    w.settle()
    assert w.status["phase"] == "Suspended"
    w.edit(suspend=False)
    w.reconcile()
    made = w.plan().create
    assert [pod["metadata"]["name"] for pod in made] == ["demo-2-0", "demo-2-1", "demo-2-2"]
    assert {pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] for pod in made} == {"2"}
    to_running(w)
    assert w.status["nodes"] == {"desired": 3, "ready": 3, "failed": 0, "worldSize": 3}
    assert_golden("is_edited_during_a_pause", w, "Finished")


def test_a_training_paused_before_it_ran_begins_with_new_pods() -> None:
    w = world()
    w.settle()
    w.pod("demo-1-0", phase="Running")
    w.settle()
    w.edit(suspend=True)
    w.settle()
    w.edit(suspend=False)
    w.settle()
    assert w.status["attempt"] == 2
    assert sorted(name for kind, name in w.objects if kind == "Pod") == ["demo-2-0", "demo-2-1"]


def test_a_training_created_suspended_begins_with_the_first_attempt() -> None:
    w = world(suspend=True)
    w.settle()
    assert (w.status["phase"], w.status["attempt"]) == ("Suspended", 0)
    w.wait(1000)
    w.edit(suspend=False)
    to_running(w)
    assert w.status["attempt"] == 1
    assert w.status["goodput"]["elapsedSeconds"] == 0, "it was not to run before"


def test_the_next_attempt_waits_for_those_that_still_save() -> None:
    w = world()
    to_running(w)
    w.edit(suspend=True)
    w.reconcile()
    for name in ("demo-1-0", "demo-1-1"):
        w.objects["Pod", name]["metadata"] |= {
            "deletionTimestamp": format_time(w.now.replace(minute=2)),
            "deletionGracePeriodSeconds": 120,
        }
    w.edit(suspend=False)
    w.reconcile()
    plan = w.plan()
    assert w.status["attempt"] == 2 and not plan.create and not plan.delete
    assert plan.requeue_after is not None and plan.requeue_after <= 125
    w.gang("Failed", exit_code=75)
    assert [pod["metadata"]["name"] for pod in w.plan().create] == ["demo-2-0", "demo-2-1"]
