"""The server's own description: GET /openapi.json, OpenAPI 3.1, made from the routes that there are.

What clients are made from: every route with its body, its statuses and the form of its errors. A route that is not
described here cannot be served: the document would not be made. Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard_workloads.serve.auth import OPEN_PATHS
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.openai_schema import ChatRequest, CompletionRequest, EmbeddingRequest
from modelyard_workloads.serve.tensors import DATATYPES, TensorSpec

PATH = "/openapi.json"
_BODY = (400, 404, 408, 413, 415, 500, 503, 504)
_OPENAI = (*_BODY, 429)
_JSON, _EVENTS, _BYTES = "application/json", "text/event-stream", "application/octet-stream"
_OBJECT: dict[str, Any] = {"type": "object"}


class Operation(NamedTuple):
    """What a route does: its body by the name of a schema, its statuses beside 200, the types of its answer."""

    summary: str
    body: str = ""
    statuses: tuple[int, ...] = ()
    answers: tuple[str, ...] = (_JSON,)


_OPERATIONS: dict[str, Operation] = {
    "live": Operation("Whether the process answers."),
    "alive": Operation("Whether the process answers, for KServe's clients of v1."),
    "ready": Operation("Whether the model answers.", statuses=(503,)),
    "load": Operation("How much there is to do."),
    "metrics": Operation("Metrics for Prometheus.", answers=("text/plain", "application/openmetrics-text")),
    "openapi": Operation("This document."),
    "server": Operation("Name, version and extensions of the server."),
    "models": Operation("The models."),
    "v1_models": Operation("The models, for KServe's and for OpenAI's clients."),
    "model": Operation("Inputs, outputs and weights of the model.", statuses=(404, 503)),
    "v1_model": Operation("Whether the model answers.", statuses=(404, 405, 503)),
    "model_ready": Operation("Whether the model answers.", statuses=(404, 503)),
    "stats": Operation("Counts and times since the start.", statuses=(404,)),
    "repository": Operation("State of the model.", "RepositoryQuery", (400, 408, 413, 415)),
    "infer": Operation("One inference.", "Inference", _BODY, (_JSON, _BYTES)),
    "predict": Operation("One inference, row by row.", "Rows", _BODY),
    "explain": Operation("Why the model answers so.", "Inference", _BODY, (_JSON, _BYTES)),
    "generate": Operation("One text.", "Prompt", _BODY),
    "generate_stream": Operation("One text as it comes.", "Prompt", _BODY, (_EVENTS,)),
    "completions": Operation("Texts that go on.", "CompletionRequest", _OPENAI, (_JSON, _EVENTS)),
    "chat_completions": Operation("The next turn of a conversation.", "ChatRequest", _OPENAI, (_JSON, _EVENTS)),
    "embeddings": Operation("Texts as vectors.", "EmbeddingRequest", _OPENAI),
}


class OpenApiAdapter:
    """The route of the document."""

    def __init__(self, plane: DataPlane, protected: bool) -> None:
        self._plane = plane
        self._protected = protected
        self._described: list[Route] = []

    def routes(self, others: Iterable[Route]) -> list[Route]:
        """The one route, which describes the others and itself."""
        own = Route(PATH, self.document, name="openapi")
        self._described = [*others, own]
        return [own]

    async def document(self, _: Request) -> Response:
        """The description of what is served now."""
        plane = self._plane
        specs = plane.model(plane.name).runtime.inputs if plane.ready else ()
        found = document(self._described, plane.name, plane.version, specs, protected=self._protected)
        return Response(json.dumps(found), media_type=_JSON)  # orjson has no numbers of more than 64 bits


def document(
    routes: Iterable[Route], model: str, version: str, inputs: Iterable[TensorSpec], *, protected: bool
) -> dict[str, Any]:
    """The OpenAPI document of these routes. Raises KeyError for one that is not described above."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        item = paths.setdefault(route.path, {})
        for method in sorted((route.methods or set()) - {"HEAD"}):
            item[method.lower()] = _operation(route, model, version, protected=protected)
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": model, "version": version or "1", "summary": "A model served by modelyard."},
        "paths": paths,
        "components": {"schemas": _schemas(list(inputs))},
    }
    if protected:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return found


def _operation(route: Route, model: str, version: str, *, protected: bool) -> dict[str, Any]:
    operation = _OPERATIONS[route.name]
    v1, openai = route.path.startswith("/v1/"), operation.statuses is _OPENAI or route.path.startswith("/openai/")
    body = "Rows" if v1 and route.name == "explain" else operation.body
    asks_key = protected and route.path not in OPEN_PATHS
    statuses = [*operation.statuses, *([401] if asks_key else [])]
    error = {"$ref": f"#/components/schemas/{'OpenAIError' if openai else 'Error'}"}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.name}{route.path}").strip("_"),
        "responses": {
            "200": {"description": "OK", "content": {kind: {} for kind in operation.answers}},
            **{str(s): _failed(s, error if s != 503 or body else _OBJECT) for s in sorted(statuses)},
        },
    }
    known = {"model": model, "version": version}
    if names := re.findall(r"\{(\w+)\}", route.path):
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [known[name]]}}
            for name in names
        ]
    if body:
        content = {_JSON: {"schema": {"$ref": f"#/components/schemas/{body}"}}}
        described["requestBody"] = {"required": body != "RepositoryQuery", "content": content}
    if asks_key:
        described["security"] = [{"key": []}]
    return described


def _failed(status: int, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {_JSON: {"schema": schema}}}


def _schemas(inputs: list[TensorSpec]) -> dict[str, Any]:
    message = {"type": "string"}
    names = {"enum": [spec.name for spec in inputs]} if inputs else {}
    size = {"type": "integer", "minimum": 0}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string", **names},
            "shape": {"type": "array", "items": size, "minItems": 1},
            "datatype": {"type": "string", "enum": sorted(DATATYPES)},
            "data": {"type": "array"},
            "parameters": _OBJECT,
        },
    }
    output = {"type": "object", "required": ["name"], "properties": {"name": message, "parameters": _OBJECT}}
    found: dict[str, Any] = {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": message}},
        "OpenAIError": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"]}},
        },
        "RepositoryQuery": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "Inference": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": message,
                "inputs": {"type": "array", "items": tensor, "minItems": 1},
                "outputs": {"type": "array", "items": output},
                "parameters": _OBJECT,
            },
        },
        "Rows": {
            "type": "object",
            "required": ["instances"],
            "properties": {
                "instances": {"type": "array", "minItems": 1},
                "parameters": {"type": "object", "properties": {"top_k": {"type": "integer", "minimum": 1}}},
            },
        },
        "Prompt": {
            "type": "object",
            "required": ["text_input"],
            "properties": {"text_input": message, "parameters": _OBJECT},
        },
    }
    requests: tuple[type[BaseModel], ...] = (CompletionRequest, ChatRequest, EmbeddingRequest)
    for request in requests:
        schema = request.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[request.__name__] = schema
    return found
