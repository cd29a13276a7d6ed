"""The Open Inference Protocol over a real socket: what is answered, in both encodings."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio as triton
from servers.inprocess import DIGEST, MODEL, VERSION, Running, configure, running
from servers.rows import RowModel
from servers.wire import INFER, X, Y, binary_body
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(RowModel(), configure(limits={"maxRequestBytes": 200_000})) as running_server:
        yield running_server


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


def test_an_offer_to_upgrade_the_protocol_is_ignored(server: Running) -> None:
    body = json.dumps({"inputs": [X]}).encode()
    reply = server.call("POST", INFER, body, {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"})
    assert reply.status == 200


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
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for body in (one, two):
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        data = b""
        while data.count(b'"id"') < 2:
            data += connection.recv(65536)
    assert data.index(b'"id":"1"') < data.index(b'"id":"2"')


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_tritons_asyncio_client_has_many_requests_in_flight(server: Running, compression: str | None) -> None:
    def tensor(row: np.ndarray) -> triton.InferInput:
        given = triton.InferInput("x", list(row.shape), "FP32")
        given.set_data_from_numpy(row)
        return given

    async with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        rows = [np.full((1, 3), i, dtype=np.float32) for i in range(30)]
        how = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
        answers = await asyncio.gather(*(client.infer(MODEL, [tensor(row)], **how) for row in rows))
        assert [float(answer.as_numpy("y")[0, 0]) for answer in answers] == [3.0 * i for i in range(30)]
        with pytest.raises(InferenceServerException, match="other"):
            await client.infer("other", [tensor(rows[0])])
