"""Whole lives of a ModelTraining as golden traces: what is written, in which order, and nothing more.

A trace reads like a story: `--` lines are what the world does, the others what the operator does about it.
`UPDATE_GOLDEN=1 pytest tests/operator/test_training_life.py` writes them anew; read the diff before you commit it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from modelyard_operator.training.failing import SYMPTOM_PATIENCE_SECONDS
from modelyard_operator.training.sync import sync
from simulation import World, assert_golden
from trainings_world import IMAGE, SURROUNDINGS, to_running, world

ARTIFACT = {
    "name": "best",
    "step": 90,
    "uri": "pvc://demo-output/artifacts/sha256-aa",
    "digest": "sha256:" + "a" * 64,
    "sizeBytes": 1,
    "task": "image-classification",
    "format": "safetensors",
    "metrics": {"accuracy": "0.99"},
    "createdAt": "2026-01-01T00:00:00Z",
}
RESULT = {"result": {"step": 100, "totalSteps": 100, "metrics": {"loss": "0.01"}, "artifacts": [ARTIFACT]}}


def succeeds(w: World) -> None:
    to_running(w)
    w.reported(step=40)
    w.settle()
    w.pod("demo-1-1", phase="Succeeded")
    w.settle()
    w.pod("demo-1-0", phase="Succeeded", message=RESULT)
    w.settle()


def fails_until_the_budget_is_spent(w: World) -> None:
    to_running(w)
    for attempt in range(1, 5):
        w.reported(step=attempt * 10)
        w.pod(f"demo-{attempt}-1", phase="Failed", exit_code=1)
        w.settle()
        if w.status["phase"] == "Failed":
            break
        w.wait(1)
        to_running(w)


def crashes_without_progress(w: World) -> None:
    to_running(w)
    for attempt in range(1, 5):
        w.pod(f"demo-{attempt}-0", phase="Failed", exit_code=1)
        w.settle()
        w.wait(100)
        if w.status["phase"] == "Failed":
            break
        to_running(w)


def is_suspended_and_resumed(w: World) -> None:
    to_running(w)
    w.edit(suspend=True)
    w.settle()
    w.edit(suspend=False)
    to_running(w)


def is_preempted_after_a_checkpoint(w: World) -> None:
    to_running(w)
    w.gang("Failed", exit_code=75, message={"failure": {"reason": "Checkpointed"}, "step": 30})
    w.settle()
    to_running(w)


def loses_a_pod(w: World) -> None:
    to_running(w)
    w.lose("Pod", "demo-1-1")
    w.settle()
    to_running(w)


def has_bad_parameters(w: World) -> None:
    to_running(w)
    w.pod("demo-1-0", phase="Failed", exit_code=64, message={"failure": {"message": "epochs: must be positive"}})
    w.settle()


def stalls(w: World) -> None:
    to_running(w)
    w.reported(step=10)
    w.settle()
    w.wait(901)
    w.settle()
    w.wait(6)
    w.heard(stacks={"uri": "pvc://demo-output/stacks/attempt-1.txt"})
    w.settle()


def stalls_without_a_trace(w: World) -> None:
    to_running(w)
    w.reported(step=10)
    w.settle()
    w.wait(901)
    w.settle()
    w.wait(16)
    w.settle()


def stalls_for_a_moment(w: World) -> None:
    to_running(w)
    w.reported(step=10)
    w.settle()
    w.wait(901)
    w.settle()
    w.wait(3)
    w.reported(step=11)
    w.settle()


def runs_out_of_memory(w: World) -> None:
    limits = {"resourcesPerNode": {"limits": {"memory": "64Mi"}, "requests": {"memory": "32Mi"}}}
    w.edit(trainer={**IMAGE["trainer"], **limits})
    w.edit(failurePolicy={"maxRestarts": 0, "onOOM": {"memoryFactor": 1.5, "memoryMax": "160Mi"}})
    for attempt in range(1, 5):
        to_running(w)
        w.pod(f"demo-{attempt}-1", phase="Failed", exit_code=137, reason="OOMKilled")
        w.settle()


def is_never_scheduled(w: World) -> None:
    w.settle()
    for name in ("demo-1-0", "demo-1-1"):
        pending = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPUs"}]
        w.objects["Pod", name]["status"]["conditions"] = [
            {**c, "lastTransitionTime": "2026-01-01T00:00:00Z"} for c in pending
        ]
    w.wait(5)
    w.settle()
    w.wait(1800)
    w.settle()


def outlives_its_deadline(w: World) -> None:
    w.edit(runPolicy={"activeDeadlineSeconds": 60, "cleanPodPolicy": "All", "ttlSecondsAfterFinished": 30})
    to_running(w)
    w.wait(61)
    w.settle()
    w.wait(31)
    w.reconcile()


def is_refused_and_mended(w: World) -> None:
    w.edit(trainer={"image": "example/train:1", "numNodes": 0, "gpus": 1})
    w.settle()
    w.edit(trainer={"image": "example/train:1", "numNodes": 2})
    to_running(w)


LIVES = [
    succeeds,
    fails_until_the_budget_is_spent,
    crashes_without_progress,
    is_suspended_and_resumed,
    is_preempted_after_a_checkpoint,
    loses_a_pod,
    has_bad_parameters,
    stalls,
    stalls_without_a_trace,
    stalls_for_a_moment,
    runs_out_of_memory,
    is_never_scheduled,
    outlives_its_deadline,
    is_refused_and_mended,
]


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_a_training_that(life: Callable[[World], None]) -> None:
    w = world()
    life(w)
    assert_golden(life.__name__, w, "Finished")


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_a_quiet_world_is_left_alone(life: Callable[[World], None]) -> None:
    w = world()
    life(w)
    plan = w.plan()
    assert plan.status == w.status or plan.delete_parent
    assert not plan.decided
    assert not [pod for pod in plan.create if ("Pod", pod["metadata"]["name"]) not in w.objects]


def test_a_decision_is_written_before_anything_is_touched() -> None:
    w = world()
    to_running(w)
    w.pod("demo-1-1", phase="Failed", exit_code=1)
    plan = w.plan()
    assert plan.decided
    assert plan.status is not None and plan.status["attempt"] == 2
    assert not plan.create and not plan.delete


def test_pods_newer_than_the_status_are_never_deleted() -> None:
    w = world()
    to_running(w)
    w.pod("demo-1-1", phase="Failed", exit_code=1)
    stale = dict(w.parent, status=dict(w.status))
    w.settle()
    w.wait(11)
    w.settle()
    assert ("Pod", "demo-2-0") in w.objects
    plan = sync(stale, w.children(), w.now, SURROUNDINGS)
    assert not plan.delete and not plan.create and plan.status is None and plan.requeue_after


def test_another_manager_is_left_alone() -> None:
    w = world(managedBy="example.com/other")
    assert w.plan().status is None and not w.plan().create


def test_the_root_cause_is_the_first_rank_to_fail_not_its_echo() -> None:
    w = world()
    to_running(w)
    w.wait(1)
    w.pod("demo-1-1", phase="Failed", exit_code=137, reason="OOMKilled")
    w.pod("demo-1-0", phase="Failed", exit_code=1, message={"failure": {"message": "Connection closed by peer"}})
    w.settle()
    failure = w.status["lastFailure"]
    assert (failure["podName"], failure["reason"], failure["exitCode"]) == ("demo-1-1", "OOMKilled", 137)


def test_an_echo_alone_waits_for_its_cause() -> None:
    w = world()
    to_running(w)
    w.pod("demo-1-0", phase="Failed", exit_code=1, message={"failure": {"message": "Connection closed by peer"}})
    plan = w.plan()
    assert not plan.decided and plan.requeue_after and plan.requeue_after <= SYMPTOM_PATIENCE_SECONDS
    w.wait(SYMPTOM_PATIENCE_SECONDS + 1)
    assert w.plan().decided


@pytest.mark.parametrize("other", [{"phase": "Pending"}, {"phase": "Running", "deleting": True}])
def test_an_echo_waits_for_a_pod_of_which_little_is_known(other: dict[str, Any]) -> None:
    w = world()
    to_running(w)
    deleting = other.pop("deleting", False)
    w.pod("demo-1-1", **other)
    if deleting:
        w.objects[("Pod", "demo-1-1")]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        w.objects[("Pod", "demo-1-1")]["metadata"]["deletionGracePeriodSeconds"] = 600
    w.pod("demo-1-0", phase="Failed", exit_code=1, message={"failure": {"message": "Connection closed by peer"}})
    assert not w.plan().decided


def test_a_step_beyond_the_last_failure_makes_the_restart_immediate() -> None:
    w = world()
    to_running(w)
    w.reported(step=50)
    w.pod("demo-1-0", phase="Failed", exit_code=1)
    w.settle()
    assert ("Pod", "demo-2-0") in w.objects
    to_running(w)
    w.reported(step=50)
    w.pod("demo-2-0", phase="Failed", exit_code=1)
    w.settle()
    assert ("Pod", "demo-3-0") not in w.objects, "no newer step: backoffSeconds first"
    w.wait(10)
    w.settle()
    assert ("Pod", "demo-3-0") in w.objects


def test_progress_of_an_earlier_attempt_is_not_shown() -> None:
    w = world()
    to_running(w)
    w.reported(step=50)
    w.settle()
    w.pod("demo-1-0", phase="Failed", exit_code=1)
    w.settle()
    assert w.status["attempt"] == 2 and w.report is not None
    to_running(w)
    w.reported(step=0, progress={"tick": 0}, trainer_status={"progressPercentage": 0})
    w.settle()
    assert w.status["progress"]["step"] == 50, "the last known figures stay until there are newer ones"
    assert w.status["display"]["progress"] == "50%"
    w.reported(step=48)
    w.settle()
    assert w.status["progress"]["step"] == 48


def test_what_the_api_server_refused_is_told() -> None:
    w = world()
    w.settle()
    w.refusals = {"Pod/demo-1-0": "exceeded quota: gpus"}
    w.settle()
    assert w.status["phase"] == "Stalled"
    assert "exceeded quota" in w.condition("Stalled")["message"]


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("", "the spec is valid"),
        ("pvc://mine/runs", "the spec is valid; output.size is not used: pvc://mine/runs is a claim of yours,"),
        ("s3://bucket/runs", "the spec is valid"),
    ],
)
def test_the_size_of_a_claim_that_is_not_made_is_told_to_be_unused(uri: str, told: str) -> None:
    output = {"uri": uri, "size": "1Gi"}
    w = world(trainer={"builtin": "image-classification"}, dataset={"uri": "example://digits"}, output=output)
    w.settle()
    message = w.condition("Accepted")["message"]
    assert message.startswith(told) and ("not used" in message) == ("not used" in told)
