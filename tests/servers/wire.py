"""What goes over the wire in tests: a valid request, its answer, and replies read from a bare socket."""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np

from servers.inprocess import MODEL, Reply

INFER = f"/v2/models/{MODEL}/infer"
X = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
Y = [6.0, 3.0, 15.0, 6.0]


def binary_body(
    array: np.ndarray, extra: dict[str, Any] | None = None, size: int | None = None
) -> tuple[bytes, dict[str, str]]:
    """`array` as the binary input x, and the header that goes with it; `size` lies about binary_data_size."""
    raw = array.astype("<f4").tobytes()
    tensor: dict[str, Any] = {"name": "x", "shape": list(array.shape), "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": len(raw) if size is None else size}
    head = json.dumps({"inputs": [tensor], **(extra or {})}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def read_reply(connection: socket.socket) -> Reply:
    """The next reply on a connection; fails when there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"closed without a reply: {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return Reply(int(lines[0].split()[1]), headers, body)
