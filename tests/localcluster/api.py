"""The few calls to the API server that the local cluster itself needs, over the standard library's HTTP client."""

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import Any

from localcluster import settings
from localcluster.layout import Layout, LocalClusterError

Object = dict[str, Any]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
GROUP_PATHS = {"v1": "/api/v1"}
PLURALS = {"StorageClass": "storageclasses"}


class ApiError(LocalClusterError):
    """An answer of 400 or more; `status` is its code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Requests as one identity of `pki`. One connection, kept open; not for use by two threads at once."""

    def __init__(self, layout: Layout, identity: str = "cluster", timeout: float = 10.0) -> None:
        self._context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        self._context.load_cert_chain(layout.pki / f"{identity}.crt", layout.pki / f"{identity}.key")
        self._timeout = timeout
        server = urllib.parse.urlsplit(settings.load(layout).server)
        self._host, self._port = server.hostname or "127.0.0.1", server.port
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, path: str) -> Object:
        return self._call("GET", path)

    def create(self, path: str, body: Object) -> Object:
        return self._call("POST", path, body)

    def patch(self, path: str, body: Object, kind: str = MERGE) -> Object:
        return self._call("PATCH", path, body, kind)

    def delete(self, path: str, grace_seconds: int | None = None) -> Object:
        options: Object | None = None if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        return self._call("DELETE", path, options)

    def apply(self, manifest: Object) -> Object:
        """Server-side apply: creates or updates, idempotent."""
        path = f"{object_path(manifest)}?fieldManager=modelyard-local&force=true"
        return self._call("PATCH", path, manifest, APPLY)

    def is_ready(self) -> bool:
        """Whether /readyz says ok within a second."""
        try:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=1, context=self._context)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def watch(self, path: str, resource_version: str, seconds: int = 240) -> Iterator[Object]:
        """Events from `resource_version` on, on a connection of its own, until the server ends the watch."""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=seconds + 30, context=self._context)
        try:
            query = f"watch=1&timeoutSeconds={seconds}&allowWatchBookmarks=true&resourceVersion={resource_version}"
            connection.request("GET", f"{path}?{query}")
            response = connection.getresponse()
            if response.status != 200:
                raise ApiError(response.status, response.read().decode(errors="replace"))
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def _call(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        for attempt in (1, 2):
            try:
                return self._once(method, path, body, kind)
            except (http.client.HTTPException, ConnectionError):
                # the server may close an idle connection at any time; every call here can be repeated
                self._connection = None
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: Object | None, kind: str) -> Object:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._context
            )
        payload = None if body is None else json.dumps(body)
        self._connection.request(method, path, payload, {"Content-Type": kind, "User-Agent": "modelyard-local"})
        response = self._connection.getresponse()
        answer: Object = json.loads(response.read() or b"{}")
        if response.status >= 400:
            raise ApiError(response.status, f"{method} {path}: {answer.get('message', answer)}")
        return answer


def object_path(manifest: Object) -> str:
    """The URL path of an object: group and version, namespace if it has one, plural of its kind, name."""
    version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
    prefix = GROUP_PATHS.get(version, f"/apis/{version}")
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{prefix}{namespace}/{PLURALS.get(kind, f'{kind.lower()}s')}/{metadata['name']}"
