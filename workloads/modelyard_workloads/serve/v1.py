"""Adapter: the v1 protocol that KServe and TensorFlow Serving share: rows of plain JSON in, rows of plain JSON out.

`{"instances": [row, …]}` -> `{"predictions": [row, …]}`. A row is an object by input name, or the bare value where the
model has one input; bytes are `{"b64": "…"}`; a prediction is an object by output name, or the bare value where there
is one output; what is JSON already is no text within JSON. `"parameters": {"top_k": K}` beside the rows adds the K
best classes by name. Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from time import monotonic, time
from typing import Any

import numpy as np
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard_workloads.serve import tensors, v2_codec
from modelyard_workloads.serve.dataplane import DataPlane, InferRequest
from modelyard_workloads.serve.errors import InvalidInput, shown
from modelyard_workloads.serve.explain.explanation import as_rows
from modelyard_workloads.serve.http import Bodies, JsonReply, compressed, unless_gone
from modelyard_workloads.serve.openai_replies import model_card
from modelyard_workloads.serve.runtimes import AnswersDocuments, Runtime
from modelyard_workloads.serve.tensors import Array, Tensor, TensorSpec

PROBABILITIES = "probabilities"


class V1Adapter:
    """The routes below /v1, and `/`. `seconds`: the time a request may take, body included."""

    def __init__(self, plane: DataPlane, bodies: Bodies, seconds: float) -> None:
        self._plane = plane
        self._bodies = bodies
        self._seconds = seconds
        self._created = int(time())

    def routes(self) -> list[Route]:
        """Every route."""
        return [
            Route("/", self.alive, name="alive"),
            Route("/v1/models/{model}:predict", self.predict, methods=["POST"], name="predict"),
            Route("/v1/models/{model}:explain", self.explain, methods=["POST"], name="explain"),
            Route("/v1/models", self.models, name="v1_models"),
            Route("/v1/models/{model}", self.model, name="v1_model"),
        ]

    async def alive(self, _: Request) -> Response:
        """Whether the process answers, where KServe's client asks for it in v1."""
        return JsonReply({"status": "alive"})

    async def models(self, _: Request) -> Response:
        """The names of the models, and for OpenAI's clients, which ask here too, their list."""
        cards = [model_card(self._plane.name, self._created)]
        return JsonReply({"models": [self._plane.name], "object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        """Whether the model answers."""
        name = request.path_params["model"]
        if name.endswith((":predict", ":explain")):  # this route matches them too
            raise HTTPException(405, headers={"Allow": "POST"})
        self._plane.check_name(name)
        body = {"name": name, "ready": self._plane.ready} | model_card(name, self._created)
        return JsonReply(body, status_code=200 if self._plane.ready else 503)

    async def predict(self, request: Request) -> Response:
        """One request of any number of rows."""
        deadline = monotonic() + self._seconds
        name = request.path_params["model"]
        model = self._plane.model(name)  # before the body is read
        with self._bodies.open() as intake:
            body = await intake.read(request.headers, request.receive, lambda: None, self._seconds)
            document = load_document(body)
            count = best_asked(document, model.runtime)
            inputs = decode(document, model.runtime.inputs)
            query = InferRequest(model=name, version="", inputs=inputs, outputs=None, deadline=deadline)
            answer = await unless_gone(request.receive, self._plane.infer(query))
        runtime = model.runtime
        documents = runtime.documents if isinstance(runtime, AnswersDocuments) else frozenset()
        rows = encode(answer.outputs, documents)
        if count:
            add_best(rows, runtime.labels, count)
        reply = JsonReply({"predictions": rows})
        return compressed(reply, request.headers.get("accept-encoding"))

    async def explain(self, request: Request) -> Response:
        """Why the model answers so, row by row: `{"explanations": [row, …]}`."""
        deadline = monotonic() + self._seconds
        name = request.path_params["model"]
        self._plane.explainer(name)
        specs = self._plane.model(name).runtime.inputs
        with self._bodies.open() as intake:
            body = await intake.read(request.headers, request.receive, lambda: None, self._seconds)
            query = InferRequest(
                model=name, version="", inputs=decode(load_document(body), specs), outputs=None, deadline=deadline
            )
            rows = as_rows(await unless_gone(request.receive, self._plane.explain(query)))
        return compressed(JsonReply({"explanations": rows}), request.headers.get("accept-encoding"))


def load_document(body: bytes) -> dict[str, Any]:
    """A request. Raises InvalidInput."""
    document = v2_codec.load_json(body)
    if not isinstance(document, dict):
        raise InvalidInput('the body must be an object like {"instances": [row, …]}')
    return document


def best_asked(document: Mapping[str, Any], runtime: Runtime) -> int:
    """How many classes `parameters.top_k` asks for, 0 where nothing is said. Raises InvalidInput."""
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f'parameters must be an object like {{"top_k": 3}}, got {shown(parameters)}')
    if unknown := [name for name in parameters if name != "top_k"]:
        raise InvalidInput(f"parameters: {shown(unknown[0])} is unknown; there is top_k")
    if "top_k" not in parameters:
        return 0
    count, known = parameters["top_k"], len(runtime.labels)
    if not known or not any(spec.name == PROBABILITIES and len(spec.shape) == 2 for spec in runtime.outputs):
        raise InvalidInput("parameters.top_k: the model's answers are no classes with names; leave it out")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidInput(f"parameters.top_k must be a number of classes, 1 to {known}, got {shown(count)}")
    return min(count, known)


def add_best(rows: Sequence[dict[str, Any]], labels: Sequence[str], count: int) -> None:
    """Give each answer `classes`: the names and probabilities of so many, the best first."""
    for row in rows:
        chances = row[PROBABILITIES]
        order = np.argsort(-chances, kind="stable")[:count]
        row["classes"] = [{"label": labels[index], "score": chances[index]} for index in order]


def decode(document: Mapping[str, Any], specs: Sequence[TensorSpec]) -> list[Tensor]:
    """The tensors of a request's rows. Raises InvalidInput."""
    rows = document.get("instances")
    if not isinstance(rows, list) or not rows:
        found = "is missing" if rows is None else f"must be a list of at least one row, got {shown(rows)}"
        raise InvalidInput(f'instances {found}; write {{"instances": [row, …]}}')
    columns: dict[str, list[Any]] = {spec.name: [] for spec in specs}
    for index, row in enumerate(rows):
        values = _by_name(row, specs, index)
        for spec in specs:
            left_out = "" if spec.default is None else spec.default.decode()
            columns[spec.name].append(values.get(spec.name, left_out))
    return [_tensor(spec, columns[spec.name]) for spec in specs]


def _by_name(row: Any, specs: Sequence[TensorSpec], index: int) -> dict[str, Any]:
    if not isinstance(row, dict) or set(row) == {"b64"}:
        required = [spec.name for spec in specs if spec.default is None]
        if len(required) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise InvalidInput(f"instances[{index}] must be an object with {names}, got {shown(row)}")
        return {required[0]: row}
    known = [spec.name for spec in specs]
    if missing := [spec.name for spec in specs if spec.name not in row and spec.default is None]:
        raise InvalidInput(f"instances[{index}] lacks {', '.join(missing)}")
    if unknown := [name for name in row if name not in known]:
        raise InvalidInput(f"instances[{index}]: {shown(unknown[0])} is unknown; the model takes {', '.join(known)}")
    return row


def _tensor(spec: TensorSpec, values: list[Any]) -> Tensor:
    if any(isinstance(value, dict) for value in values) or (
        spec.datatype != "BYTES" and all(isinstance(value, str) for value in values)
    ):
        array = np.empty(len(values), dtype=object)
        array[:] = [_bytes(spec.name, index, value) for index, value in enumerate(values)]
        return Tensor(spec.name, "BYTES", array)
    shape = (len(values), *_shape(values[0]))
    return Tensor(spec.name, spec.datatype, tensors.from_json(spec.name, spec.datatype, shape, values))


def _bytes(name: str, index: int, value: Any) -> bytes:
    """`{"b64": text}`; anything else beside such values is a mistake."""
    text = value.get("b64") if isinstance(value, dict) and set(value) == {"b64"} else None
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else _refuse(name, index, value)
    except binascii.Error:
        raise InvalidInput(f"instances[{index}].{name}: b64 is not base64") from None


def _refuse(name: str, index: int, value: Any) -> bytes:
    raise InvalidInput(f'instances[{index}].{name} must be {{"b64": "…"}} or numbers, got {shown(value)}')


def _shape(value: Any) -> tuple[int, ...]:
    """The sizes of nested lists along their first elements; whether all agree is checked when they are read."""
    sizes: list[int] = []
    while isinstance(value, list) and len(sizes) < tensors.MAX_RANK:
        sizes.append(len(value))
        value = value[0] if value else None
    return tuple(sizes)


def encode(outputs: Sequence[Tensor], documents: Collection[str]) -> list[Any]:
    """One JSON value a row; the outputs named by `documents` [B] hold JSON themselves."""
    columns = {
        tensor.name: [orjson.loads(value) for value in tensor.array] if tensor.name in documents else _values(tensor)
        for tensor in outputs
    }
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(tensor: Tensor) -> list[Any]:
    if tensor.datatype != "BYTES":
        return list(np.ascontiguousarray(tensor.array))
    return _texts(tensor.array)


def _texts(array: Array) -> list[Any]:
    """Bytes as text (UTF-8, anything else is replaced), nested as the array is."""
    if array.ndim > 1:
        return [_texts(row) for row in array]
    return [value.decode("utf-8", "replace") for value in array]
