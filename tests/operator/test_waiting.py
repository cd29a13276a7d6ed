"""What is said of a training that does not start: what it asks for, what is left of it, what is missing.

The messages are those of schedulers, quotas and kubelets of Kubernetes 1.31 to 1.37, their numbers changed.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from modelyard_operator.room import Room
from modelyard_operator.training.spec import ModelTrainingSpec
from modelyard_operator.training.waiting import left_of, unplaced
from trainings_world import world

BUSY = "3 Insufficient nvidia.com/gpu, 1 Insufficient cpu, 2 node(s) had untolerated taint(s)"
SCHEDULER = (
    f"0/5 nodes are available: {BUSY}. no new claims to deallocate, preemption: 0/5 nodes are available:"
    " 2 Preemption is not helpful for scheduling, 3 No preemption victims found for incoming pod."
)
TAINTED = "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient nvidia.com/gpu"
CLAIM = 'persistentvolumeclaim "rows" not found'
QUOTA = (
    'pods "demo-1-{rank}" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=8,'
    " used: requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=4"
)


def spec(nodes: int, **resources: Any) -> ModelTrainingSpec:
    return ModelTrainingSpec.model_validate(
        {"trainer": {"image": "example/train:1", "numNodes": nodes, "resourcesPerNode": resources}}
    )


GPUS = spec(2, limits={"nvidia.com/gpu": 8})
ONE = spec(1, limits={"cpu": "64", "nvidia.com/gpu": 1})


@pytest.mark.parametrize(
    ("found", "message", "text"),
    [
        (GPUS, SCHEDULER, f"asks for 8 nvidia.com/gpu on each of 2 nodes; 0 of 5 nodes have that free ({BUSY})"),
        (ONE, SCHEDULER, f"asks for 1 nvidia.com/gpu and 64 cpu on one node; 0 of 5 nodes have that free ({BUSY})"),
        (
            spec(1, limits={"cpu": "64"}, requests={"cpu": "32"}),
            "0/1 nodes are available: 1 Insufficient cpu.",
            "asks for 32 cpu on one node; 0 of 1 nodes have that free (1 Insufficient cpu)",
        ),
        (
            spec(1, limits={"memory": "1Ti"}),
            "0/1 nodes are available: 1 Insufficient memory. still not schedulable, preemption: 0/1 nodes are"
            " available: 1 No preemption victims found for incoming pod.",
            "asks for 1Ti memory on one node; 0 of 1 nodes have that free (1 Insufficient memory)",
        ),
        (
            GPUS,
            f"0/3 nodes are available: {TAINTED}. preemption: 0/3 nodes are available: 1 Preemption is not helpful for"
            " scheduling, 2 No preemption victims found for incoming pod..",
            f"asks for 8 nvidia.com/gpu on each of 2 nodes; 0 of 3 nodes have that free ({TAINTED})",
        ),
        (spec(1, limits={"cpu": "1"}), f"0/3 nodes are available: {TAINTED}.", f"0/3 nodes are available: {TAINTED}"),
        (
            GPUS,
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are"
            " available: 2 Preemption is not helpful for scheduling.",
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector",
        ),
        (
            GPUS,
            f"0/2 nodes are available: {CLAIM}. preemption: 0/2 nodes are available: 2 Preemption is not helpful.",
            f"0/2 nodes are available: {CLAIM}",
        ),
        (GPUS, "no nodes available to schedule pods", "no nodes available to schedule pods"),
        (
            GPUS,
            'Back-off pulling image "example/none:1": ErrImagePull: failed to resolve reference: not found',
            'Back-off pulling image "example/none:1": ErrImagePull: failed to resolve reference: not found',
        ),
    ],
)
def test_what_the_scheduler_finds_short_is_said_with_how_much_was_asked_for(
    found: ModelTrainingSpec, message: str, text: str
) -> None:
    assert unplaced(found, message, {}) == text


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (
            Room(nodes=4, total=Decimal(32), free=Decimal(10), most=Decimal(6)),
            "free: 10 of 32 nvidia.com/gpu on 4 nodes, at most 6 on one",
        ),
        (Room(nodes=1, total=Decimal(8), free=Decimal(0)), "free: 0 of 8 nvidia.com/gpu on one node"),
        (Room(nodes=0), "no node that takes pods has any nvidia.com/gpu"),
    ],
)
def test_and_with_how_much_is_free_where_that_is_known(room: Room, text: str) -> None:
    found = spec(2, limits={"nvidia.com/gpu": 8, "cpu": "64"})
    said = unplaced(found, SCHEDULER, {"nvidia.com/gpu": room})
    assert (
        said == f"asks for 8 nvidia.com/gpu and 64 cpu on each of 2 nodes; 0 of 5 nodes have that free ({BUSY}); {text}"
    )


@pytest.mark.parametrize(
    ("requested", "used", "limited", "text"),
    [
        ("pods=1", "pods=10", "pods=10", "; free: 0 pods"),
        ("pods=1", "pods=12", "pods=10", "; free: 0 pods"),
        ("limits.memory=8Gi", "limits.memory=60Gi", "limits.memory=64Gi", "; free: 4Gi limits.memory"),
        (
            "requests.cpu=4,requests.nvidia.com/gpu=8",
            "requests.cpu=1500m,requests.nvidia.com/gpu=4",
            "requests.cpu=2,requests.nvidia.com/gpu=8",
            "; free: 500m requests.cpu, 4 requests.nvidia.com/gpu",
        ),
        ("pods=1", "pods=none", "pods=10", ""),
    ],
)
def test_what_is_left_of_a_quota_is_said(requested: str, used: str, limited: str, text: str) -> None:
    message = f"forbidden: exceeded quota: team, requested: {requested}, used: {used}, limited: {limited}"
    assert left_of(message) == text


def test_a_refusal_that_is_no_quotas_has_nothing_left_to_say() -> None:
    assert left_of('pods "demo-1-0" is forbidden: violates PodSecurity "restricted:latest"') == ""


def test_the_condition_says_it() -> None:
    w = world(trainer={"image": "a:1", "numNodes": 2, "resourcesPerNode": {"limits": {"nvidia.com/gpu": 8}}})
    w.settle()
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SCHEDULER}
    w.objects["Pod", "demo-1-0"]["status"]["conditions"] = [{**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    w.wait(5)
    w.settle()
    for type_ in ("Scheduled", "Stalled"):
        said = w.condition(type_)["message"]
        assert said == (
            f"demo-1-0: asks for 8 nvidia.com/gpu on each of 2 nodes; 0 of 5 nodes have that free ({BUSY})"
        ), said


def test_a_quota_that_refuses_many_pods_is_told_once() -> None:
    w = world(trainer={"image": "a:1", "numNodes": 64})
    w.settle()
    w.refusals = {f"Pod/demo-1-{rank}": QUOTA.format(rank=rank) for rank in range(2, 64)}
    w.settle()
    said = w.condition("Stalled")["message"]
    assert said == f"Pod/demo-1-10: {QUOTA.format(rank=10)}; free: 2 requests.nvidia.com/gpu (and 61 more)"


def test_refusals_that_differ_are_told_apart() -> None:
    w = world(trainer={"image": "a:1", "numNodes": 2})
    w.settle()
    alike = {f"Pod/demo-1-{rank}": f'pods "demo-1-{rank}" is forbidden: not here' for rank in (0, 1)}
    w.refusals = {**alike, "Service/demo": "is invalid"}
    w.settle()
    said = w.condition("Stalled")["message"]
    assert said == 'Pod/demo-1-0: pods "demo-1-0" is forbidden: not here (and 1 more); Service/demo: is invalid'


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("CreateContainerConfigError", 'secret "keys" not found', "CreateContainerConfigError"),
        ("ImagePullBackOff", 'Back-off pulling image "a:1": ErrImagePull: not found', "ImagePullFailed"),
        ("ErrImagePull", 'failed to pull and unpack image "a:1": not found', "ImagePullFailed"),
    ],
)
def test_what_the_kubelet_waits_for_is_told(reason: str, message: str, told: str) -> None:
    w = world(trainer={"image": "a:1"})
    w.settle()
    pod = w.objects["Pod", "demo-1-0"]
    pod["spec"]["nodeName"] = "n0"
    pod["status"]["containerStatuses"] = [
        {"name": "trainer", "state": {"waiting": {"reason": reason, "message": message}}}
    ]
    w.settle()
    stalled = w.condition("Stalled")
    assert (stalled["reason"], stalled["message"]) == (told, f"demo-1-0: {message}")
