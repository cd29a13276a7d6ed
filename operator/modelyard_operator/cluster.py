"""The only module that talks to the API server to read and write objects (the watches are kopf's).

The official client's asyncio flavour gives configuration, authentication, token refresh, TLS and the connection pool;
bodies are plain JSON objects. Every call has a timeout, and the number in flight is bounded instead of the rate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.api_client import ApiClient

from modelyard_operator import metrics
from modelyard_operator.plan import Object

FIELD_MANAGER = "modelyard"
MAX_IN_FLIGHT = 48
PAGE = 200
"""Objects in one answer where all of a cluster are looked at, and none is kept."""
TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=3)
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "modelyard-operator",  # so that an audit log tells our requests from everybody else's
}
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Kind(NamedTuple):
    """Where a kind lives in the API."""

    group_path: str
    plural: str


KINDS: Mapping[str, Kind] = {
    "ModelTraining": Kind("/apis/modelyard.dev/v1alpha1", "modeltrainings"),
    "ModelService": Kind("/apis/modelyard.dev/v1alpha1", "modelservices"),
    "Pod": Kind("/api/v1", "pods"),
    "Node": Kind("/api/v1", "nodes"),
    "Service": Kind("/api/v1", "services"),
    "PersistentVolumeClaim": Kind("/api/v1", "persistentvolumeclaims"),
    "Event": Kind("/api/v1", "events"),
    "Deployment": Kind("/apis/apps/v1", "deployments"),
    "Ingress": Kind("/apis/networking.k8s.io/v1", "ingresses"),
    "PodDisruptionBudget": Kind("/apis/policy/v1", "poddisruptionbudgets"),
    "HTTPRoute": Kind("/apis/gateway.networking.k8s.io/v1", "httproutes"),
    "HorizontalPodAutoscaler": Kind("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "ScaledObject": Kind("/apis/keda.sh/v1alpha1", "scaledobjects"),
    "PodGroup.scheduling.volcano.sh": Kind("/apis/scheduling.volcano.sh/v1beta1", "podgroups"),
    "PodGroup.scheduling.x-k8s.io": Kind("/apis/scheduling.x-k8s.io/v1alpha1", "podgroups"),
    "Lease": Kind("/apis/coordination.k8s.io/v1", "leases"),
    "TokenReview": Kind("/apis/authentication.k8s.io/v1", "tokenreviews"),
}


def kind_of(body: Object) -> str:
    """The key of an object's kind in KINDS: its name, and its group where two groups have one of that name."""
    with_group = f"{body['kind']}.{body.get('apiVersion', '').partition('/')[0]}"
    return with_group if with_group in KINDS else str(body["kind"])


@dataclass
class ApiError(Exception):
    """The API server refused a request, or could not be reached (code 0).

    `reason` is the machine-readable one (`AlreadyExists`, `Conflict`, `Invalid`, …), `retry_after` in seconds.
    """

    code: int
    reason: str
    message: str
    retry_after: float = 0.0

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"

    @property
    def not_found(self) -> bool:
        return self.code == 404

    @property
    def already_exists(self) -> bool:
        return self.code == 409 and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        return self.code == 409 and self.reason != "AlreadyExists"

    def about(self, body: Object) -> str:
        """Why an object was refused. Of a kind that it does not know, the API server says `404 page not found`."""
        if self.not_found and not self.reason:
            return f"the cluster knows no {body['kind']} of {body['apiVersion']}; install what defines it"
        return self.message


