"""Embeddings: for models that have an output `embedding` and read text."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
from starlette.responses import Response

from modelyard_workloads.serve.dataplane import DataPlane, InferRequest
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.http import JsonReply
from modelyard_workloads.serve.openai_replies import usage
from modelyard_workloads.serve.openai_schema import BadRequest, EmbeddingRequest
from modelyard_workloads.serve.runtimes import ReadsTokens, Runtime
from modelyard_workloads.serve.tensors import Array, Tensor

OUTPUT = "embedding"


async def embeddings(plane: DataPlane, asked: EmbeddingRequest, deadline: float) -> Response:
    """One vector a text, in order. Raises BadRequest where the model gives none."""
    runtime = plane.model(asked.model).runtime
    specs = [spec for spec in runtime.inputs if spec.default is None]  # those that must be given
    texts_alone = len(specs) == 1 and specs[0].datatype == "BYTES"
    if OUTPUT not in [spec.name for spec in runtime.outputs] or not texts_alone:
        raise BadRequest(
            f"model '{asked.model}' gives no embeddings: its task is {runtime.task}, which has no output '{OUTPUT}'",
            "model",
        )
    texts = [_text(runtime, given, number) for number, given in enumerate(asked.inputs)]
    column = np.empty((len(texts), *(1 for _ in specs[0].shape[1:])), dtype=object)
    column.reshape(-1)[:] = [text.encode() for text in texts]
    query = InferRequest(
        model=asked.model,
        version="",
        inputs=[Tensor(specs[0].name, "BYTES", column)],
        outputs=[OUTPUT],
        deadline=deadline,
    )
    answer = (await plane.infer(query)).outputs[0].array
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, asked.encoding_format)}
        for index, vector in enumerate(answer)
    ]
    tokens = 0
    if isinstance(runtime, ReadsTokens):
        tokens = await asyncio.to_thread(runtime.count_tokens, texts)
    # A list of embeddings tells of no completion.
    counts = {name: count for name, count in usage(tokens, 0).items() if name != "completion_tokens"}
    return JsonReply({"object": "list", "data": data, "model": plane.name, "usage": counts})


def _text(runtime: Runtime, given: str | list[int], number: int) -> str:
    if isinstance(given, str):
        return given
    if not isinstance(runtime, ReadsTokens):
        raise BadRequest("input: this model reads no tokens; send texts", "input")
    try:
        return runtime.text_of(given)
    except InvalidInput as error:
        raise BadRequest(f"input {number}: {error}", "input") from None


def _encoded(vector: Array, encoding: str) -> Array | str:
    plain = np.ascontiguousarray(vector, dtype="<f4")
    return base64.b64encode(plain.tobytes()).decode() if encoding == "base64" else plain
