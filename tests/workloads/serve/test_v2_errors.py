"""Errors over a real socket: the right status, `{"error": …}` with the reason, and nothing of the server's inside."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from servers.inprocess import MODEL, VERSION, Running, configure, running
from servers.rows import POISON, RowModel
from servers.wire import INFER, X, binary_body, read_reply


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(RowModel(), configure(limits={"maxRequestBytes": 200_000})) as running_server:
        yield running_server


BAD_DOCUMENTS: list[tuple[Any, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [NaN]}]}', "not JSON"),
    ([], "must be an object"),
    ({}, "inputs must be a list"),
    ({"inputs": []}, "inputs must be a list"),
    ({"inputs": {}}, "inputs must be a list"),
    ({"inputs": [1]}, r"inputs[0] must be an object"),
    ({"inputs": [X], "id": 7}, "id must be a string"),
    ({"inputs": [X], "parameters": []}, "parameters must be an object"),
    ({"inputs": [X], "parameters": {"binary_data_output": "yes"}}, "true or false"),
    ({"inputs": [X], "parameters": {"timeout": -5}}, "microseconds"),
    ({"inputs": [X], "outputs": {}}, "outputs must be a list"),
    ({"inputs": [X], "outputs": [{}]}, "outputs[0].name"),
    ({"inputs": [X], "outputs": [{"name": "z"}]}, "output 'z' is unknown; the model gives y, name"),
    ({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}, "given twice"),
    ({"inputs": [X, X]}, "given twice"),
    ({"inputs": [{**X, "name": "z"}]}, "input 'z' is unknown; the model takes x"),
    ({"inputs": [{**X, "name": ["x"]}]}, "name must be a string"),
    ({"inputs": [{**X, "datatype": "FP64"}]}, "datatype FP64, the model takes FP32"),
    ({"inputs": [{**X, "datatype": "BF16"}]}, "send FP32"),
    ({"inputs": [{**X, "datatype": None}]}, "use one of BOOL"),
    ({"inputs": [{**X, "shape": [-2, -3]}]}, "negative"),
    ({"inputs": [{**X, "shape": [2**62, 2**62]}]}, "too many elements"),
    ({"inputs": [{**X, "shape": [6]}]}, "the model takes [-1, -1]"),
    ({"inputs": [{**X, "shape": [1] * 100}]}, "at most 16"),
    ({"inputs": [{**X, "shape": [0, 3], "data": []}]}, "is empty"),
    ({"inputs": [{**X, "shape": [3, 3]}]}, "needs 9 values, data has 6"),
    ({"inputs": [{**X, "data": ["1"] * 6}]}, "must be numbers"),
    ({"inputs": [{**X, "data": [1e39] * 6}]}, "outside the range of FP32"),
    ({"inputs": [{**X, "data": [2e6] * 6}]}, "below a million"),
    ({"inputs": [{**X, "data": None}]}, "must be a list"),
    ({"inputs": [{k: v for k, v in X.items() if k != "data"}]}, "neither data nor binary_data_size"),
    ({"inputs": [{**X, "parameters": {"binary_data_size": 24}}]}, "both data and binary_data_size"),
    ({"inputs": [{**X, "parameters": {"shared_memory_region": "r"}}]}, "shared memory is not supported"),
    ({"inputs": [{**X, "parameters": 3}]}, "must be an object"),
]


@pytest.mark.parametrize(("document", "message"), BAD_DOCUMENTS)
def test_bad_requests_get_400_and_the_reason(server: Running, document: object, message: str) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    reply = server.call("POST", INFER, body)
    assert reply.status == 400
    assert message in reply.error
    assert len(reply.error) < 400


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ("999999", None, "must be the length of the JSON part"),
        ("-1", None, "must be the length of the JSON part"),
        ("twelve", None, "must be the length of the JSON part"),
        ("²", None, "must be the length of the JSON part"),
        ("0", None, "not JSON"),
        (None, 23, "takes 24 bytes, got 23"),
        (None, 20, "takes 24 bytes, got 20"),
        (None, 25, "24 bytes are left"),
        (None, -1, "24 bytes are left"),
    ],
)
def test_bad_binary_framing_gets_400(server: Running, header: str | None, size: int | None, message: str) -> None:
    body, headers = binary_body(np.arange(6).reshape(2, 3), size=size)
    if header is not None:
        headers["Inference-Header-Content-Length"] = header
    reply = server.call("POST", INFER, body, headers)
    assert reply.status == 400
    assert message in reply.error


def test_bytes_behind_the_last_tensor_are_refused(server: Running) -> None:
    body, headers = binary_body(np.arange(6).reshape(2, 3))
    reply = server.call("POST", INFER, body + b"!", headers)
    assert reply.status == 400
    assert "1 bytes follow the last tensor" in reply.error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v3", 404),
        ("GET", "/v3", 404),
        ("GET", "/v2/", 200),
        ("GET", "/v2/models/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", f"/v2/models/{MODEL}/versions/2", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", f"/v2/models/{MODEL}/versions/2/infer", 404),
        ("POST", "/v2/models/%2e%2e%2f%00/infer", 404),
        ("GET", "/v2/models/" + "x" * 5000, 404),
        ("GET", INFER, 405),
        ("DELETE", INFER, 405),
        ("POST", "/v2/health/live", 405),
        ("PUT", "/metrics", 405),
        ("GET", "/v2/repository/index", 405),
    ],
)
def test_unknown_routes_models_and_methods_are_json_errors(
    server: Running, method: str, path: str, status: int
) -> None:
    reply = server.call(method, path)
    assert reply.status == status
    if status >= 400:
        assert reply.error
        assert len(reply.error) < 300
    if status == 405:
        assert reply.headers["allow"]


def test_every_route_answers_json_whatever_the_method(server: Running) -> None:
    for route in server.app.router.routes:
        path = route.path.replace("{model}", MODEL).replace("{version}", VERSION)  # type: ignore[attr-defined]
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            reply = server.call(method, path, b"{}" if method == "POST" else None)
            unexplained = (404,) if path.endswith("explain") else ()  # of a model that is served without
            assert reply.status in (200, 400, 405, *unexplained), (method, path)
            if reply.status != 200:
                error = reply.json()["error"]
                assert error["message"] if isinstance(error, dict) else error  # OpenAI's errors are objects


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Encoding": "gzip"}, 400),
        ({"Content-Encoding": "deflate"}, 400),
    ],
)
def test_bodies_that_cannot_be_read_are_refused(server: Running, headers: dict[str, str], status: int) -> None:
    reply = server.infer({"inputs": [X]}, headers)
    assert reply.status == status
    assert reply.error


def test_truncated_and_trailing_compression_is_refused(server: Running) -> None:
    body = gzip.compress(json.dumps({"inputs": [X]}).encode())
    for broken in (body[:-4], body + b"tail"):
        reply = server.call("POST", INFER, broken, {"Content-Encoding": "gzip"})
        assert reply.status == 400


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", 431),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_what_is_hardly_http_gets_a_json_error(server: Running, raw: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(raw)
        reply = read_reply(connection)
    assert reply.status == status
    assert reply.error


def test_a_model_failure_is_a_500_without_internals(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    reply = server.infer({"inputs": [{**X, "data": [POISON] * 6}]})
    assert reply.status == 500
    assert reply.error == "the model failed on this request"
    assert "inference failed: RuntimeError" in caplog.text
    assert "666" not in caplog.text  # the exception's text has the client's values
