"""Adapter: Open Inference Protocol v2 over REST, with Triton's statistics, repository index and classification.

What the clients in the field need beyond the text of the protocol: KServe's client reads `ready` from the body of the
ready check, Triton's reads only the status; Triton's client sends and asks for binary tensors unless told otherwise,
and reads every failure as `{"error": "…"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard_workloads.serve import v2_codec
from modelyard_workloads.serve.dataplane import DataPlane, InferRequest, InferResponse
from modelyard_workloads.serve.errors import InvalidInput, shown
from modelyard_workloads.serve.http import Bodies, JsonReply, compressed, header_values, unless_gone
from modelyard_workloads.serve.tensors import Tensor, TensorSpec

EXTENSIONS = ["binary_tensor_data", "classification", "statistics"]
JSON_SIZE_HEADER = "Inference-Header-Content-Length"
_JSON_SIZE = JSON_SIZE_HEADER.lower()
NAME = "modelyard"
PLATFORM = "modelyard_safetensors"


class V2Adapter:
    """The routes below /v2. `seconds`: the time a request may take, body included."""

    def __init__(self, plane: DataPlane, bodies: Bodies, seconds: float) -> None:
        self._plane = plane
        self._bodies = bodies
        self._seconds = seconds

    def routes(self) -> list[Route]:
        """Every route, the hot one first: the router tries them in order."""
        model = "/v2/models/{model}"
        versioned = f"{model}/versions/{{version}}"
        return [
            *(Route(f"{path}/infer", self.infer, methods=["POST"], name="infer") for path in (model, versioned)),
            *(Route(f"{path}/explain", self.explain, methods=["POST"], name="explain") for path in (model, versioned)),
            Route("/v2/health/live", self.live, name="live"),
            Route("/v2/health/ready", self.ready, name="ready"),
            *(Route(path, self.server_metadata, name="server") for path in ("/v2", "/v2/")),
            Route("/v2/models", self.models, name="models"),
            Route("/v2/models/stats", self.statistics, name="stats"),
            Route("/v2/repository/index", self.repository_index, methods=["POST"], name="repository"),
            *(Route(path, self.model_metadata, name="model") for path in (model, versioned)),
            *(Route(f"{path}/ready", self.model_ready, name="model_ready") for path in (model, versioned)),
            *(Route(f"{path}/stats", self.statistics, name="stats") for path in (model, versioned)),
        ]

    async def live(self, _: Request) -> Response:
        """The process answers, whatever the model does."""
        return JsonReply({"live": True})

    async def ready(self, _: Request) -> Response:
        """200 when new clients should come here, else 503."""
        if self._plane.ready:
            return JsonReply({"ready": True, "live": True})
        return JsonReply({"ready": False, "live": True, "error": self._plane.why_not_ready}, status_code=503)

    async def server_metadata(self, _: Request) -> Response:
        """Name, version and extensions of the server."""
        return JsonReply({"name": NAME, "version": server_version(), "extensions": EXTENSIONS})

    async def models(self, _: Request) -> Response:
        """The list KServe's client reads."""
        return JsonReply({"models": [self._plane.name]})

    async def repository_index(self, request: Request) -> Response:
        """Name, version and state of the model; `{"ready": true}` in the body lists only what is ready."""
        with self._bodies.open() as intake:
            body = await intake.read(request.headers, request.receive, lambda: None, self._seconds)
        plane = self._plane
        if _only_ready(body) and plane.state != "READY":
            return JsonReply([])
        reason = "" if plane.state == "READY" else plane.why_not_ready
        return JsonReply([{"name": plane.name, "version": plane.version, "state": plane.state, "reason": reason}])

    async def model_metadata(self, request: Request) -> Response:
        """Inputs and outputs; `parameters` says which weights answer."""
        model = self._plane.model(*_names(request))
        runtime = model.runtime
        return JsonReply(
            {
                "name": self._plane.name,
                "versions": [self._plane.version],
                "platform": PLATFORM,
                "inputs": [_describe(spec) for spec in runtime.inputs],
                "outputs": [_describe(spec) for spec in runtime.outputs],
                "parameters": {"task": runtime.task, "digest": model.digest, "step": model.step},
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Whether the model answers."""
        name, model_version = _names(request)
        self._plane.check_name(name, model_version)
        if self._plane.ready:
            return JsonReply({"name": name, "ready": True})
        return JsonReply({"name": name, "ready": False, "error": self._plane.why_not_ready}, status_code=503)

    async def statistics(self, request: Request) -> Response:
        """Counts and times since the start, as Triton names them."""
        plane, stats = self._plane, self._plane.statistics
        if "model" in request.path_params:
            plane.check_name(*_names(request))
        times = {
            "success": _duration(stats.successes, stats.success_ns),
            "fail": _duration(stats.failures, stats.failure_ns),
            "queue": _duration(stats.computed, stats.queue_ns),
            "compute_infer": _duration(stats.computed, stats.compute_ns),
        }
        batches = [
            {"batch_size": rows, "compute_infer": _duration(count, total)}
            for rows, (count, total) in sorted(stats.batches.items())
        ]
        entry = {
            "name": plane.name,
            "version": plane.version,
            "last_inference": stats.last_ms,
            "inference_count": stats.inferences,
            "execution_count": stats.executions,
            "inference_stats": times,
            "batch_stats": batches,
        }
        return JsonReply({"model_stats": [entry]})

    async def infer(self, request: Request) -> Response:
        """One inference; see v2_codec for both forms of the body."""
        deadline = monotonic() + self._seconds
        name, model_version = _names(request)
        self._plane.model(name, model_version)  # before the body is read: no upload to learn that there is no model
        headers = header_values(request.scope)
        arrivals: list[Callable[[], None]] = []
        try:
            with self._bodies.open() as intake:
                body = await intake.read(
                    headers,
                    request.receive,
                    lambda: arrivals.append(self._plane.announce(name, model_version)),
                    self._seconds,
                )
                decoded = v2_codec.decode(body, headers.get(_JSON_SIZE))
                if decoded.timeout is not None:
                    deadline = min(deadline, monotonic() + decoded.timeout)
                query = InferRequest(
                    model=name,
                    version=model_version,
                    inputs=decoded.inputs,
                    outputs=None if decoded.outputs is None else [output.name for output in decoded.outputs],
                    deadline=deadline,
                )
                work = unless_gone(request.receive, self._plane.infer(query))
                for arrived in arrivals:  # queued within this turn of the loop, before a batch is put together
                    arrived()
                answer = await work
        finally:
            for arrived in arrivals:
                arrived()
        return self._reply(decoded, answer, headers.get("accept-encoding"))

    async def explain(self, request: Request) -> Response:
        """Why the model answers so: the request of an inference, the explanation as tensors; see docs/serving."""
        deadline = monotonic() + self._seconds
        name, model_version = _names(request)
        self._plane.explainer(name, model_version)
        headers = header_values(request.scope)
        with self._bodies.open() as intake:
            body = await intake.read(headers, request.receive, lambda: None, self._seconds)
            decoded = v2_codec.decode(body, headers.get(_JSON_SIZE))
            query = explanation_query(name, model_version, decoded, deadline)
            answer = await unless_gone(request.receive, self._plane.explain_as_tensors(query))
        return self._encoded(decoded, answer, answer.outputs, headers.get("accept-encoding"))

    def _reply(self, decoded: v2_codec.Decoded, answer: InferResponse, accept_encoding: str | None) -> Response:
        outputs = answer.outputs
        if decoded.outputs is not None:
            outputs = choose_classes(outputs, decoded.outputs, self._plane.model(answer.model).runtime.labels)
        return self._encoded(decoded, answer, outputs, accept_encoding)

    def _encoded(
        self, decoded: v2_codec.Decoded, answer: InferResponse, outputs: list[Tensor], accept_encoding: str | None
    ) -> Response:
        head: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
        if decoded.id:
            head["id"] = decoded.id
        binary = [decoded.binary] * len(outputs)
        if decoded.outputs is not None:
            binary = [wanted.binary for wanted in decoded.outputs]
        encoded = v2_codec.encode(head, outputs, binary)
        if encoded.json_size is None:
            return compressed(Response(encoded.body, media_type="application/json"), accept_encoding)
        reply = Response(encoded.body, media_type="application/octet-stream")
        reply.headers[JSON_SIZE_HEADER] = str(encoded.json_size)
        return compressed(reply, accept_encoding)


def explanation_query(name: str, model_version: str, decoded: v2_codec.Decoded, deadline: float) -> InferRequest:
    """The data plane's request for explanations. Raises InvalidInput for outputs that only predictions have."""
    for output in decoded.outputs or ():
        if output.classes:
            raise InvalidInput(f"output {shown(output.name)}: explanations have no classes; leave out classification")
    if decoded.timeout is not None:
        deadline = min(deadline, monotonic() + decoded.timeout)
    return InferRequest(
        model=name,
        version=model_version,
        inputs=decoded.inputs,
        outputs=None if decoded.outputs is None else [output.name for output in decoded.outputs],
        deadline=deadline,
    )


def choose_classes(
    outputs: list[Tensor], wanted: Sequence[v2_codec.WantedOutput] | None, labels: Sequence[str]
) -> list[Tensor]:
    """The outputs, those for which a number of classes was asked for as their best classes."""
    if wanted is None:
        return outputs
    return [
        best_classes(tensor, one.classes, labels) if one.classes else tensor
        for tensor, one in zip(outputs, wanted, strict=True)
    ]


def best_classes(tensor: Tensor, count: int, labels: Sequence[str]) -> Tensor:
    """Classification extension: [B, K] scores to BYTES [B, count] of "score:index:label", best first."""
    scores = tensor.array
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise InvalidInput(f"output '{tensor.name}' has no classes; leave out classification")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    rows = [
        [f"{row[index]:.6f}:{index}{':' + labels[index] if labels else ''}".encode() for index in best]
        for row, best in zip(scores, order, strict=True)
    ]
    return Tensor(tensor.name, "BYTES", np.array(rows, dtype=object))


def _names(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _duration(count: int, nanoseconds: int) -> dict[str, int]:
    return {"count": count, "ns": nanoseconds}


def _only_ready(body: bytes) -> bool:
    if not body.strip():
        return False
    try:
        query = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidInput('the body is not JSON; leave it empty or send {"ready": true}') from None
    if not isinstance(query, dict) or not isinstance(query.get("ready", False), bool):
        raise InvalidInput('the body must be an object like {"ready": true}')
    return bool(query.get("ready", False))


def server_version() -> str:
    """The version of this distribution."""
    try:
        return version("modelyard")
    except PackageNotFoundError:  # run from a source tree
        return "0"
