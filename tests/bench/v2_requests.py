"""Prepared requests of the Open Inference Protocol v2, as bytes that a load generator sends over and over."""

from __future__ import annotations

import json
import struct

import numpy as np
import numpy.typing as npt
from modelyard_workloads.serve.grpc_v2 import inference_pb2 as pb

Row = npt.NDArray[np.float32]


def json_request(path: str, array: Row, name: str) -> bytes:
    """HTTP with the tensor as JSON."""
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "data": [round(float(v), 6) for v in array.flat],
    }
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def binary_request(path: str, array: Row, name: str) -> bytes:
    """HTTP with the tensor as raw bytes, and raw bytes asked for."""
    raw = array.tobytes()
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(body)}\r\nContent-Length: {len(body) + len(raw)}\r\n\r\n"
    )
    return head.encode() + body + raw


def grpc_request(model: str, array: Row, name: str, *, raw: bool) -> bytes:
    """A gRPC message with its prefix (compressed flag, length); values raw as Triton's clients send them, or typed."""
    request = pb.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name=name, datatype="FP32", shape=array.shape)
    if raw:
        request.raw_input_contents.append(array.tobytes())
    else:
        tensor.contents.fp32_contents.extend(array.ravel().tolist())
    message: bytes = request.SerializeToString()
    return struct.pack(">BI", 0, len(message)) + message
