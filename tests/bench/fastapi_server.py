"""The peer: what most people write, FastAPI and torch, one request at a time. `fastapi_server.py ARTIFACT PORT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI  # installed for the benchmark only
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.tasks import build_model_from_artifact
from pydantic import BaseModel

model = build_model_from_artifact(read_artifact(Path(sys.argv[1])))
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Query(BaseModel):
    inputs: list[Tensor]


@app.post("/v2/models/digits/infer")
def infer(query: Query) -> dict[str, Any]:
    tensor = query.inputs[0]
    answers = model({"image": torch.tensor(tensor.data).reshape(tensor.shape)})
    return {
        "model_name": "digits",
        "outputs": [
            {"name": name, "shape": list(value.shape), "datatype": "FP32", "data": value.flatten().tolist()}
            for name, value in answers.items()
        ],
    }


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
