"""An API of metrics that a process of this machine answers behind the API server, while a block runs.

The API server reaches it at `localhost`, and has no identity of its own towards it: for the time being, who has none
may read these metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.foreign import apply, run
from cluster.kubernetes_api import Object

VERSION = "v1beta1"
RBAC = "rbac.authorization.k8s.io"


@contextmanager
def aggregated(group: str, name: str, namespace: str, port: int, authority: str) -> Iterator[None]:
    """The API `group`, by a Service `name` in a namespace that leads to a port of this machine."""
    registered = [
        *_readers(group, name),
        *_registration(group, {"name": name, "namespace": namespace}, port, authority),
    ]
    try:
        apply(*registered)
        run("wait", "--for=condition=Available", "--timeout=90s", f"apiservice/{VERSION}.{group}")
        yield
    finally:
        for body in reversed(registered):  # the API first: one without an answer would hold namespaces up
            of = ["--namespace", namespace] if "namespace" in body["metadata"] else []
            run("delete", body["kind"].lower(), body["metadata"]["name"], *of, "--ignore-not-found")


def _readers(group: str, name: str) -> list[Object]:
    rules: list[Object] = [
        {"apiGroups": [group], "resources": ["*"], "verbs": ["get", "list"]},
        {"nonResourceURLs": [f"/apis/{group}", f"/apis/{group}/*"], "verbs": ["get"]},
    ]
    readers = [
        {"kind": "User", "apiGroup": RBAC, "name": "system:anonymous"},
        {"kind": "ServiceAccount", "namespace": "kube-system", "name": "horizontal-pod-autoscaler"},
    ]
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
            "subjects": readers,
        },
    ]


def _registration(group: str, service: Object, port: int, authority: str) -> list[Object]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{group}"},
            "spec": {
                "group": group,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": authority,
                "service": {**service, "port": port},
            },
        },
    ]
