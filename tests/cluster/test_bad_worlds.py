"""Specs that are right in a world that is not: the reason is in the status within ten seconds, and what is put right
goes on. (What is wrong in a spec itself is `tests/operator/bad_specs.yaml`'s.)"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory, condition
from cluster.lives import finish_training
from cluster.objects import DIGEST, ON_KWOK, OTHER_DIGEST, Played, service, training

pytestmark = pytest.mark.side_by_side(seconds=30)

REASON_SECONDS = 10
NO_IMAGE = "localhost:1/no/such:1"
"""Where nobody listens: the pull fails at once, without the patience of a resolver."""
PYTHON = "docker.io/library/python:3.13-slim"
SLEEP = ["python", "-c", "import time; time.sleep(600)"]
READ_KEYS = """
import os
assert os.environ["MODELYARD_DATASET_AWS_ACCESS_KEY_ID"] == "key-of-the-data"
assert os.environ["MODELYARD_DATASET"] == "s3://bucket/rows"
"""
FOREIGN = {"app": "of-somebody-else"}


def told(obj: Object, type_: str, reason: str) -> str:
    """The message of a condition that must have its reason, within ten seconds of the object's creation or edit."""
    found = next(c for c in obj["status"]["conditions"] if c["type"] == type_)
    assert found["reason"] == reason, found
    return str(found["message"])


def stalled(played: Played, reason: str, text: str, warning: str = "") -> None:
    """The reason is in Stalled in time, and its message has the text; nothing runs."""
    obj = played.wait_reason("Stalled", reason)
    # a busy kubelet says first that it timed out, and a moment later what is wrong
    eventually(f"{text!r} is said", lambda: text in told(played.observed, "Stalled", reason), told=played.told)
    assert seconds_until(played, obj, "Stalled", warning) <= REASON_SECONDS
    assert obj["status"]["phase"] == "Stalled"


def seconds_until(played: Played, obj: Object, type_: str, warning: str = "") -> float:
    """From the object's creation, or from the kubelet's first Event with a reason: a busy node may be late itself."""
    since = datetime.fromisoformat(obj["metadata"]["creationTimestamp"])
    if warning:
        events = [e for e in played.api.list("Event", played.namespace) if e["reason"] == warning]
        ours = [e for e in events if e["involvedObject"]["name"].startswith(f"{played.name}-")]
        since = min(datetime.fromisoformat(e["firstTimestamp"]) for e in ours)
    found = next(c for c in obj["status"]["conditions"] if c["type"] == type_)
    return (datetime.fromisoformat(found["lastTransitionTime"]) - since).total_seconds()


def create(laboratory: Laboratory, body: Object, namespace: str = "") -> Played:
    return Played.create(laboratory.api, namespace or laboratory.namespace, body)


def claim(name: str) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def own_image(name: str, image: str = PYTHON, **spec: Any) -> Object:
    """A training on the real node, whose kubelet pulls, mounts and refuses."""
    body = training(name, **spec)
    trainer = {"image": image, "command": SLEEP, "numNodes": 1}
    body["spec"] |= {"trainer": trainer, "pod": spec.get("pod", {})}
    del body["spec"]["dataset"]
    return body


def test_a_missing_dataset_claim_is_named_and_creating_it_lets_the_training_run(laboratory: Laboratory) -> None:
    played = create(laboratory, training("no-claim", dataset={"uri": "pvc://no-such-claim/digits"}))
    stalled(played, "Unschedulable", 'persistentvolumeclaim "no-such-claim" not found')
    assert condition(played.observed, "StorageReady") == "False"
    laboratory.api.create(claim("no-such-claim"), laboratory.namespace)
    played.running()


def test_a_missing_secret_is_named_and_creating_it_lets_the_training_run(laboratory: Laboratory) -> None:
    volume = {"name": "keys", "secret": {"secretName": "no-such-secret"}}
    mount = {"name": "keys", "mountPath": "/keys"}
    played = create(laboratory, own_image("no-secret", pod={"volumes": [volume], "volumeMounts": [mount]}))
    stalled(played, "MountFailed", 'secret "no-such-secret" not found', "FailedMount")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "no-such-secret"}, "stringData": {"a": "b"}}
    laboratory.api.create(secret, laboratory.namespace)
    played.running(seconds=240)
    played.delete()