class Cluster:
    """A few verbs on plain objects. All raise `ApiError`."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.connection_pool_maxsize = MAX_IN_FLIGHT
        configuration.retries = False
        # For every request aiohttp reads ~/.netrc and looks for a proxy, each in a thread: only where there is a proxy.
        configuration.client_session_kwargs = {"trust_env": "https" in getproxies()}
        self._client = ApiClient(configuration)
        self._host = configuration.host.rstrip("/")
        self._in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before every write but those to leases: a process that was frozen wakes up in the middle of one."""

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Cluster:
        """From the pod's service account, or from a kubeconfig file where one is named."""
        configuration = Configuration()
        if kubeconfig:
            await config.load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=configuration)
        return cls(configuration)

    async def close(self) -> None:
        await self._client.close()

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        return await self._request("GET", _path(kind, namespace, name))

    async def list(
        self, kind: str, namespace: str | None, *, labels: str = "", fields: str = "", metadata_only: bool = False
    ) -> list[Object]:
        """The objects of a kind, from the API server's cache (resourceVersion 0), optionally only their metadata."""
        query = {"resourceVersion": "0"}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        headers = {"Accept": _METADATA_ONLY} if metadata_only else {}
        body = await self._request("GET", _path(kind, namespace), query=query, headers=headers)
        return list(body.get("items") or ())

    async def pages(self, kind: str, *, fields: str = "") -> AsyncIterator[Object]:
        """All objects of a kind in all namespaces, one page in memory at a time."""
        query = {"limit": str(PAGE), **({"fieldSelector": fields} if fields else {})}
        while True:
            body = await self._request("GET", _path(kind, None), query=query)
            for item in body.get("items") or ():
                yield item
            following = (body.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = following

    async def create(self, body: Object, namespace: str | None = None) -> Object:
        namespace = namespace or body.get("metadata", {}).get("namespace")
        return await self._request(
            "POST", _path(kind_of(body), namespace), body=body, query={"fieldManager": FIELD_MANAGER}
        )

    async def replace(self, body: Object) -> Object:
        meta = body["metadata"]
        path = _path(body["kind"], meta["namespace"], meta["name"])
        return await self._request("PUT", path, body=body, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, body: Object, subresource: str = "") -> Object:
        """Server-side apply: creates what is absent, takes over and repairs the fields named, leaves all others.

        A `metadata.resourceVersion` in the body makes it conditional; a `metadata.uid` refuses to re-create.
        """
        meta = body["metadata"]
        path = _path(kind_of(body), meta["namespace"], meta["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, body=body, query=query, headers={"Content-Type": _APPLY})

    async def merge(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        path = _path(kind, namespace, name)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", path, body=patch, query=query, headers={"Content-Type": _MERGE})

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, grace_seconds: int | None = None
    ) -> Object | None:
        """Delete exactly this object. That it is gone, or that a namesake has taken its place, is success.

        Returns the object while it is still being deleted, None when it is gone.
        """
        options: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            answer = await self._request("DELETE", _path(kind, namespace, name), body=options)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise
            return None
        return answer if "deletionTimestamp" in (answer.get("metadata") or {}) else None

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        url = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        sent: dict[str, str] = {**_HEADERS, **(headers or {})}
        started = monotonic()
        code = 0
        try:
            async with self._in_flight:
                if method != "GET" and "/leases" not in path and not self.may_write():
                    raise ApiError(0, "NotLeading", "the lease was not renewed in time; nothing is written any more")
                await self._client.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
                response = await self._client.rest_client.request(
                    method, url, headers=sent, body=body, _request_timeout=TIMEOUT
                )
                code = response.status
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The text of these errors names the host and the cause, never headers or tokens.
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}") from error
        finally:
            metrics.observe_api_call(method, _resource(path), code, started)
        if code >= 400:
            raise _error(code, data, response.headers)
        parsed = json.loads(data, object_hook=_without_managed_fields) if data else {}
        return parsed if isinstance(parsed, dict) else {}


def _path(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    group_path, plural = KINDS[kind]
    scope = ("namespaces", namespace) if namespace else ()
    return "/".join((group_path, *(quote(part) for part in (*scope, plural, name, subresource) if part)))


def _without_managed_fields(value: Object) -> Object:
    """Drops while parsing what is half of an object and read by nobody: a listing of a thousand stays small."""
    value.pop("managedFields", None)
    return value


def _resource(path: str) -> str:
    """The plural in a path that `_path` made: `pods` of one namespace or of all."""
    _, namespaced, rest = path.partition("/namespaces/")
    return rest.split("/")[1] if namespaced else path.rsplit("/", 1)[-1]


def _error(code: int, data: bytes, headers: Mapping[str, Any]) -> ApiError:
    try:
        status = json.loads(data)
        reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", data[:200].decode(errors="replace")
    try:
        retry_after = float(headers.get("Retry-After", 0))
    except ValueError:
        retry_after = 0.0
    return ApiError(code, reason, message, retry_after)
