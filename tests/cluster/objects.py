"""The objects that the tests apply, and what they do to the pods on fake nodes."""

from __future__ import annotations

import json
from typing import Any

from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.laboratory import show

DIGEST = "sha256:" + "ab" * 32
OTHER_DIGEST = "sha256:" + "cd" * 32
ON_KWOK: Object = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
}
EXIT_CODE = "modelyard.dev/kwok-exit-code"
MESSAGE = "modelyard.dev/kwok-termination-message"


def training(name: str, nodes: int = 1, **spec: Any) -> Object:
    """A bundled trainer on fake nodes; nothing of it is run there. Fields of the spec are merged, one level deep."""
    base: Object = {
        "trainer": {"builtin": "image-classification", "numNodes": nodes},
        "dataset": {"uri": "example://digits"},
        "output": {"size": "1Mi"},
        "failurePolicy": {"backoffSeconds": 0},
        "runPolicy": {"terminationGracePeriodSeconds": 1},
        "pod": ON_KWOK,
    }
    for field, value in spec.items():
        base[field] = {**base.get(field, {}), **value} if isinstance(value, dict) else value
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": {"name": name}, "spec": base}


def service(name: str, source: Object, **spec: Any) -> Object:
    """A bundled server on fake nodes, where every pod is Ready at once."""
    model = {"source": source, **spec.pop("model", {})}
    body = {"model": model, "drain": {"preStopSeconds": 0, "timeoutSeconds": 1}, "predictor": ON_KWOK, **spec}
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelService", "metadata": {"name": name}, "spec": body}


def artifacts(claim: str, digest: str = DIGEST) -> str:
    """The termination message of a rank 0 that succeeded, as the bundled launcher writes it."""
    artifact = {
        "name": "best",
        "step": 450,
        "uri": f"pvc://{claim}/artifacts/{digest.replace(':', '-')}",
        "digest": digest,
        "sizeBytes": 1000,
        "task": "image-classification",
        "format": "safetensors",
        "metrics": {"accuracy": "0.991"},
        "createdAt": "2026-01-01T00:00:00Z",
    }
    result = {"step": 450, "totalSteps": 450, "epoch": 10, "metrics": {"loss": "0.01"}, "artifacts": [artifact]}
    return json.dumps({"result": result})


def failure(message: str, exit_code: int = 1) -> str:
    """The termination message of a rank that failed."""
    told = {"rank": 0, "exitCode": exit_code, "exceptionType": "ValueError", "message": message, "logTail": "…"}
    return json.dumps({"failure": told, "step": 10})


class Played:
    """A training or service in a namespace, and the hand that plays its pods."""

    def __init__(self, api: KubernetesApi, kind: str, namespace: str, name: str) -> None:
        self.api, self.kind, self.namespace, self.name = api, kind, namespace, name

    @classmethod
    def create(cls, api: KubernetesApi, namespace: str, body: Object) -> Played:
        api.create(body, namespace)
        return cls(api, body["kind"], namespace, body["metadata"]["name"])

    @property
    def observed(self) -> Object:
        return self.api.get(self.kind, self.namespace, self.name)

    @property
    def status(self) -> Object:
        return self.observed.get("status") or {}

    def wait(self, what: str, seconds: float = 120, **fields: Any) -> Object:
        """Until these fields of the status have these values; returns the object."""

        def there() -> Object | None:
            obj = self.observed
            status = obj.get("status") or {}
            return obj if all(status.get(name) == value for name, value in fields.items()) else None

        return eventually(f"{self.kind} {self.name}: {what}", there, seconds, self.told)

    def wait_reason(self, type_: str, reason: str, seconds: float = 120) -> Object:
        """Until a condition has a reason."""

        def there() -> Object | None:
            obj = self.observed
            conditions = (obj.get("status") or {}).get("conditions") or ()
            return obj if any(c["type"] == type_ and c["reason"] == reason for c in conditions) else None

        return eventually(f"{self.kind} {self.name}: {type_} with reason {reason}", there, seconds, self.told)

    def wait_gone(self, seconds: float = 60) -> None:
        def gone() -> bool:
            return self.api.find(self.kind, self.namespace, self.name) is None

        eventually(f"{self.kind} {self.name} is gone", gone, seconds)

    def told(self) -> str:
        """The status, for a failure's message."""
        return show(self.api.find(self.kind, self.namespace, self.name))

    def edit(self, **spec: Any) -> Object:
        return self.api.patch(self.kind, self.namespace, self.name, {"spec": spec})

    def delete(self) -> None:
        self.api.delete(self.kind, self.namespace, self.name)

    def end(self, attempt: int, rank: int, exit_code: int, message: str = "") -> None:
        """Let a pod of a training on a fake node end."""
        annotations = {MESSAGE: message, EXIT_CODE: str(exit_code)}
        pod = f"{self.name}-{attempt}-{rank}"
        self.api.patch("Pod", self.namespace, pod, {"metadata": {"annotations": annotations}})

    def running(self, attempt: int = 1, seconds: float = 120) -> Object:
        return self.wait(f"attempt {attempt} runs", seconds, phase="Running", attempt=attempt)

    def children(self, *kinds: str) -> list[Object]:
        """The children that carry this parent's label."""
        label = {"ModelTraining": "training", "ModelService": "service"}[self.kind]
        labels = f"modelyard.dev/{label}={self.name}"
        return [child for kind in kinds for child in self.api.list(kind, self.namespace, labels)]
