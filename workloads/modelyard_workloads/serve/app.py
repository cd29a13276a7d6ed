"""The ASGI application: routes, one place where errors become replies, counting, and what changes while draining."""

from __future__ import annotations

import logging
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from modelyard_workloads.serve.auth import OPEN_PATHS, ApiKeys
from modelyard_workloads.serve.config import LimitsSection
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.errors import ServeError
from modelyard_workloads.serve.generate import GenerateAdapter
from modelyard_workloads.serve.http import CLIENT_GONE, Bodies, ClientGone, JsonReply, error_reply, plain_error
from modelyard_workloads.serve.metrics import ServerMetrics
from modelyard_workloads.serve.openai import OpenAIAdapter
from modelyard_workloads.serve.openapi import OpenApiAdapter
from modelyard_workloads.serve.traffic import Traffic
from modelyard_workloads.serve.v1 import V1Adapter
from modelyard_workloads.serve.v2 import V2Adapter

log = logging.getLogger(__name__)

_HTTP_ERRORS = {
    404: "no such route; inference is POST /v2/models/{model}/infer, GET /v2/models lists the models",
    405: "this route does not take this method",
}


_OPENAI = ("/v1/completions", "/v1/chat/", "/v1/embeddings")
_INFERENCES = ("infer", "predict", "generate", "generate_stream", "completions", "chat_completions", "embeddings")


class Application:
    """Serves one data plane over HTTP."""

    def __init__(
        self,
        plane: DataPlane,
        metrics: ServerMetrics,
        limits: LimitsSection,
        traffic: Traffic,
        keys: ApiKeys | None = None,
    ) -> None:
        self._plane = plane
        self._metrics = metrics
        bodies = Bodies(limits.max_request_bytes, limits.max_pending_bytes)
        v2 = V2Adapter(plane, bodies, limits.timeout_seconds)
        routes = [
            *v2.routes(),
            *V1Adapter(plane, bodies, limits.timeout_seconds).routes(),
            *GenerateAdapter(plane, bodies, limits.timeout_seconds).routes(),
            *OpenAIAdapter(plane, bodies, limits.timeout_seconds).routes(),
            Route("/metrics", self._scrape, name="metrics"),
            Route("/v2/health/load", self._load, name="load"),
        ]
        routes += OpenApiAdapter(plane, protected=keys is not None).routes(routes)
        self.router = Router(routes, redirect_slashes=False)
        # What is asked for most is found without the router, whose search and wrappers cost as much as the tensors.
        self._infer, self._infer_path = v2.infer, f"/v2/models/{plane.name}/infer"
        self._infer_route = next(route for route in routes if route.name == "infer")
        self._traffic = traffic
        self._keys = keys
        metrics.observe_load(lambda: traffic.in_flight, lambda: plane.queue_depth)

    async def _scrape(self, request: Request) -> Response:
        """Prometheus exposition."""
        body, content_type = self._metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    async def _load(self, _: Request) -> Response:
        """How much there is to do, for whoever decides how many servers there are. Counters, since the start."""
        traffic = self._traffic
        return JsonReply(
            {
                "inFlight": traffic.in_flight,
                "inFlightSeconds": traffic.in_flight_seconds(),
                "requests": traffic.requests,
                "tokens": self._plane.tokens,
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        started = monotonic()
        probe = scope["path"].startswith(("/v2/health/", "/metrics"))
        status = CLIENT_GONE
        scope["app"] = self  # the router raises for 404 and 405 instead of answering in plain text

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._plane.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        if not probe:
            self._traffic.begin()
        try:
            await self._answer(scope, receive, reply)
        finally:
            seconds = monotonic() - started
            route = scope.get("route")
            name = route.name if isinstance(route, Route) else "unknown"
            if not probe:
                self._traffic.end(started + seconds)
            if name in _INFERENCES:
                self._plane.statistics.request(status == 200, seconds)
            self._metrics.request(_protocol(scope["path"]), name, status, seconds)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._keys is not None and scope["path"] not in OPEN_PATHS:
                self._keys.check((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
            if scope["path"] == self._infer_path and scope["method"] == "POST":
                scope["route"], scope["path_params"] = self._infer_route, {"model": self._plane.name}
                answer = await self._infer(Request(scope, receive, send))
                await answer(scope, receive, send)
            else:
                await self.router(scope, receive, send)
            return
        except ServeError as error:
            response = error_reply(error)
        except HTTPException as error:
            message = _HTTP_ERRORS.get(error.status_code, "the request cannot be answered")
            response = plain_error(error.status_code, message, error.headers)
        except ClientGone:
            return
        except Exception as error:
            # The text may quote a client's values: only its type and place are logged, and nothing is sent.
            log.error("unexpected %s", type(error).__name__, exc_info=_without_text(error))
            response = plain_error(500, "internal error")
        await response(scope, receive, send)


def _protocol(path: str) -> str:
    if path.startswith("/v2"):
        return "v2"
    if path.startswith(("/openai/", *_OPENAI)):
        return "openai"
    return "v1" if path.startswith("/v1") else "other"


def _without_text(error: Exception) -> Exception:
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)
