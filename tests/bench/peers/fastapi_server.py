"""The peer that most people write: FastAPI and torch, one request at a time. `fastapi_server.py WEIGHTS PORT`."""

from __future__ import annotations

import sys
from typing import Any

import torch
import uvicorn
from bench.peers import classifier
from fastapi import FastAPI
from pydantic import BaseModel

model = classifier.load(sys.argv[1])
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Query(BaseModel):
    inputs: list[Tensor]


@app.post(f"/v2/models/{classifier.NAME}/infer")
async def infer(query: Query) -> dict[str, Any]:
    """On the event loop: for a model this small a thread would only cost."""
    tensor = query.inputs[0]
    with torch.inference_mode():
        answer = model(torch.tensor(tensor.data).reshape(tensor.shape))
    output = {
        "name": classifier.OUTPUT,
        "shape": list(answer.shape),
        "datatype": "FP32",
        "data": answer.flatten().tolist(),
    }
    return {"model_name": classifier.NAME, "outputs": [output]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
