"""Fake nodes of a test's own: other tests' pods stay away from them, and they may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.laboratory import condition
from localcluster.fakes import node

LABEL = "modelyard.dev/test-pool"


class Pool:
    """Nodes by name, and what a training says to be placed on them alone."""

    def __init__(self, api: KubernetesApi, name: str) -> None:
        self._api = api
        self.name = name
        self.nodes: list[str] = []

    def add(self, *, played: bool = True) -> str:
        """A node: played by kwok, or one whose kubelet is silent from now on."""
        name = f"{self.name}-{len(self.nodes)}"
        body = node(name)
        body["metadata"]["labels"][LABEL] = self.name
        body["spec"]["taints"] = [{"key": LABEL, "value": self.name, "effect": "NoSchedule"}]
        if not played:
            del body["metadata"]["labels"]["type"]
        self._api.create(body)
        self.nodes.append(name)
        if not played:
            self._breathe_once(name)
        eventually(f"node {name} is ready", lambda: condition(self._api.get("Node", None, name), "Ready") == "True")
        return name

    def lose(self, name: str) -> None:
        """Delete the Node object."""
        self._api.delete("Node", None, name)
        self.nodes.remove(name)

    def pod(self, **more: Any) -> Object:
        """`spec.pod` of a training on this pool."""
        toleration = {"key": LABEL, "operator": "Equal", "value": self.name, "effect": "NoSchedule"}
        return {"nodeSelector": {LABEL: self.name}, "tolerations": [toleration], **more}

    def _breathe_once(self, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "once"}
        change = {"status": {"conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}]}}
        self._api.patch("Node", None, name, change, "status")


@contextmanager
def pool(api: KubernetesApi, name: str) -> Iterator[Pool]:
    """Nodes that are gone at the end."""
    made = Pool(api, name)
    try:
        yield made
    finally:
        for left in made.nodes:
            api.delete("Node", None, left)
