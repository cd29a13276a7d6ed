"""The real API server and the CRDs: what plain `kubectl` is told about bad objects, and what it shows of good ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_objects import BadObject, bad_objects
from contract.installation import CHART, helm, identity, kustomization
from localcluster.layout import CONTEXT, Layout

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "manifests" / "crds"
NAMESPACE = "modelyard-test-admission"


def kubectl(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """kubectl on the local cluster, or on the context that MODELYARD_CONTEXT names; never on the current one."""
    layout = Layout.from_environment()
    command = ["kubectl", "--context", os.environ.get("MODELYARD_CONTEXT", CONTEXT), *arguments]
    environment = {**os.environ, "PATH": f"{layout.bin}:{os.environ['PATH']}"}
    if "MODELYARD_CONTEXT" not in os.environ:
        environment["KUBECONFIG"] = str(layout.kubeconfig)
    return subprocess.run(
        command, input=given, text=True, capture_output=True, timeout=60, check=False, env=environment
    )


def create(body: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    arguments = ("create", "--namespace", NAMESPACE, "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    return kubectl(*arguments, given=json.dumps(body))


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    """The CRDs, by plain `kubectl apply`, and a namespace in which every pod must be restricted."""
    succeed(kubectl("apply", "-f", str(CRDS)))
    succeed(kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS)))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    succeed(kubectl("apply", "-f", "-", given=json.dumps(body)))
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def training(**trainer: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ModelTraining",
        "metadata": {"name": "digits"},
        "spec": {"trainer": {"builtin": "image-classification", **trainer}, "dataset": {"uri": "example://digits"}},
    }


@pytest.mark.parametrize("bad", bad_objects(), ids=str)
def test_a_bad_object_is_refused_at_admission_or_left_to_the_operator(bad: BadObject) -> None:
    answer = create(bad.body)
    if bad.admission is None:
        succeed(answer)
    else:
        assert answer.returncode != 0, answer.stdout
        assert bad.admission in answer.stderr


def test_defaults_are_filled_in_for_what_is_supported_and_for_nothing_else() -> None:
    spec = json.loads(succeed(create(training())))["spec"]
    assert spec["trainer"] == {
        "builtin": "image-classification",
        "numNodes": 1,
        "numProcPerNode": "auto",
        "rendezvous": "torch",
        "sharedMemory": "50%",
    }
    assert spec["runPolicy"]["progressDeadlineSeconds"] == 900
    assert spec["checkpoint"] == {"everySeconds": 600, "keepLast": 2, "resume": "Auto"}
    assert "onOOM" not in spec["failurePolicy"]
    assert not {"elasticPolicy", "privacy", "scheduling", "model"} & set(spec)


def test_null_turns_a_limit_off_and_stays() -> None:
    body = training()
    body["spec"]["checkpoint"] = {"everySeconds": None}
    assert json.loads(succeed(create(body)))["spec"]["checkpoint"]["everySeconds"] is None


def test_a_trainer_can_be_put_right_until_the_first_attempt_and_not_afterwards() -> None:
    """numNodes and resourcesPerNode may still change while the training is suspended. No operator of ours looks on."""
    body = training(parameters={"epochs": 2})
    body["metadata"]["name"] = "held"
    body["spec"]["managedBy"] = "example.com/nobody"
    succeed(kubectl("create", "--namespace", NAMESPACE, "-f", "-", given=json.dumps(body)))
    succeed(patch({"spec": {"trainer": {"parameters": {"epochs": 3}}}}))
    succeed(patch({"status": {"attempt": 1}}, "--subresource=status"))
    for trainer in ({"parameters": {"epochs": 4}}, {"env": [{"name": "A"}]}, {"rendezvous": "none"}):
        refused = patch({"spec": {"trainer": trainer}})
        assert f"spec.trainer.{next(iter(trainer))}: " in refused.stderr
        assert "can't be changed once training has started" in refused.stderr
    assert "can be changed only while suspended" in patch({"spec": {"trainer": {"numNodes": 2}}}).stderr
    succeed(patch({"spec": {"suspend": True, "trainer": {"numNodes": 2}}}))
    succeed(patch({"spec": {"suspend": False, "trainer": {"resourcesPerNode": {"limits": {"cpu": 1}}}}}))
    assert "spec.managedBy" in patch({"spec": {"managedBy": "modelyard.dev/controller"}}).stderr


def patch(change: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ("--namespace", NAMESPACE, "--type=merge", "-p", json.dumps(change))
    return kubectl("patch", "modeltraining", "held", *options, *arguments)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("modeltraining.spec.trainer.numNodes", "The number of pods that train together."),
        ("ms.spec.explain", "what each pixel, token or column contributed"),
        ("mt.status.lastFailure", "The rank that failed first"),
        ("ms.spec.validation.golden", "reproduce the answers"),
    ],
)
def test_kubectl_explains_a_field_in_words(field: str, text: str) -> None:
    assert text in " ".join(succeed(kubectl("explain", field)).split())


def test_both_kinds_are_listed_by_their_category() -> None:
    names = succeed(kubectl("api-resources", "--categories=modelyard", "-o", "name")).split()
    assert sorted(names) == ["modelservices.modelyard.dev", "modeltrainings.modelyard.dev"]


def test_a_service_has_a_scale_of_its_own() -> None:
    body = {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": "scaled"},
        "spec": {"model": {"source": {"trainingRef": {"name": "digits"}}}},
    }
    succeed(kubectl("create", "--namespace", NAMESPACE, "-f", "-", given=json.dumps(body)))
    succeed(kubectl("scale", "--namespace", NAMESPACE, "ms/scaled", "--replicas=3"))
    got = kubectl("get", "--namespace", NAMESPACE, "ms", "scaled", "-o", "jsonpath={.spec.replicas}")
    assert succeed(got) == "3"


@pytest.mark.parametrize("path", sorted((ROOT / "manifests" / "samples").glob("*.yaml")), ids=lambda path: path.name)
def test_a_sample_is_accepted(path: Path) -> None:
    arguments = ("--namespace", NAMESPACE, "--dry-run=server", "--validate=strict", "-f", str(path))
    assert "created (server dry run)" in succeed(kubectl("create", *arguments))


def test_kustomize_makes_the_objects_that_the_contract_tests_compare_with_the_chart() -> None:
    made = [body for body in yaml.safe_load_all(succeed(kubectl("kustomize", str(CRDS.parent)))) if body]
    assert {identity(body): body for body in made} == {identity(body): body for body in kustomization()}


def test_the_chart_is_accepted_and_the_restricted_profile_has_nothing_to_warn_of() -> None:
    rendered = helm("template", "modelyard", str(CHART), "--namespace", NAMESPACE)
    answer = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=rendered)
    assert "deployment.apps/modelyard-operator created" in succeed(answer)
    assert "PodSecurity" not in answer.stderr
