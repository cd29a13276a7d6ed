"""The API server as the tests speak to it: the context explicitly chosen, plain JSON, one connection a thread."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml
from localcluster.layout import CONTEXT, Layout

Object = dict[str, Any]
T = TypeVar("T")

USER_AGENT = "modelyard-tests"
POLL_SECONDS = 0.15
PATHS = {
    "ModelTraining": ("/apis/modelyard.dev/v1alpha1", "modeltrainings"),
    "ModelService": ("/apis/modelyard.dev/v1alpha1", "modelservices"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "HTTPRoute": ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
    "Ingress": ("/apis/networking.k8s.io/v1", "ingresses"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "ResourceQuota": ("/api/v1", "resourcequotas"),
    "Secret": ("/api/v1", "secrets"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Event": ("/api/v1", "events"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Namespace": ("/api/v1", "namespaces"),
    "Node": ("/api/v1", "nodes"),
}
MERGE = "application/merge-patch+json"


class Refused(Exception):
    """An answer of 400 or more."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Access:
    """How to reach the API server of one context: its address and a context with our certificates."""

    server: str
    tls: ssl.SSLContext

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.server)
        return parts.hostname or "", parts.port or 443


def chosen_access() -> Access:
    """The context that MODELYARD_CONTEXT names, or the local cluster's own; never the current one by accident."""
    context = os.environ.get("MODELYARD_CONTEXT", CONTEXT)
    own = Layout.from_environment().kubeconfig
    path = Path(os.environ["KUBECONFIG"]) if "MODELYARD_CONTEXT" in os.environ and "KUBECONFIG" in os.environ else own
    if not path.exists():
        raise RuntimeError(f"{path} does not exist; start a cluster with `make cluster`")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = {c["name"]: c["context"] for c in config["contexts"]}
    if context not in found:
        raise RuntimeError(f"{path} has no context {context!r}; set MODELYARD_CONTEXT to one of {sorted(found)}")
    cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == found[context]["cluster"])
    user = next(u["user"] for u in config["users"] if u["name"] == found[context]["user"])
    tls = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority").decode())
    with tempfile.NamedTemporaryFile() as certificate, tempfile.NamedTemporaryFile() as key:
        Path(certificate.name).write_bytes(_pem(user, "client-certificate"))
        Path(key.name).write_bytes(_pem(user, "client-key"))
        tls.load_cert_chain(certificate.name, key.name)
    return Access(cluster["server"], tls)


def _pem(part: Object, name: str) -> bytes:
    if f"{name}-data" in part:
        return base64.b64decode(part[f"{name}-data"])
    return Path(part[name]).read_bytes()


def path_of(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    group_path, plural = PATHS[kind]
    scope = ("namespaces", namespace) if namespace else ()
    return "/".join(part for part in (group_path, *scope, plural, name, subresource) if part)


class KubernetesApi:
    """A few verbs. Safe to use from several threads."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._local = threading.local()

    def find(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.get(kind, namespace, name)
        except Refused as error:
            if error.code == 404:
                return None
            raise

    def get(self, kind: str, namespace: str | None, name: str) -> Object:
        return self.request("GET", path_of(kind, namespace, name))

    def list(self, kind: str, namespace: str | None, labels: str = "") -> list[Object]:
        query = f"?labelSelector={labels}" if labels else ""
        items: list[Object] = self.request("GET", path_of(kind, namespace) + query)["items"]
        return [{**item, "kind": kind} for item in items]

    def create(self, body: Object, namespace: str | None = None) -> Object:
        return self.request("POST", path_of(body["kind"], namespace or body["metadata"].get("namespace")), body)

    def patch(self, kind: str, namespace: str | None, name: str, change: Object, subresource: str = "") -> Object:
        """A JSON merge patch."""
        return self.request("PATCH", path_of(kind, namespace, name, subresource), change, MERGE)

    def delete(self, kind: str, namespace: str | None, name: str, grace_seconds: int | None = None) -> None:
        """Delete in the background; that it is gone already is success."""
        options: Object = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.request("DELETE", path_of(kind, namespace, name), options)
        except Refused as error:
            if error.code != 404:
                raise

    def evict(self, namespace: str, pod: str) -> None:
        """As `kubectl drain` does it. Raises Refused, with 429 where a disruption budget says no."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        self.request("POST", f"{path_of('Pod', namespace, pod)}/eviction", body)

    def version(self, kind: str, namespace: str) -> str:
        """Of the newest change, for a watch that is to begin after it."""
        listed = self.request("GET", path_of(kind, namespace) + "?limit=1")
        return str(listed["metadata"]["resourceVersion"])

    def watch(self, kind: str, namespace: str, seconds: int, after: str = "") -> Iterator[Object]:
        """Watch events after a version, or from now on, on a connection of its own, until the time is over."""
        version = after or self.version(kind, namespace)
        host, port = self.access.address
        connection = http.client.HTTPSConnection(host, port, timeout=seconds + 30, context=self.access.tls)
        try:
            query = f"watch=1&timeoutSeconds={seconds}&resourceVersion={version}"
            connection.request("GET", f"{path_of(kind, namespace)}?{query}", headers={"User-Agent": USER_AGENT})
            for line in connection.getresponse():
                yield json.loads(line)
        finally:
            connection.close()

    def request(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        for last in (False, True):
            try:
                return self._once(method, path, body, kind)
            except (http.client.HTTPException, OSError):
                self._local.connection = None  # closed while idle; what could be carried out twice is told by a 409
                if last:
                    raise
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: Object | None, kind: str) -> Object:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            host, port = self.access.address
            connection = http.client.HTTPSConnection(host, port, timeout=30, context=self.access.tls)
            self._local.connection = connection
        headers = {"Content-Type": kind, "User-Agent": USER_AGENT}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        answer: Object = json.loads(response.read() or b"{}")
        if response.status >= 400:
            raise Refused(response.status, f"{method} {path}: {answer.get('message', answer)}")
        return answer


def eventually(
    what: str, probe: Callable[[], T | None], seconds: float = 90, told: Callable[[], Any] = lambda: ""
) -> T:
    """The first answer of `probe` that is neither None nor False; fails with `what` and `told()` when time is up."""
    due = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > due:
            raise AssertionError(f"not within {seconds:.0f} s: {what}\n{told()}")
        time.sleep(POLL_SECONDS)
