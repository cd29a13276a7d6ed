"""What a pod is told so that each framework finds its peers, and what queues and gang schedulers read of it.

The expected values are those that the frameworks and schedulers document; see `rendezvous` and `scheduling`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from modelyard_operator.plan import Object
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.render import make_pod
from modelyard_operator.training.scheduling import make_pod_group
from modelyard_operator.training.spec import parse

SURROUNDINGS = Surroundings(workloads_image="workloads:test")
PEERS = [f"demo-3-{rank}.demo-nodes.ns.svc" for rank in range(2)]


def training(nodes: int = 2, status: Object | None = None, trainer: Object | None = None, **spec: Any) -> Object:
    meta = {"name": "demo", "namespace": "ns", "uid": "u-1", "generation": 1}
    spec = {"trainer": {"image": "i", "numNodes": nodes, **(trainer or {})}, **spec}
    return {"kind": "ModelTraining", "metadata": meta, "spec": spec, "status": status or {}}


def pod(body: Object, rank: int = 1) -> Object:
    return make_pod(body, parse(body), 3, rank, SURROUNDINGS)


def environment(body: Object, rank: int = 1) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in pod(body, rank)["spec"]["containers"][0]["env"]}


def test_tensorflow_reads_a_cluster_of_workers() -> None:
    told = json.loads(environment(training(trainer={"rendezvous": "tensorflow"}))["TF_CONFIG"])
    assert told == {
        "cluster": {"worker": [f"{peer}:29500" for peer in PEERS]},
        "task": {"type": "worker", "index": 1},
    }


def test_paddle_reads_its_endpoints_and_the_master_of_its_launcher() -> None:
    env = environment(training(trainer={"rendezvous": "paddle", "numProcPerNode": 4}))
    assert {name: value for name, value in env.items() if name.startswith("PADDLE_")} == {
        "PADDLE_MASTER": f"{PEERS[0]}:29501",
        "PADDLE_NNODES": "2",
        "PADDLE_RANK": "1",
        "PADDLE_NPROC_PER_NODE": "4",
        "PADDLE_TRAINERS_NUM": "2",
        "PADDLE_TRAINER_ID": "1",
        "PADDLE_TRAINER_ENDPOINTS": f"{PEERS[0]}:29500,{PEERS[1]}:29500",
        "PADDLE_CURRENT_ENDPOINT": f"{PEERS[1]}:29500",
    }


def test_paddles_launcher_of_node_0_is_named_by_its_own_address() -> None:
    body = training(trainer={"rendezvous": "paddle"})
    names = list(environment(body, rank=0))
    assert environment(body, rank=0)["PADDLE_MASTER"] == "$(MODELYARD_POD_IP):29501"
    assert names.index("MODELYARD_POD_IP") < names.index("PADDLE_MASTER"), "Kubernetes expands what stands before"


def test_the_workloads_are_told_the_digest_that_was_pinned() -> None:
    digest = "sha256:" + "a" * 64
    model = {"source": "training/base", "artifact": "best", "uri": "pvc://base-output/a", "digest": digest}
    body = training(
        status={"model": model},
        trainer={"image": "", "builtin": "bert-pretraining"},
        model={"uri": "training://base"},
        dataset={"uri": "example://docs"},
    )
    told = json.loads(environment(body)["MODELYARD_CONFIG"])["model"]
    assert told == {"uri": "file:///modelyard/model/a", "digest": digest}


def test_the_workloads_are_told_when_running_out_of_memory_brings_more() -> None:
    limited = {"image": "", "builtin": "bert-pretraining", "resourcesPerNode": {"limits": {"memory": "2Gi"}}}
    changes: dict[str, Any] = {"trainer": limited, "dataset": {"uri": "example://docs"}}
    grows = training(**changes, failurePolicy={"onOOM": {"memoryFactor": 1.5, "memoryMax": "8Gi"}})
    assert json.loads(environment(grows)["MODELYARD_CONFIG"])["memoryGrows"] is True
    assert "memoryGrows" not in json.loads(environment(training(**changes))["MODELYARD_CONFIG"])


def test_kueue_orders_by_a_priority_class_of_its_own() -> None:
    body = training(scheduling={"queueName": "research", "workloadPriorityClassName": "urgent"})
    assert pod(body)["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "urgent"
    alone = training(scheduling={"queueName": "research"})
    assert "kueue.x-k8s.io/priority-class" not in pod(alone)["metadata"]["labels"]


@pytest.mark.parametrize("kind", ["tensorflow", "paddle"])
def test_no_framework_gets_the_variables_of_another(kind: str) -> None:
    env = environment(training(nodes=1, trainer={"rendezvous": kind}), rank=0)
    assert not {"MASTER_ADDR", "RANK", "PET_NNODES"} & env.keys()
    assert "localhost:29500" in env["TF_CONFIG" if kind == "tensorflow" else "PADDLE_CURRENT_ENDPOINT"]


def test_kueue_sees_one_group_for_each_attempt() -> None:
    scheduling = {"queueName": "research", "topology": "cloud/rack"}
    meta = pod(training(scheduling=scheduling))["metadata"]
    assert meta["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert meta["labels"]["kueue.x-k8s.io/pod-group-name"] == "demo-3"
    assert meta["annotations"] == {
        "kueue.x-k8s.io/pod-group-total-count": "2",
        "kueue.x-k8s.io/retriable-in-group": "false",
        "kueue.x-k8s.io/podset-required-topology": "cloud/rack",
    }
    assert "affinity" not in pod(training(scheduling=scheduling))["spec"], "Kueue sees to the topology"


@pytest.mark.parametrize(
    ("gang", "version", "mark", "scheduler"),
    [
        ("Volcano", "scheduling.volcano.sh/v1beta1", ("annotations", "scheduling.k8s.io/group-name"), "volcano"),
        ("Coscheduling", "scheduling.x-k8s.io/v1alpha1", ("labels", "scheduling.x-k8s.io/pod-group"), None),
    ],
)
def test_a_gang_scheduler_gets_a_group_of_all_nodes(
    gang: str, version: str, mark: tuple[str, str], scheduler: str | None
) -> None:
    body = training(scheduling={"gang": gang})
    group = make_pod_group(body, parse(body))
    assert group is not None
    assert (group["apiVersion"], group["kind"], group["spec"]) == (version, "PodGroup", {"minMember": 2})
    assert group["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    made = pod(body)
    assert made["metadata"][mark[0]][mark[1]] == group["metadata"]["name"] == "demo"
    assert made["spec"].get("schedulerName") == scheduler
    named = training(scheduling={"gang": gang, "schedulerName": "mine"})
    assert pod(named)["spec"]["schedulerName"] == "mine"


def test_without_a_gang_scheduler_there_is_no_group() -> None:
    body = training(scheduling={"gang": "None"})
    assert make_pod_group(body, parse(body)) is None


def test_a_topology_is_an_affinity_beside_the_users_own() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "cache"}}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    body = training(scheduling={"topology": "cloud/rack"}, pod={"affinity": affinity})
    terms = pod(body)["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    ours = {"matchLabels": {"modelyard.dev/training": "demo", "modelyard.dev/attempt": "3"}}
    assert terms == [term, {"labelSelector": ours, "topologyKey": "cloud/rack"}]


def test_credentials_are_the_kubelets_to_read() -> None:
    body = training(
        dataset={"uri": "s3://bucket/reviews", "secretRef": "data-keys"},
        model={"uri": "hf://owner/name", "secretRef": "hub"},
    )
    container = pod(body)["spec"]["containers"][0]
    assert container["envFrom"] == [
        {"prefix": "MODELYARD_DATASET_", "secretRef": {"name": "data-keys"}},
        {"prefix": "MODELYARD_MODEL_", "secretRef": {"name": "hub"}},
    ]
    env = environment(body)
    assert (env["MODELYARD_DATASET"], env["MODELYARD_MODEL"]) == ("s3://bucket/reviews", "hf://owner/name")


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("pvc://bert-output/artifacts/sha256-aa", {}),
        ("training://bert/final", {"model": {"uri": "pvc://bert-output/artifacts/sha256-aa"}}),
    ],
)
def test_weights_on_a_claim_are_mounted_for_reading(uri: str, status: Object) -> None:
    trainer = {"image": "", "builtin": "image-classification"}
    body = training(model={"uri": uri}, status=status, trainer=trainer, dataset={"uri": "example://digits"})
    made = pod(body)["spec"]
    volume = next(v for v in made["volumes"] if v["name"] == "model")
    assert volume["persistentVolumeClaim"] == {"claimName": "bert-output", "readOnly": True}
    mount = next(m for m in made["containers"][0]["volumeMounts"] if m["name"] == "model")
    assert mount == {"name": "model", "mountPath": "/modelyard/model", "readOnly": True}
    env = environment(body)
    assert env["MODELYARD_MODEL"] == "/modelyard/model/artifacts/sha256-aa"
    assert json.loads(env["MODELYARD_CONFIG"])["model"]["uri"] == "file:///modelyard/model/artifacts/sha256-aa"
