"""What the operator renders: the configs that the workloads read, rendezvous, volumes, revisions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from modelyard_operator.plan import Object
from modelyard_operator.service.render import make_deployment, revision_of, selector_of
from modelyard_operator.service.routing import make_service
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.spec import parse as parse_service
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.parameters import defaults_of
from modelyard_operator.training.render import make_output_claim, make_peer_service, make_pod
from modelyard_operator.training.spec import parse as parse_training
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.config import load as load_training_config
from modelyard_workloads.outputs import fingerprint
from modelyard_workloads.serve.config import parse_config as parse_serve_config

AROUND = Surroundings(workloads_image="modelyard/workloads:test", status_url="https://status:10443", status_ca="PEM")
INSTALLATION = Installation(workloads_image="modelyard/workloads:test")
MODEL = {"uri": "pvc://demo-output/artifacts/sha256-aa", "digest": "sha256:" + "a" * 64}


def training(**spec: Any) -> Object:
    meta = {"name": "demo", "namespace": "ns", "uid": "u-1", "generation": 3}
    base: Object = {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": meta}
    return base | {"spec": {"dataset": {"uri": "example://digits"}, **spec}}


def service(**spec: Any) -> Object:
    meta = {"name": "demo", "namespace": "ns", "uid": "u-2", "generation": 1}
    base: Object = {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelService", "metadata": meta}
    return base | {"spec": {"model": {"source": {"trainingRef": {"name": "demo"}}}, **spec}}


def pod_of(body: Object, rank: int = 0, attempt: int = 1) -> Object:
    return make_pod(body, parse_training(body), attempt, rank, AROUND)


def environment(pod_spec: Object) -> dict[str, str]:
    return {v["name"]: v.get("value", "") for v in pod_spec["containers"][0]["env"]}


BUILTIN = {"builtin": "image-classification"}
TRAININGS = {
    "the smallest": training(trainer=BUILTIN),
    "many nodes, checkpoints by step": training(
        trainer={**BUILTIN, "numNodes": 4, "parameters": {"epochs": 3}},
        checkpoint={"everySteps": 7, "everySeconds": None},
    ),
    "data and output on claims": training(
        trainer=BUILTIN, dataset={"uri": "pvc://data/train"}, output={"uri": "pvc://out/runs/a"}
    ),
}


@pytest.mark.parametrize("body", TRAININGS.values(), ids=TRAININGS.keys())
def test_the_trainers_accept_their_config(body: Object) -> None:
    config = load_training_config(environment(pod_of(body)["spec"]))
    assert config.training.name == "demo"
    assert config.training.uid == "u-1"


def test_an_upgrade_changes_neither_the_parameters_nor_the_identity_of_a_training_under_way() -> None:
    body = training(trainer={**BUILTIN, "parameters": {"epochs": 3}})
    first = load_training_config(environment(pod_of(body)["spec"]))
    older = json.loads(defaults_of("image-classification")) | {"learningRate": 0.25, "gone": 1}
    del older["labelSmoothing"]
    body["status"] = {"defaults": json.dumps(older)}
    later = load_training_config(environment(pod_of(body, attempt=2)["spec"]))
    assert (later.parameters.learning_rate, later.parameters.epochs) == (0.25, 3)
    assert first.parameters.model_fields_set == later.parameters.model_fields_set == {"epochs"}
    assert "labelSmoothing" not in json.loads(body["status"]["defaults"])
    again = replaced(later, label_smoothing=0.7)
    assert fingerprint(again) == fingerprint(later), "a parameter that is new decides nothing about the past"
    assert fingerprint(replaced(later, learning_rate=0.5)) != fingerprint(later)


def replaced(config: TrainingConfig, **changes: Any) -> TrainingConfig:
    parameters = config.parameters.model_copy()
    values = {**parameters.__dict__, **changes}
    written = set(parameters.model_fields_set)
    return config.model_copy(update={"parameters": type(parameters).model_construct(written, **values)})


def test_the_server_accepts_its_config() -> None:
    body = service(limits={"maxRequestBytes": "1Mi", "maxWaitSeconds": 3}, batching={"maxBatchSize": 4})
    deployment = make_deployment(body, parse_service(body), MODEL, "abc", 1, INSTALLATION)
    config = parse_serve_config(environment(deployment["spec"]["template"]["spec"])["MODELYARD_CONFIG"])
    assert (config.limits.max_request_bytes, config.limits.max_wait_seconds) == (1 << 20, 3)
    assert config.model.digest == MODEL["digest"]


def test_an_output_on_an_object_store_has_space_of_the_pods_own_and_credentials() -> None:
    body = training(trainer=BUILTIN, output={"uri": "s3://bucket/runs/a/", "secretRef": "keys", "size": "5Gi"})
    assert make_output_claim(body, parse_training(body)) is None
    pod = pod_of(body)
    container = pod["spec"]["containers"][0]
    output = next(v for v in pod["spec"]["volumes"] if v["name"] == "output")
    assert output["emptyDir"] == {"sizeLimit": "5Gi"}
    assert container["envFrom"] == [{"prefix": "MODELYARD_OUTPUT_", "secretRef": {"name": "keys"}}]
    config = json.loads(next(e["value"] for e in container["env"] if e["name"] == "MODELYARD_CONFIG"))
    assert config["output"] == {"path": "/modelyard/output", "uri": "s3://bucket/runs/a"}


def test_only_rank_0_mounts_the_output() -> None:
    body = training(trainer={**BUILTIN, "numNodes": 2})
    mounts = [{v["name"] for v in pod_of(body, rank)["spec"]["volumes"]} for rank in (0, 1)]
    assert "output" in mounts[0]
    assert "output" not in mounts[1]


def test_a_single_node_needs_no_service_and_a_named_claim_is_not_made() -> None:
    body = training(trainer=BUILTIN, output={"uri": "pvc://mine/here"})
    spec = parse_training(body)
    assert make_peer_service(body, spec) is None
    assert make_output_claim(body, spec) is None
    assert environment(pod_of(body)["spec"])["MASTER_ADDR"] == "localhost"


def test_torchrun_and_env_rendezvous_find_rank_0_by_its_name() -> None:
    env = environment(pod_of(training(trainer={"image": "i", "numNodes": 3}), rank=2, attempt=4)["spec"])
    assert env["MASTER_ADDR"] == env["PET_MASTER_ADDR"] == "demo-4-0.demo-nodes.ns.svc"
    assert (env["RANK"], env["WORLD_SIZE"], env["PET_NODE_RANK"], env["PET_NNODES"]) == ("2", "3", "2", "3")


def test_the_launcher_knows_how_long_it_has_to_save() -> None:
    body = training(trainer=BUILTIN, runPolicy={"terminationGracePeriodSeconds": 33})
    pod = pod_of(body)["spec"]
    assert pod["terminationGracePeriodSeconds"] == 33
    assert environment(pod)["MODELYARD_GRACE_SECONDS"] == "33"


def test_without_rendezvous_nothing_is_injected() -> None:
    env = environment(pod_of(training(trainer={"image": "i", "rendezvous": "none"}))["spec"])
    assert not {"MASTER_ADDR", "RANK", "PET_NNODES"} & env.keys()
    assert "KUBEFLOW_TRAINER_SERVER_URL" in env


@pytest.mark.parametrize(
    ("limits", "share", "expected"),
    [
        ({"memory": "2Gi"}, "50%", str(1 << 30)),
        ({"memory": "2Gi"}, "512Mi", "512Mi"),
        ({}, "50%", None),
    ],
)
def test_shared_memory_is_a_share_of_the_limit_or_a_quantity(limits: dict[str, str], share: str, expected: str) -> None:
    body = training(trainer={"image": "i", "resourcesPerNode": {"limits": limits}, "sharedMemory": share})
    shm = next(v for v in pod_of(body)["spec"]["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"].get("sizeLimit") == expected


def test_shared_memory_can_be_turned_off() -> None:
    spec = pod_of(training(trainer={"image": "i", "sharedMemory": "0"}))["spec"]
    assert not [v for v in spec["volumes"] if v["name"] == "shm"]


@pytest.mark.parametrize(
    ("limits", "setting", "expected"),
    [
        ({}, "auto", "1"),
        ({"nvidia.com/gpu": "4"}, "auto", "4"),
        ({"nvidia.com/gpu": "4"}, 2, "2"),
        ({"cpu": "8"}, "auto", "1"),
    ],
)
def test_processes_per_node(limits: dict[str, str], setting: Any, expected: str) -> None:
    body = training(trainer={"image": "i", "resourcesPerNode": {"limits": limits}, "numProcPerNode": setting})
    assert environment(pod_of(body)["spec"])["NPROC_PER_NODE"] == expected


def test_a_revision_changes_with_what_is_served_and_with_nothing_else() -> None:
    def revision(**spec: Any) -> str:
        body = service(**spec)
        return revision_of(body, parse_service(body), MODEL, INSTALLATION)

    base = revision()
    for other in ({"replicas": 3}, {"limits": {"maxQueue": 5}}, {"drain": {"preStopSeconds": 1}}):
        assert revision(**other) == base
    changes: tuple[dict[str, Any], ...] = (
        {"batching": {"maxBatchSize": 2}},
        {"validation": {"golden": "Off"}},
        {"explain": {}},
        {"explain": {"steps": 9}},
        {"predictor": {"image": "other:1"}},
        {"predictor": {"env": [{"name": "A", "value": "b"}]}},
    )
    assert len({base, *(revision(**change) for change in changes)}) == 1 + len(changes)


def test_a_training_and_a_service_of_the_same_name_do_not_fight_over_a_child() -> None:
    body = training(trainer={**BUILTIN, "numNodes": 2})
    peers = make_peer_service(body, parse_training(body))
    assert peers is not None
    front = make_service({**service(), "metadata": body["metadata"]}, selector_of("demo", "abc"), grpc=True)
    assert peers["metadata"]["name"] != front["metadata"]["name"]
    assert pod_of(body)["spec"]["subdomain"] == peers["metadata"]["name"]


def test_the_service_points_at_one_revision() -> None:
    selector = selector_of("demo", "abc")
    assert make_service(service(), selector, grpc=True)["spec"]["selector"] == selector
