"""Adapter: the generate extension of the Open Inference Protocol, as Triton and KServe have it.

POST …/generate `{"text_input": "…", "parameters": {"max_tokens": 20}}` -> `{model_name, model_version, text_output}`;
…/generate_stream gives the same in server-sent events, each with the text that is new. Parameters are those of OpenAI's
API and may stand beside `text_input` too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from time import monotonic
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard_workloads.serve import v2_codec
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.errors import InvalidInput, ServeError, shown
from modelyard_workloads.serve.generation.service import Generation, GenerationService
from modelyard_workloads.serve.http import Bodies, JsonReply, compressed, unless_gone
from modelyard_workloads.serve.openai_schema import COMPLETION_TOKENS, BadRequest, SamplingFields, parse
from modelyard_workloads.serve.sse import EventStream, event


class GenerateAdapter:
    """Two routes a model. `seconds`: the time a request may take, body included."""

    def __init__(self, plane: DataPlane, bodies: Bodies, seconds: float) -> None:
        self._plane = plane
        self._bodies = bodies
        self._seconds = seconds

    def routes(self) -> list[Route]:
        """Every route."""
        paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        return [
            *(Route(f"{path}/generate", self.generate, methods=["POST"], name="generate") for path in paths),
            *(
                Route(f"{path}/generate_stream", self.stream, methods=["POST"], name="generate_stream")
                for path in paths
            ),
        ]

    async def generate(self, request: Request) -> Response:
        """The whole text at once."""
        generation, echo = await self._begin(request)
        with generation:
            text = await unless_gone(request.receive, _text(generation))
        return compressed(
            JsonReply(self._head() | {"text_output": echo + text}), request.headers.get("accept-encoding")
        )

    async def stream(self, request: Request) -> Response:
        """The text as it comes."""
        generation, echo = await self._begin(request)
        return EventStream(self._events(generation, echo))

    async def _begin(self, request: Request) -> tuple[Generation, str]:
        """The generation, and what stands before its text."""
        deadline = monotonic() + self._seconds
        name, version = request.path_params["model"], request.path_params.get("version", "")
        loaded = self._plane.model(name, version)
        if loaded.generation is None:
            raise InvalidInput(f"model '{name}' does not generate text; ask it at /v2/models/{name}/infer")
        with self._bodies.open() as intake:
            body = await intake.read(request.headers, request.receive, lambda: None, self._seconds)
            text, parameters = _read(v2_codec.load_json(body))
        exclude = parameters.pop("exclude_input_in_output", True)
        if not isinstance(exclude, bool):
            raise InvalidInput(f"exclude_input_in_output must be true or false, got {shown(exclude)}")
        generation = await begin(loaded.generation, name, text, parameters, deadline)
        return generation, "" if exclude else text

    def _head(self) -> dict[str, Any]:
        return {"model_name": self._plane.name, "model_version": self._plane.version}

    async def _events(self, generation: Generation, echo: str) -> AsyncGenerator[bytes]:
        with generation:
            try:
                async for arrived in generation:
                    text = echo + "".join(piece.text for _, piece in arrived)
                    echo = ""
                    if text:
                        yield event(orjson.dumps(self._head() | {"text_output": text}))
            except ServeError as error:
                yield event(orjson.dumps({"error": str(error)}))


async def begin(
    service: GenerationService, model: str, text: str, parameters: dict[str, Any], deadline: float
) -> Generation:
    """One answer to a text. Raises InvalidInput and Saturated."""
    language = service.language
    try:
        asked = parse(SamplingFields, {**parameters, "model": model})
        if asked.choices != 1:
            raise InvalidInput("n must be 1 here; several choices are at /v1/completions")
        sampling = asked.sampling(
            0,
            asked.first_seed(),
            max_tokens=COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens,
            ends=language.ends,
            vocabulary=language.vocabulary,
        )
    except BadRequest as error:
        raise InvalidInput(str(error)) from None
    tokens = await language.encode(text, add_special=asked.add_special_tokens is not False)
    return service.open([(tokens, sampling)], deadline)


async def _text(generation: Generation) -> str:
    pieces = [piece.text async for arrived in generation for _, piece in arrived]
    return "".join(pieces)


def _read(document: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(document, dict) or not isinstance(document.get("text_input"), str):
        raise InvalidInput('the body must be an object like {"text_input": "…", "parameters": {"max_tokens": 20}}')
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters must be an object, got {shown(parameters)}")
    beside = {name: value for name, value in document.items() if name not in ("text_input", "parameters", "id")}
    return document["text_input"], {**beside, **parameters}
