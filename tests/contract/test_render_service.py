"""What a ModelService becomes: sources, keys, runtimes, routers, routes from outside, autoscalers of others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from contract.restricted import violations
from modelyard_operator.load import Load, RouterLoad
from modelyard_operator.objects import LABEL_COMPONENT, LABEL_REVISION
from modelyard_operator.plan import Object
from modelyard_operator.router.config import parse_config as parse_router_config
from modelyard_operator.service.autoscalers import pod_pattern
from modelyard_operator.service.runtime import Installation, LoadMetrics, RuntimeProfile
from modelyard_operator.service.source import claim_patches
from modelyard_operator.service.sync import sync
from modelyard_workloads.fetch import FetchConfig
from modelyard_workloads.serve.config import parse_config as parse_serve_config
from simulation import World

VLLM = RuntimeProfile(
    image="vllm:1",
    args=["--model=$(MODELYARD_MODEL_PATH)", "--port=$(MODELYARD_PORT)"],
    port=8000,
    ready_path="/health",
    metrics=LoadMetrics(in_flight=["vllm:num_requests_running"]),
)
INSTALLATION = Installation(
    workloads_image="workloads:1",
    router_image="operator:1",
    prometheus_url="http://prometheus:9090",
    runtimes={"vllm": VLLM, "custom": RuntimeProfile()},
)


def world(uri: str = "pvc://claim/models/a", installation: Installation = INSTALLATION, **spec: Any) -> World:
    """A service that was settled, with all its Deployments available."""
    model = {"source": {"uri": uri}, **spec.pop("model", {})}
    made = World(
        "ModelService",
        {"model": model, **spec},
        lambda parent, children, now: sync(parent, children, now, installation),
    )
    made.settle()
    for (kind, _), body in made.objects.items():
        if kind == "Deployment":
            names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            body["status"] = dict.fromkeys(names, body["spec"]["replicas"])
    made.settle()
    return made


def pod_of(made: World) -> Object:
    """The pod of the one revision."""
    revisions = [
        o for (k, _), o in made.objects.items() if k == "Deployment" and LABEL_REVISION in o["metadata"]["labels"]
    ]
    assert len(revisions) == 1
    return dict(revisions[0]["spec"]["template"]["spec"])


def env(container: Object) -> dict[str, str]:
    return {v["name"]: v.get("value", "") for v in container["env"]}


@pytest.mark.parametrize("uri", ["s3://bucket/m", "gs://bucket/m", "https://host/m", "hf://owner/name"])
def test_a_model_from_elsewhere_is_loaded_before_the_server_starts(uri: str) -> None:
    digest = "sha256:" + "a" * 64
    pod = pod_of(world(uri, model={"digest": digest, "secretRef": "bucket-keys"}))
    (fetch,) = pod["initContainers"]
    config = FetchConfig.model_validate_json(env(fetch)["MODELYARD_FETCH"])
    assert (config.uri, config.digest) == (uri, digest)
    assert fetch["envFrom"] == [{"prefix": "MODELYARD_MODEL_", "secretRef": {"name": "bucket-keys"}}]
    assert "envFrom" not in pod["containers"][0], "the server needs no credentials"
    assert {"name": "model", "emptyDir": {}} in pod["volumes"]
    server = parse_serve_config(env(pod["containers"][0])["MODELYARD_CONFIG"])
    assert str(server.model.path) == str(config.path)
    assert violations(pod) == []


def test_a_model_on_a_claim_is_mounted_read_only_and_nothing_is_loaded() -> None:
    pod = pod_of(world())
    assert "initContainers" not in pod
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "claim", "readOnly": True}} in pod["volumes"]
    config = parse_serve_config(env(pod["containers"][0])["MODELYARD_CONFIG"])
    assert str(config.model.path) == "/modelyard/model/models/a"


def test_keys_are_a_volume_of_the_server() -> None:
    pod = pod_of(world(auth={"mode": "ApiKey", "secretRef": "keys"}))
    assert {"name": "api-keys", "secret": {"secretName": "keys"}} in pod["volumes"]
    config = parse_serve_config(env(pod["containers"][0])["MODELYARD_CONFIG"])
    mounted = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert config.auth is not None
    assert (mounted["api-keys"]["mountPath"], mounted["api-keys"]["readOnly"]) == (str(config.auth.keys_path), True)


def test_a_runtime_profile_brings_its_own_program_and_probes() -> None:
    pod = pod_of(world(runtime="vllm", predictor={"args": ["--max-model-len=4096"]}))
    container = pod["containers"][0]
    assert (container["image"], container["args"]) == ("vllm:1", ["--max-model-len=4096"])
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert container["livenessProbe"]["tcpSocket"] == {"port": "http"}
    assert container["ports"][0]["containerPort"] == 8000
    assert env(container)["MODELYARD_MODEL_PATH"] == "/modelyard/model/models/a"
    assert "MODELYARD_CONFIG" not in env(container)
    assert violations(pod) == []


@pytest.mark.parametrize(
    ("runtime", "says"),
    [("tgi", "known are builtin, custom, vllm"), ("custom", "has no image of its own; write one")],
)
def test_a_runtime_that_cannot_be_used_is_refused_with_what_to_write(runtime: str, says: str) -> None:
    made = world(runtime=runtime)
    assert made.condition("Accepted")["reason"] == "InvalidSpec"
    assert says in made.condition("Accepted")["message"]


def test_a_change_of_a_profile_is_another_revision() -> None:
    one = world(runtime="vllm").status["latestCreatedRevision"]
    assert one != world(runtime="vllm", predictor={"image": "vllm:2"}).status["latestCreatedRevision"]
    assert one == world(runtime="vllm", replicas=4).status["latestCreatedRevision"]


def test_the_router_reads_what_is_written_for_it_and_is_restricted() -> None:
    made = world(scaling={"minReplicas": 0, "maxReplicas": 2}, limits={"maxQueue": 7})
    pod = made.objects["Deployment", "demo-router"]["spec"]["template"]["spec"]
    config = parse_router_config(env(pod["containers"][0])["MODELYARD_ROUTER"])
    revision = made.status["latestReadyRevision"]
    assert [(b.host, b.percent) for b in config.backends] == [(f"demo-{revision}.ns.svc", 100)]
    assert config.max_held == 7
    assert ("Service", f"demo-{revision}") in made.objects
    assert violations(pod) == []
    assert pod["automountServiceAccountToken"] is False


def test_a_gateway_leads_to_the_service_whatever_stands_behind_it() -> None:
    route = {"mode": "HTTPRoute", "gatewayRef": {"name": "public", "sectionName": "https"}, "hostname": "a.example"}
    made = world(route=route, rollout={"strategy": "Canary"})
    before = made.objects["HTTPRoute", "demo"]["spec"]
    assert before["parentRefs"] == [{"name": "public", "sectionName": "https"}]
    assert before["hostnames"] == ["a.example"]
    assert before["rules"] == [{"backendRefs": [{"name": "demo", "port": 80}]}]
    made.edit(batching={"maxBatchSize": 4})
    made.settle()
    for (kind, _), body in made.objects.items():
        if kind == "Deployment":
            body["status"] = dict.fromkeys(("updatedReplicas", "availableReplicas"), 1)
    made.settle()
    assert [share["percent"] for share in made.status["traffic"]] == [90, 10]
    assert ("Deployment", "demo-router") in made.objects, "who divides also counts: else there is no verdict"
    assert made.objects["HTTPRoute", "demo"]["spec"] == before


def test_an_ingress_leads_to_the_service_and_goes_with_its_mode() -> None:
    made = world(route={"mode": "Ingress", "hostname": "a.example"})
    (rule,) = made.objects["Ingress", "demo"]["spec"]["rules"]
    assert rule["host"] == "a.example"
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "demo", "port": {"name": "http"}}
    made.edit(route={"mode": "Auto"})
    made.settle()
    assert ("Ingress", "demo") not in made.objects


def test_a_drain_takes_one_server_at_a_time_where_there_may_be_two() -> None:
    made = world(replicas=3)
    budget = made.objects["PodDisruptionBudget", "demo"]["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    (deployment,) = (o for (kind, _), o in made.objects.items() if kind == "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert [e["key"] for e in budget["selector"]["matchExpressions"]] == [LABEL_REVISION]
    made.edit(replicas=1)
    made.settle()
    assert ("PodDisruptionBudget", "demo") not in made.objects, "nobody could drain the node of a single server"
    made.edit(scaling={"maxReplicas": 2})
    made.settle()
    assert ("PodDisruptionBudget", "demo") in made.objects


def test_routers_have_a_budget_of_their_own_where_there_are_two() -> None:
    two = replace(INSTALLATION, router_replicas=2)
    made = world(scaling={"minReplicas": 0, "maxReplicas": 1}, installation=two)
    selector = made.objects["PodDisruptionBudget", "demo-router"]["spec"]["selector"]
    router = made.objects["Deployment", "demo-router"]["spec"]["template"]["metadata"]["labels"]
    assert selector["matchLabels"].items() <= router.items()
    assert LABEL_REVISION not in router, "no pod has two budgets: an eviction would be refused for ever"


def test_an_autoscaler_of_the_cluster_scales_by_the_scale_subresource() -> None:
    made = world(scaling={"minReplicas": 2, "maxReplicas": 5, "metric": "cpu", "target": 70, "backend": "HPA"})
    spec = made.objects["HorizontalPodAutoscaler", "demo"]["spec"]
    assert spec["scaleTargetRef"]["kind"] == "ModelService"
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    assert spec["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    assert "scaling" not in made.status, "the number is the autoscaler's alone"


@pytest.mark.parametrize("metric", ["concurrency", "rps", "tokens"])
def test_keda_asks_prometheus(metric: str) -> None:
    made = world(scaling={"maxReplicas": 5, "metric": metric, "target": 3, "backend": "KEDA"})
    (trigger,) = made.objects["ScaledObject", "demo"]["spec"]["triggers"]
    assert trigger["metadata"]["serverAddress"] == "http://prometheus:9090"
    assert trigger["metadata"]["threshold"] == "3"
    assert 'namespace="ns"' in trigger["metadata"]["query"]


def test_the_autoscaler_that_keda_makes_is_left_to_it() -> None:
    """It has the labels of the ScaledObject, which are ours, and another owner."""
    made = world(scaling={"maxReplicas": 5, "metric": "rps", "backend": "KEDA"})
    theirs = {**made.objects["ScaledObject", "demo"], "kind": "HorizontalPodAutoscaler"}
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "demo", "uid": "theirs"}
    theirs["metadata"] = {**theirs["metadata"], "name": "keda-hpa-demo", "ownerReferences": [owner]}
    made.objects["HorizontalPodAutoscaler", "keda-hpa-demo"] = theirs
    made.settle()
    assert ("HorizontalPodAutoscaler", "keda-hpa-demo") in made.objects
    made.edit(scaling=None)
    made.settle()
    assert ("ScaledObject", "demo") not in made.objects, "with which theirs goes"


def test_keda_asks_for_what_the_runtime_tells() -> None:
    """Another server program has other names: those of ours would be nothing, and nothing asks for no servers."""
    scaling = {"maxReplicas": 5, "metric": "concurrency", "target": 3, "backend": "KEDA"}
    two = ["vllm:num_requests_running", "vllm:num_requests_waiting"]
    several = replace(INSTALLATION, runtimes={"vllm": VLLM.model_copy(update={"metrics": LoadMetrics(in_flight=two)})})
    pods = f'namespace="ns",pod=~"{pod_pattern("demo")}"'
    for installation, query in (
        (INSTALLATION, f"sum({two[0]}{{{pods}}})"),
        (several, " + ".join(f"(sum({name}{{{pods}}}) or vector(0))" for name in two)),
    ):
        made = world(runtime="vllm", scaling=scaling, installation=installation)
        (trigger,) = made.objects["ScaledObject", "demo"]["spec"]["triggers"]
        assert trigger["metadata"]["query"] == query
    refused = world(runtime="vllm", scaling={**scaling, "metric": "tokens"}).condition("Accepted")
    assert "spec.scaling.metric: the runtime profile 'vllm' names no series for tokens" in refused["message"]


@pytest.mark.parametrize(
    ("service", "pod", "ours"),
    [
        ("demo", "demo-50920ede8e-6c9f7d9b5-x2k4p", True),
        ("demo", "demo-large-50920ede8e-6c9f7d9b5-x2k4p", False),
        ("demo", "demo-router-6c9f7d9b5-x2k4p", False),
        ("de", "demo-50920ede8e-6c9f7d9b5-x2k4p", False),
        ("a" * 40, f"{'a' * 40}-50920ede8e-6c9f7d" + "x2k4p", True),
        ("a" * 46, f"{'a' * 46}-50920ede8e-" + "x2k4p", True),
        ("a" * 52, f"{'a' * 52}-50920" + "x2k4p", True),
    ],
)
def test_prometheus_is_asked_for_the_servers_of_this_service_only(service: str, pod: str, ours: bool) -> None:
    """The long ones are named as the API server cuts what it generates: to 58 characters and five at random."""
    assert (re.fullmatch(pod_pattern(service), pod) is not None) == ours
    assert len(pod) <= 63


@pytest.mark.parametrize(
    ("metrics", "scaling", "refused"),
    [
        (LoadMetrics(in_flight=["running"]), {"metric": "concurrency", "maxReplicas": 3}, False),
        (LoadMetrics(in_flight=["running"]), {"metric": "tokens", "maxReplicas": 3}, True),
        (LoadMetrics(), {"metric": "concurrency", "maxReplicas": 3}, True),
        (LoadMetrics(path=""), {"metric": "rps", "maxReplicas": 3}, True),
        (LoadMetrics(path="/v2/health/load"), {"metric": "rps", "maxReplicas": 3}, False),
        (LoadMetrics(), {"metric": "concurrency", "minReplicas": 0, "maxReplicas": 1}, False),
    ],
    ids=["its series", "another one", "no series", "nothing to ask", "as the bundled server tells it", "on and off"],
)
def test_nobody_scales_by_what_a_server_does_not_tell(
    metrics: LoadMetrics, scaling: dict[str, object], refused: bool
) -> None:
    installation = replace(INSTALLATION, runtimes={"vllm": VLLM.model_copy(update={"metrics": metrics})})
    accepted = world(runtime="vllm", scaling=scaling, installation=installation).condition("Accepted")
    assert accepted["status"] == str(not refused)
    if refused:
        says = f"spec.scaling.metric: the runtime profile 'vllm' names no series for {scaling['metric']}"
        assert says in accepted["message"]


def test_keda_without_a_prometheus_is_refused_unless_it_measures_cpu() -> None:
    without = replace(INSTALLATION, prometheus_url="")
    scaling = {"maxReplicas": 5, "metric": "rps", "backend": "KEDA"}
    refused = world(scaling=scaling, installation=without).condition("Accepted")
    assert refused["status"] == "False"
    assert "spec.scaling.backend" in refused["message"] and "set prometheusUrl of the chart" in refused["message"]
    made = world(scaling={**scaling, "metric": "cpu", "target": 0.4}, installation=without)
    (trigger,) = made.objects["ScaledObject", "demo"]["spec"]["triggers"]
    assert trigger["metadata"]["value"] == "1"


def claim(*owners: str) -> Object:
    refs = [{"kind": "ModelTraining", "uid": uid, "name": uid} for uid in owners if uid != "uid-demo"]
    refs += [{"kind": "ModelService", "uid": "uid-demo", "name": "demo"}] if "uid-demo" in owners else []
    meta = {"name": "claim", "namespace": "ns", "uid": "c", "resourceVersion": "7", "ownerReferences": refs}
    return {"kind": "PersistentVolumeClaim", "metadata": meta}


@pytest.mark.parametrize(
    ("owners", "served", "kept"),
    [
        (("t",), "claim", ["t", "uid-demo"]),
        (("t", "uid-demo"), "claim", None),
        ((), "claim", None),
        (("t", "uid-demo"), "another", ["t"]),
        (("t",), "another", None),
        (("uid-demo",), "claim", None),
    ],
)
def test_a_claim_outlives_its_training_while_it_is_served_from(
    owners: tuple[str, ...], served: str, kept: list[str] | None
) -> None:
    """Nobody's claim is kept anyway, and must not become this service's; the last row's training is gone already."""
    made = world(f"pvc://{served}/a")
    made.held_claims = (claim(*owners),)
    patches = claim_patches(made.parent, made.status["model"], made.children())
    told = [[o["uid"] for o in patch.body["metadata"]["ownerReferences"]] for patch in patches]
    assert told == ([kept] if kept is not None else [])
    for patch in patches:
        assert patch.body["metadata"]["resourceVersion"] == "7"
        assert not any(o.get("controller") for o in patch.body["metadata"]["ownerReferences"] if o["uid"] == "uid-demo")