def test_missing_credentials_are_named_and_reach_the_trainer_with_a_prefix(laboratory: Laboratory) -> None:
    body = own_image("no-keys")
    body["spec"]["dataset"] = {"uri": "s3://bucket/rows", "secretRef": "no-such-keys"}
    body["spec"]["trainer"]["command"] = ["python", "-c", READ_KEYS]
    played = create(laboratory, body)
    stalled(played, "CreateContainerConfigError", 'secret "no-such-keys" not found', "Failed")
    keys = {"AWS_ACCESS_KEY_ID": "key-of-the-data"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "no-such-keys"}, "stringData": keys}
    laboratory.api.create(secret, laboratory.namespace)
    played.wait("done", 240, phase="Succeeded")


FREE = r"free: [0-9]+ of [0-9]+ nvidia.com/gpu on [0-9]+ nodes, at most [0-9] on one"
"""The fake nodes have 8 each."""


def test_more_gpus_than_any_node_has_can_be_put_right_while_suspended(laboratory: Laboratory) -> None:
    wanted = {"resourcesPerNode": {"limits": {"nvidia.com/gpu": 64}}}
    played = create(laboratory, training("many-gpus", trainer=wanted))
    stalled(played, "Unschedulable", "asks for 64 nvidia.com/gpu on one node")
    eventually("what is free is said", lambda: re.search(FREE, played.told()), told=played.told)
    played.edit(suspend=True, trainer={"resourcesPerNode": {"limits": {"nvidia.com/gpu": 1}}})
    played.wait("suspended", phase="Suspended")
    played.edit(suspend=False)
    assert played.wait("runs", phase="Running")["status"]["nodes"]["ready"] == 1


def test_an_image_that_cannot_be_pulled_is_named_and_the_right_one_runs(laboratory: Laboratory) -> None:
    played = create(laboratory, own_image("wrong-image", NO_IMAGE))
    stalled(played, "ImagePullFailed", NO_IMAGE, "Failed")
    played.delete()
    played.wait_gone()
    again = create(laboratory, own_image("wrong-image"))
    again.running(seconds=240)
    again.delete()


def test_a_service_with_a_wrong_image_is_put_right_by_an_edit(laboratory: Laboratory) -> None:
    laboratory.api.create(claim("wrong-server"), laboratory.namespace)
    body = service("wrong-server", {"uri": "pvc://wrong-server/a"}, predictor={"image": NO_IMAGE})
    played = create(laboratory, body)
    obj = played.wait_reason("Ready", "ImagePullFailed")
    assert seconds_until(played, obj, "Stalled", "Failed") <= REASON_SECONDS
    played.edit(predictor={"image": "registry.invalid/any:1", **ON_KWOK})
    played.wait("ready", phase="Ready")
    eventually("the wrong revision is gone", lambda: len(played.children("Deployment")) == 1)


def test_a_quota_of_no_pods_is_told_and_raising_it_lets_the_training_run(laboratory: Laboratory) -> None:
    namespace = laboratory.quota_namespace
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    laboratory.api.create(quota, namespace)

    def counted() -> bool:
        return "used" in (laboratory.api.get("ResourceQuota", namespace, "none").get("status") or {})

    eventually("the quota is in force", counted)
    played = create(laboratory, training("over-quota"), namespace)
    stalled(played, "Blocked", "exceeded quota: none")
    laboratory.api.patch("ResourceQuota", namespace, "none", {"spec": {"hard": {"pods": "10"}}})
    played.running()


