"""What the operator makes of the specs: pods that pass `restricted` whatever was asked, statuses that the CRDs know."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from contract.restricted import violations
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_operator.plan import Children, Object, Plan
from modelyard_operator.pods import RESERVED_MOUNTS, RESERVED_VOLUMES
from modelyard_operator.schema import InvalidSpec, Model
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.status_schema import ModelServiceStatus
from modelyard_operator.service.sync import sync as sync_service
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.render import make_pod
from modelyard_operator.training.spec import parse as parse_training
from modelyard_operator.training.status_schema import ModelTrainingStatus
from modelyard_operator.training.sync import sync as sync_training
from simulation import World

INSTALLATION = Installation(workloads_image="modelyard/workloads:test")
SURROUNDINGS = Surroundings(
    workloads_image="modelyard/workloads:test", status_url="https://status.modelyard.svc:10443", status_ca="PEM"
)
POD = {
    "labels": {"team": "vision"},
    "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "nodeSelector": {"pool": "gpu"},
    "serviceAccountName": "trainer",
}
BUILTIN = {
    "trainer": {"builtin": "image-classification", "numNodes": 2, "resourcesPerNode": {"limits": {"memory": "1Gi"}}},
    "dataset": {"uri": "pvc://images/train"},
    "pod": POD,
}
IMAGE = {"trainer": {"image": "example/train:1", "env": [{"name": "A", "value": "1"}]}, "pod": POD}
SERVED = {"model": {"source": {"trainingRef": {"name": "digits"}}}, "predictor": POD}


def training(spec: Object) -> Object:
    meta = {"name": "demo", "namespace": "ns", "uid": "uid-demo", "generation": 1, "resourceVersion": "1"}
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": meta, "spec": spec}


def training_pods(spec: Object) -> list[Object]:
    """The pods of both ranks of a training."""
    body = training(spec)
    parsed = parse_training(body)
    ranks = range(parsed.trainer.num_nodes)
    return [make_pod(body, parsed, attempt=1, rank=rank, surroundings=SURROUNDINGS)["spec"] for rank in ranks]


def server_pods(spec: Object) -> list[Object]:
    world = World("ModelService", spec, partial(sync_service, installation=INSTALLATION))
    artifact = {"name": "best", "step": 9, "uri": "pvc://digits-output/a", "digest": "sha256:" + "a" * 64}
    conditions = [{"type": "Finished", "status": "True"}, {"type": "Succeeded", "status": "True"}]
    world.training = training({}) | {"status": {"conditions": conditions, "artifacts": [artifact]}}
    world.settle()
    return [body["spec"]["template"]["spec"] for (kind, _), body in world.objects.items() if kind == "Deployment"]


RENDERED = [partial(training_pods, BUILTIN), partial(training_pods, IMAGE), partial(server_pods, SERVED)]


@pytest.mark.parametrize("pods", RENDERED, ids=["builtin", "image", "service"])
def test_a_rendered_pod_is_restricted_and_holds_no_token_of_the_api(pods: Callable[[], list[Object]]) -> None:
    specs = pods()
    assert specs
    for spec in specs:
        assert violations(spec) == []
        assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("pods", RENDERED, ids=["builtin", "image", "service"])
def test_the_operators_own_volumes_and_mounts_are_those_that_users_cannot_take(
    pods: Callable[[], list[Object]],
) -> None:
    for spec in pods():
        assert {volume["name"] for volume in spec["volumes"]} <= {*RESERVED_VOLUMES, "cache"}
        for mount in spec["containers"][0]["volumeMounts"]:
            path = f"{mount['mountPath']}/"
            assert mount["name"] == "cache" or path.startswith(tuple(f"{taken}/" for taken in RESERVED_MOUNTS))


@pytest.mark.parametrize("spec", [BUILTIN, IMAGE], ids=["builtin", "image"])
def test_a_variable_that_the_operator_sets_is_refused_from_users(spec: Object) -> None:
    """But for HOME, which they may want elsewhere."""
    names = {variable["name"] for pod in training_pods(spec) for variable in pod["containers"][0]["env"]}
    assert "MASTER_ADDR" in names
    for name in sorted(names - {"HOME", "A"}):
        trainer = {**spec["trainer"], "env": [{"name": name, "value": "x"}]}
        with pytest.raises(InvalidSpec, match=f"{name} is set by the operator"):
            parse_training(training({**spec, "trainer": trainer}))


DANGEROUS = st.fixed_dictionaries(
    {},
    optional={
        "hostNetwork": st.booleans(),
        "hostPID": st.booleans(),
        "securityContext": st.just({"runAsUser": 0, "privileged": True}),
        "nodeName": st.just("control-plane"),
        "automountServiceAccountToken": st.just(True),
        "containers": st.just([{"name": "trainer", "securityContext": {"privileged": True}}]),
        "hostAliases": st.just([{"ip": "1.1.1.1"}]),
        "serviceAccountName": st.sampled_from(["default", "admin"]),
        "runtimeClassName": st.just("host"),
        "annotations": st.dictionaries(st.sampled_from(["a", "modelyard.dev/x", "x/y"]), st.text(max_size=3)),
        "volumes": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["a", "b", "output"])},
                optional={
                    "hostPath": st.just({"path": "/"}),
                    "emptyDir": st.just({}),
                    "secret": st.just({"secretName": "s"}),
                    "projected": st.just({"sources": [{"serviceAccountToken": {"path": "token"}}]}),
                    "csi": st.just({"driver": "x"}),
                },
            ),
            max_size=3,
        ),
        "volumeMounts": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["a", "b"]), "mountPath": st.sampled_from(["/a", "/tmp", "/b/../tmp", "/"])},
                optional={"mountPropagation": st.just("Bidirectional"), "readOnly": st.booleans()},
            ),
            max_size=2,
        ),
    },
)


@given(DANGEROUS)
@settings(max_examples=300, deadline=None)
def test_no_pod_options_lead_above_restricted(options: Object) -> None:
    try:
        pods = training_pods({"trainer": {"image": "a/b", "numNodes": 2}, "pod": options})
    except InvalidSpec as refused:
        assert refused.issues
        return
    for pod in pods:
        assert violations(pod) == []
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "nodeName", "hostAliases"} & set(pod)
        assert all("mountPropagation" not in mount for mount in pod["containers"][0]["volumeMounts"])


def recording(sync: Callable[..., Plan], seen: list[Object], **settings_: Any) -> Callable[..., Plan]:
    """The same sync, which also keeps every status that it plans."""

    def recorded(parent: Object, children: Children, now: datetime) -> Plan:
        plan = sync(parent, children, now, **settings_)
        if plan.status is not None:
            seen.append(plan.status)
        return plan

    return recorded


def assert_known(statuses: list[Object], model: type[Model]) -> None:
    """Server-side apply fails on a field that the CRD does not declare, and on a type that is not the declared one."""
    assert statuses
    for status in statuses:
        model.model_validate(status, by_alias=True, by_name=False)


def test_every_status_of_a_training_is_as_its_definition_says() -> None:
    seen: list[Object] = []
    sync = recording(sync_training, seen, surroundings=SURROUNDINGS)
    world = World("ModelTraining", {"trainer": {"image": "a/b", "numNodes": 2}}, sync)
    world.settle()
    world.gang("Running")
    world.settle()
    world.reported(step=40)
    world.settle()
    failure = {"failure": {"rank": 1, "exitCode": 1, "exceptionType": "ValueError", "message": "no", "logTail": "no"}}
    world.pod("demo-1-1", phase="Failed", exit_code=1, message=failure)
    world.settle()
    world.wait(700)
    world.settle()
    world.gang("Succeeded", message={"result": {"step": 9, "metrics": {"loss": "0.1"}, "artifacts": []}})
    world.settle()
    world.edit(suspend=True)
    world.settle()
    world.edit(trainer={})
    world.settle()
    assert_known(seen, ModelTrainingStatus)
    assert {"Running", "Restarting"} <= {str(status["phase"]) for status in seen}


def test_every_status_of_a_service_is_as_its_definition_says() -> None:
    seen: list[Object] = []
    world = World("ModelService", SERVED, recording(sync_service, seen, installation=INSTALLATION))
    world.settle()
    artifact = {"name": "best", "step": 9, "uri": "pvc://digits-output/a", "digest": "sha256:" + "a" * 64}
    conditions = [{"type": "Finished", "status": "True"}, {"type": "Succeeded", "status": "True"}]
    world.training = training({}) | {"status": {"conditions": conditions, "artifacts": [artifact]}}
    world.settle()
    for (kind, _), body in world.objects.items():
        if kind == "Deployment":
            names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            body["status"] = dict.fromkeys(names, body["spec"]["replicas"])
    world.settle()
    world.edit(model={"source": {}})
    world.settle()
    assert_known(seen, ModelServiceStatus)
    assert len({status["phase"] for status in seen}) > 1