def test_a_servers_config_has_every_section() -> None:
    config = json.loads(env(pod_of(world())["containers"][0])["MODELYARD_CONFIG"])
    assert {"model", "batching", "validation", "limits", "drain", "server"} <= config.keys()


def test_settings_of_language_models_reach_the_server_and_make_a_revision() -> None:
    generation = {"maxModelLen": 256, "maxNumSeqs": 4, "kvCacheMemory": "64Mi", "prefixCaching": False}
    made = world(generation=generation)
    config = parse_serve_config(env(pod_of(made)["containers"][0])["MODELYARD_CONFIG"]).generation
    assert (config.max_model_len, config.max_num_seqs, config.kv_cache_memory) == (256, 4, 64 << 20)
    assert config.prefix_caching is False
    assert made.status["latestReadyRevision"] != world().status["latestReadyRevision"]
    half = world(generation={**generation, "dtype": "bfloat16"})
    assert parse_serve_config(env(pod_of(half)["containers"][0])["MODELYARD_CONFIG"]).generation.dtype == "bfloat16"
    assert half.status["latestReadyRevision"] != made.status["latestReadyRevision"]


def test_explanations_reach_the_server_and_make_a_revision_only_where_they_are_asked_for() -> None:
    made, plain = world(explain={"steps": 20}), world()
    section = parse_serve_config(env(pod_of(made)["containers"][0])["MODELYARD_CONFIG"]).explain
    assert section is not None and (section.enabled, section.steps) == (True, 20)
    assert "explain" not in json.loads(env(pod_of(plain)["containers"][0])["MODELYARD_CONFIG"])
    assert made.status["latestReadyRevision"] != plain.status["latestReadyRevision"]


def test_a_router_of_a_sleeping_service_stays() -> None:
    made = world(scaling={"minReplicas": 0, "maxReplicas": 2, "idleSeconds": 5})
    made.load = Load(router=RouterLoad(tables=frozenset({"t"}), idle_seconds=6))
    made.settle()
    assert made.status["scaling"]["desired"] == 0
    assert LABEL_COMPONENT in made.objects["Service", "demo"]["spec"]["selector"]
    assert ("Deployment", "demo-router") in made.objects
