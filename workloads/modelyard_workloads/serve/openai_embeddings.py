"""Embeddings: for models that have an output `embedding` and read text."""

from __future__ import annotations

import base64

import numpy as np
from starlette.responses import Response

from modelyard_workloads.serve.dataplane import DataPlane, InferRequest
from modelyard_workloads.serve.http import JsonReply
from modelyard_workloads.serve.openai_replies import usage
from modelyard_workloads.serve.openai_schema import BadRequest, EmbeddingRequest
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
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not texts:
        raise BadRequest("input: write a text or a list of texts", "input")
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
    # The data plane knows no tokens: nothing is claimed about them.
    return JsonReply({"object": "list", "data": data, "model": plane.name, "usage": usage(0, 0)})


def _encoded(vector: Array, encoding: str) -> Array | str:
    plain = np.ascontiguousarray(vector, dtype="<f4")
    return base64.b64encode(plain.tobytes()).decode() if encoding == "base64" else plain
