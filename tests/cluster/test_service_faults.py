"""Every fault of a service is named in its status: what failed, where, with which exit code and last words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest
from cluster.kubernetes_api import Object
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.services import CLAIM, RUNTIMES, operator_of_small_servers, small_service

pytestmark = pytest.mark.timeout(400)


def crash(code: int, text: str) -> list[str]:
    return ["python", "-c", f"import sys; print({text!r}, file=sys.stderr); sys.exit({code})"]


def last_words(reason: str, code: int) -> list[str]:
    """What a bundled server leaves behind when it cannot serve."""
    told = json.dumps({"failure": {"reason": reason, "message": f"told: {reason}", "logTail": "the last line"}})
    return ["python", "-c", f"open('/dev/termination-log', 'w').write({told!r}); import sys; sys.exit({code})"]


RESOURCES: Object = {"requests": {"cpu": "10m", "memory": "16Mi"}}
HUNGRY = ["python", "-c", "data = b'x' * (512 << 20); print(len(data))"]
SECRET_ENV = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "a"}}}]


@dataclass(frozen=True)
class Fault:
    """A service, the reason that its status must give, and a part of the message."""

    reason: str
    says: str
    predictor: Object = field(default_factory=dict)
    spec: Object = field(default_factory=dict)
    exit_code: int | None = None


NO_KEYS = {"runtime": "builtin", "auth": {"mode": "ApiKey", "secretRef": "no-such-keys"}}

FAULTS = {
    "crash": Fault("ServerCrashed", "no such device", {"command": crash(3, "no such device")}, exit_code=3),
    "memory": Fault(
        "OOMKilled", "", {"command": HUNGRY, "resources": {**RESOURCES, "limits": {"memory": "48Mi"}}}, exit_code=137
    ),
    "golden": Fault("GoldenMismatch", "told:", {"command": last_words("GoldenMismatch", 65)}, exit_code=65),
    "load": Fault("ModelLoadFailed", "told:", {"command": last_words("ModelLoadFailed", 65)}, exit_code=65),
    "digest": Fault("DigestMismatch", "told:", {"command": last_words("DigestMismatch", 65)}, exit_code=65),
    "image": Fault("ImagePullFailed", "registry.invalid", {"image": "registry.invalid/no/image:1"}),
    "gpus": Fault("Unschedulable", "nvidia.com/gpu", {"resources": {"limits": {"nvidia.com/gpu": "8"}}}),
    "secret": Fault("SecretMissing", "no-such-secret", {"env": SECRET_ENV}),
    "account": Fault("PodsRefused", "no-such-account", {"serviceAccountName": "no-such-account"}),
    "claim": Fault("VolumeMissing", "no-such-claim", {}, {"model": {"source": {"uri": "pvc://no-such-claim/a"}}}),
    "keys": Fault("MountFailed", "no-such-keys", {}, NO_KEYS),
    "runtime": Fault("InvalidSpec", f"known are builtin, {', '.join(sorted(RUNTIMES))}", {}, {"runtime": "unknown"}),
    "download": Fault(
        "DownloadFailed", "localhost:1", {}, {"model": {"source": {"uri": "https://localhost:1/model"}}}, exit_code=65
    ),
    "training": Fault(
        "TrainingNotFound", "no-such-training", {}, {"model": {"source": {"trainingRef": {"name": "no-such-training"}}}}
    ),
    "artifact": Fault("ArtifactMissing", "", {}, {"runtime": "builtin"}, exit_code=65),
}


@pytest.fixture(scope="module")
def namespace(laboratory: Laboratory) -> Iterator[str]:
    operator, made = operator_of_small_servers(laboratory, "faults")
    yield made
    operator.kill()


def body_of(name: str, fault: Fault) -> Object:
    body = small_service(f"fault-{name}")
    spec: dict[str, Any] = body["spec"]
    spec["predictor"] = {"resources": RESOURCES, **fault.predictor}
    return body | {"spec": spec | fault.spec}


def test_fifteen_faults_are_named(laboratory: Laboratory, namespace: str) -> None:
    assert len(FAULTS) == 15
    assert CLAIM in json.dumps(body_of("crash", FAULTS["crash"]))
    began = monotonic()
    played = {name: Played.create(laboratory.api, namespace, body_of(name, f)) for name, f in FAULTS.items()}
    for name, fault in FAULTS.items():
        condition = "Accepted" if fault.reason == "InvalidSpec" else "Ready"
        observed = played[name].wait_reason(condition, fault.reason)
        print(f"{name}: {fault.reason} {monotonic() - began:.0f} s after all were made")
        told = next(c["message"] for c in observed["status"]["conditions"] if c["type"] == condition)
        assert fault.says in told, (name, told)
        stalled = next(c for c in observed["status"]["conditions"] if c["type"] == "Stalled")
        assert stalled["status"] == "True", name
        if fault.exit_code is not None:
            failure = observed["status"]["lastFailure"]
            assert (failure["reason"], failure["exitCode"]) == (fault.reason, fault.exit_code)
            assert failure["podName"].startswith(f"fault-{name}-")
    for one in played.values():
        one.delete()


def test_a_quota_is_named_and_raising_it_lets_the_service_run(laboratory: Laboratory, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    laboratory.api.create(quota, namespace)
    played = Played.create(laboratory.api, namespace, small_service("quota"))
    observed = played.wait_reason("Ready", "QuotaExceeded")
    assert "exceeded quota: none" in observed["status"]["lastFailure"]["message"]
    laboratory.api.delete("ResourceQuota", namespace, "none")
    played.wait("ready", 240, phase="Ready")
    assert "lastFailure" not in played.status
    played.delete()
