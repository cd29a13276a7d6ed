"""The Open Inference Protocol over a real socket: what is answered, in both encodings, and how every error looks."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from servers.inprocess import DIGEST, MODEL, VERSION, Reply, Running, configure, eventually, running
from servers.rows import POISON, RowModel

INFER = f"/v2/models/{MODEL}/infer"
X = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
Y = [6.0, 3.0, 15.0, 6.0]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(RowModel(), configure(limits={"maxRequestBytes": 200_000})) as running_server:
        yield running_server


def binary_body(
    array: np.ndarray, extra: dict[str, Any] | None = None, size: int | None = None
) -> tuple[bytes, dict[str, str]]:
    raw = array.astype("<f4").tobytes()
    tensor: dict[str, Any] = {"name": "x", "shape": list(array.shape), "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": len(raw) if size is None else size}
    head = json.dumps({"inputs": [tensor], **(extra or {})}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def test_health_server_and_model_metadata_are_as_the_protocol_says(server: Running) -> None:
    assert server.call("GET", "/v2/health/live").json() == {"live": True}
    assert server.call("GET", "/v2/health/ready").json() == {"ready": True, "live": True}
    for path in ("/v2", "/v2/", "/v2?query=ignored"):
        metadata = server.call("GET", path).json()
        assert metadata["name"] == "modelyard"
        assert "binary_tensor_data" in metadata["extensions"]
    assert server.call("GET", "/v2/models").json() == {"models": [MODEL]}
    for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/{VERSION}"):
        model = server.call("GET", path).json()
        assert model["name"] == MODEL
        assert model["versions"] == [VERSION]
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
        assert [output["name"] for output in model["outputs"]] == ["y", "name"]
        assert model["parameters"] == {"task": "rows", "digest": DIGEST, "step": 7}
        assert server.call("GET", f"{path}/ready").json() == {"name": MODEL, "ready": True}
    index = server.call("POST", "/v2/repository/index", b"").json()
    assert index == [{"name": MODEL, "version": VERSION, "state": "READY", "reason": ""}]


@pytest.mark.parametrize("data", [X["data"], [[1, 2, 3], [4, 5, 6]], [1.0, 2, 3, 4, 5, 6e0]])
def test_json_inference_takes_flat_and_nested_data(server: Running, data: object) -> None:
    reply = server.infer({"id": "a-1", "inputs": [{**X, "data": data}]})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "model_name": MODEL,
        "model_version": VERSION,
        "id": "a-1",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": Y},
            {"name": "name", "datatype": "BYTES", "shape": [2], "data": ["3", "3"]},
        ],
    }


def test_only_the_outputs_asked_for_come_in_the_order_asked(server: Running) -> None:
    document = {"inputs": [X], "outputs": [{"name": "name"}, {"name": "y"}]}
    assert [output["name"] for output in server.infer(document).json()["outputs"]] == ["name", "y"]
    document["outputs"] = [{"name": "y"}]
    assert [output["name"] for output in server.infer(document).json()["outputs"]] == ["y"]
    document["outputs"] = []
    assert len(server.infer(document).json()["outputs"]) == 2


def test_binary_tensors_go_both_ways(server: Running) -> None:
    body, headers = binary_body(np.arange(6).reshape(2, 3), {"parameters": {"binary_data_output": True}})
    reply = server.call("POST", INFER, body, headers)
    assert reply.status == 200, reply.body
    size = int(reply.headers["inference-header-content-length"])
    document = json.loads(reply.body[:size])
    assert [output["parameters"]["binary_data_size"] for output in document["outputs"]] == [16, 10]
    raw = reply.body[size:]
    np.testing.assert_array_equal(np.frombuffer(raw[:16], "<f4"), [3, 2, 12, 5])
    assert raw[16:] == struct.pack("<I", 1) + b"3" + struct.pack("<I", 1) + b"3"


def test_an_output_may_be_binary_beside_one_in_json(server: Running) -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "name"}]
    reply = server.infer({"inputs": [X], "outputs": outputs})
    size = int(reply.headers["inference-header-content-length"])
    document = json.loads(reply.body[:size])
    assert document["outputs"][1]["data"] == ["3", "3"]
    assert np.frombuffer(reply.body[size:], "<f4").tolist() == Y


def test_the_best_classes_come_with_their_labels(server: Running) -> None:
    outputs = [{"name": "y", "parameters": {"classification": 1}}]
    output = server.infer({"inputs": [X], "outputs": outputs}).json()["outputs"][0]
    assert output == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [2, 1],
        "data": ["6.000000:0:sum", "15.000000:0:sum"],
    }
    refused = server.infer({"inputs": [X], "outputs": [{"name": "name", "parameters": {"classification": 1}}]})
    assert refused.status == 400
    assert "has no classes" in refused.error


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_requests_are_read(server: Running, encoding: str, compress: Any) -> None:
    body, headers = binary_body(np.arange(6).reshape(2, 3))
    reply = server.call("POST", INFER, compress(body), {**headers, "Content-Encoding": encoding})
    assert reply.status == 200, reply.body
    assert reply.json()["outputs"][0]["data"] == [3.0, 2.0, 12.0, 5.0]


@pytest.mark.parametrize(("encoding", "decompress"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_large_replies_are_compressed_when_asked_for(server: Running, encoding: str, decompress: Any) -> None:
    many = {"name": "x", "shape": [600, 1], "datatype": "FP32", "data": list(range(600))}
    reply = server.infer({"inputs": [many]}, {"Accept-Encoding": encoding})
    assert reply.headers["content-encoding"] == encoding
    assert json.loads(decompress(reply.body))["outputs"][0]["shape"] == [600, 2]
    assert "content-encoding" not in server.infer({"inputs": [X]}, {"Accept-Encoding": encoding}).headers


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
        ("GET", "/", 404),
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
            assert reply.status in (200, 400, 405), (method, path)
            if reply.status != 200:
                assert reply.error


def test_a_body_over_the_limit_gets_413_announced_streamed_or_compressed(server: Running) -> None:
    large = b" " * 300_000
    announced = server.call("POST", INFER, large)
    compressed = server.call("POST", INFER, gzip.compress(large), {"Content-Encoding": "gzip"})
    streamed = _stream(server, [b"%x\r\n%s\r\n" % (10_000, b" " * 10_000)] * 30 + [b"0\r\n\r\n"])
    bomb = server.call("POST", INFER, gzip.compress(b"\0" * 100_000_000, 9), {"Content-Encoding": "gzip"})
    for reply in (announced, compressed, streamed, bomb):
        assert reply.status == 413
        assert "200000" in reply.error


def test_a_million_tiny_chunks_do_not_hurt(server: Running) -> None:
    reply = _stream(server, [b"1\r\n \r\n" * 1000] * 150 + [b"0\r\n\r\n"])
    assert reply.status == 400
    assert "not JSON" in reply.error


def _stream(server: Running, pieces: list[bytes]) -> Reply:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for piece in pieces:
            connection.sendall(piece)
        return _read_reply(connection)


def _read_reply(connection: socket.socket) -> Reply:
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
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(raw)
        reply = _read_reply(connection)
    assert reply.status == status
    assert reply.error


def test_an_offer_to_upgrade_the_protocol_is_ignored(server: Running) -> None:
    body = json.dumps({"inputs": [X]}).encode()
    reply = server.call("POST", INFER, body, {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"})
    assert reply.status == 200


def test_a_model_failure_is_a_500_without_internals(server: Running) -> None:
    reply = server.infer({"inputs": [{**X, "data": [POISON] * 6}]})
    assert reply.status == 500
    assert reply.error == "the model failed on this request"


def test_while_the_model_loads_the_server_lives_and_is_not_ready() -> None:
    with running(None) as server:
        assert server.call("GET", "/v2/health/live").status == 200
        ready = server.call("GET", "/v2/health/ready")
        assert ready.status == 503
        assert ready.json() == {"ready": False, "live": True, "error": "the model is still loading"}
        assert server.call("GET", f"/v2/models/{MODEL}/ready").status == 503
        assert server.call("POST", "/v2/repository/index").json()[0]["state"] == "LOADING"
        assert server.call("POST", "/v2/repository/index", b'{"ready": true}').json() == []
        for reply in (server.infer({"inputs": [X]}), server.call("GET", f"/v2/models/{MODEL}")):
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            assert "still loading" in reply.error


def test_a_slow_body_gets_408_and_a_slow_model_504() -> None:
    with running(RowModel(seconds=0.8), configure(limits={"timeoutSeconds": 0.4})) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + b"{")
            reply = _read_reply(connection)
            assert reply.status == 408
            assert reply.error
            assert reply.headers["connection"] == "close"
        slow = server.infer({"inputs": [X]})
        assert slow.status == 504
        assert slow.error


def test_a_client_may_ask_for_a_shorter_time() -> None:
    with running(RowModel(seconds=0.5)) as server:
        started = time.monotonic()
        assert server.infer({"inputs": [X], "parameters": {"timeout": 50_000}}).status == 504
        assert time.monotonic() - started < 0.4


def test_a_full_queue_gets_503_with_retry_after_at_once() -> None:
    model = RowModel()
    config = configure(limits={"maxQueue": 2}, batching={"maxBatchSize": 1})
    with running(model, config) as server:
        model.gate.clear()
        replies: list[Reply] = []
        threads = [threading.Thread(target=lambda: replies.append(server.infer({"inputs": [X]}))) for _ in range(3)]
        for index, thread in enumerate(threads):
            thread.start()
            eventually(lambda count=index: server.app.in_flight == count + 1)
        eventually(lambda: server.plane.queue_depth == 2)
        started = time.monotonic()
        refused = server.infer({"inputs": [X]})
        assert time.monotonic() - started < 0.5
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert "queue is full" in refused.error
        model.gate.set()
        for thread in threads:
            thread.join(10)
        assert [reply.status for reply in replies] == [200] * 3


def test_request_bytes_held_at_a_time_are_bounded() -> None:
    with running(RowModel(), configure(limits={"maxPendingBytes": 2000})) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1900\r\n\r\n".encode() + b" " * 1800)
            eventually(lambda: server.app.in_flight == 1)
            time.sleep(0.1)
            refused = server.call("POST", INFER, b" " * 500)
            assert refused.status == 503
            assert "request bytes" in refused.error
        eventually(lambda: server.app.in_flight == 0)
        assert server.infer({"inputs": [X]}).status == 200


def test_work_of_a_client_that_went_away_is_dropped() -> None:
    model = RowModel()
    with running(model) as server:
        model.gate.clear()
        first = threading.Thread(target=lambda: server.infer({"inputs": [X]}))
        first.start()
        eventually(lambda: server.app.in_flight == 1)
        body = json.dumps({"inputs": [{**X, "shape": [3, 2]}]}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as gone:
            gone.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: server.plane.queue_depth == 1)
        eventually(lambda: server.plane.queue_depth == 0)
        model.gate.set()
        first.join(10)
        assert model.batches == [2]


def test_statistics_count_what_happened() -> None:
    with running(RowModel()) as server:
        server.infer({"inputs": [X]})
        server.infer({"inputs": [X]})
        server.infer({})
        for path in (f"/v2/models/{MODEL}/stats", f"/v2/models/{MODEL}/versions/{VERSION}/stats", "/v2/models/stats"):
            stats = server.call("GET", path).json()["model_stats"][0]
            assert (stats["name"], stats["version"]) == (MODEL, VERSION)
            assert (stats["inference_count"], stats["execution_count"]) == (4, 2)
            assert stats["inference_stats"]["success"]["count"] == 2
            assert stats["inference_stats"]["fail"]["count"] == 1
            assert stats["batch_stats"][0]["batch_size"] == 2


def test_metrics_have_the_vocabulary_and_no_words_of_clients() -> None:
    with running(RowModel()) as server:
        server.infer({"inputs": [X]})
        server.call("GET", "/secret-path")
        server.call("POST", "/v2/models/secret-model/infer", b"secret-body")
        server.infer({"inputs": [{**X, "name": "secret-name"}]})
        text = server.call("GET", "/metrics").body.decode()
    assert "secret" not in text
    for line in (
        'modelyard_requests_total{code="200",model="rows",protocol="v2",route="infer"} 1.0',
        'modelyard_requests_total{code="400",model="rows",protocol="v2",route="infer"} 1.0',
        'modelyard_requests_total{code="404",model="rows",protocol="v2",route="infer"} 1.0',
        'modelyard_requests_total{code="404",model="rows",protocol="other",route="unknown"} 1.0',
        'modelyard_request_seconds_count{code="200",model="rows",protocol="v2",route="infer"} 1.0',
        'modelyard_batch_size_sum{model="rows"} 2.0',
        'modelyard_queue_seconds_count{model="rows"} 1.0',
        'modelyard_queue_depth{model="rows"} 0.0',
        'modelyard_inference_seconds_count{model="rows"} 1.0',
        'modelyard_requests_in_flight{model="rows"} 0.0',
        f'modelyard_model_loaded_info{{digest="{DIGEST}",model="rows",step="7",task="rows",version="r1"}} 1.0',
    ):
        assert line in text.splitlines(), line


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(server: Running) -> None:
    one = json.dumps({"id": "1", "inputs": [X]}).encode()
    two = json.dumps({"id": "2", "inputs": [X]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for body in (one, two):
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        data = b""
        while data.count(b'"id"') < 2:
            data += connection.recv(65536)
    assert data.index(b'"id":"1"') < data.index(b'"id":"2"')