def test_a_service_waits_for_the_training_that_it_names(laboratory: Laboratory) -> None:
    laboratory.api.create(claim("models"), laboratory.namespace)
    played = create(laboratory, service("early", {"trainingRef": {"name": "late"}}))
    obj = played.wait_reason("Ready", "TrainingNotFound")
    assert 'no ModelTraining "late"' in told(obj, "Ready", "TrainingNotFound")
    assert seconds_until(played, obj, "Ready") <= REASON_SECONDS
    created = create(laboratory, training("late", output={"uri": "pvc://models"}))
    played.wait_reason("Ready", "TrainingNotFinished")
    created.running()
    played.wait_reason("Ready", "TrainingNotFinished")
    created.delete()
    created.wait_gone()
    played.wait_reason("Ready", "TrainingNotFound")
    finish_training(laboratory.api, laboratory.namespace, "late")
    assert played.wait("ready", phase="Ready")["status"]["model"]["digest"] == DIGEST


def test_a_service_of_a_failed_training_says_so_and_can_name_another(laboratory: Laboratory) -> None:
    finish_training(laboratory.api, laboratory.namespace, "broken", failed="loss is NaN")
    finish_training(laboratory.api, laboratory.namespace, "sound")
    played = create(laboratory, service("of-failed", {"trainingRef": {"name": "broken"}}))
    obj = played.wait_reason("Ready", "TrainingFailed")
    assert "loss is NaN" in told(obj, "Stalled", "TrainingFailed")
    assert seconds_until(played, obj, "Ready") <= REASON_SECONDS
    played.edit(model={"source": {"trainingRef": {"name": "sound"}}})
    played.wait_reason("ModelResolved", "Resolved")


def test_an_artifact_that_is_not_there_or_not_the_one_required_is_told(laboratory: Laboratory) -> None:
    finish_training(laboratory.api, laboratory.namespace, "known")
    source = {"trainingRef": {"name": "known", "artifact": "final"}}
    played = create(laboratory, service("required", source, model={"digest": OTHER_DIGEST}))
    obj = played.wait_reason("Ready", "ArtifactMissing")
    assert "it has: best" in told(obj, "ModelResolved", "ArtifactMissing")
    played.edit(model={"source": {"trainingRef": {"name": "known", "artifact": "best"}}})
    obj = played.wait_reason("Ready", "DigestMismatch")
    assert DIGEST in told(obj, "ModelResolved", "DigestMismatch")
    played.edit(model={"digest": DIGEST})
    played.wait_reason("ModelResolved", "Resolved")


@pytest.mark.parametrize("kind", ["Service", "Pod"])
def test_a_namesake_of_a_training_s_child_is_left_alone_and_reported(laboratory: Laboratory, kind: str) -> None:
    name = f"foreign-{kind.lower()}"
    child = foreign(kind, f"{name}-nodes" if kind == "Service" else f"{name}-1-1")
    before = laboratory.api.create(child, laboratory.namespace)
    played = create(laboratory, training(name, nodes=2))
    stalled(played, "Blocked", f'{kind} "{child["metadata"]["name"]}" exists and does not belong to this ModelTraining')
    after = laboratory.api.get(kind, laboratory.namespace, child["metadata"]["name"])
    assert after["metadata"].get("labels") == before["metadata"]["labels"]
    assert "ownerReferences" not in after["metadata"]
    laboratory.api.delete(kind, laboratory.namespace, child["metadata"]["name"], grace_seconds=0)
    played.running()


def test_a_namesake_of_a_service_s_service_is_left_alone_and_reported(laboratory: Laboratory) -> None:
    laboratory.api.create(foreign("Service", "foreign-front"), laboratory.namespace)
    laboratory.api.create(claim("foreign-front"), laboratory.namespace)
    played = create(laboratory, service("foreign-front", {"uri": "pvc://foreign-front/a"}))
    obj = played.wait_reason("Ready", "ChildRefused")
    assert 'Service "foreign-front" exists and does not belong' in told(obj, "Stalled", "ChildRefused")
    laboratory.api.delete("Service", laboratory.namespace, "foreign-front")
    played.wait("ready", phase="Ready")


def foreign(kind: str, name: str) -> Object:
    metadata = {"name": name, "labels": FOREIGN}
    if kind == "Service":
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {"ports": [{"port": 80}]}}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "any", "image": "registry.invalid/any:1", "securityContext": security}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {"containers": [container], **ON_KWOK}}
