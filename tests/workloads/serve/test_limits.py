"""Limits over a real socket: bodies, time, the queue, and clients that go away."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from modelyard_workloads.serve import v2_codec
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.http import compressed
from servers.inprocess import Reply, Running, configure, eventually, running
from servers.rows import RowModel
from servers.wire import INFER, X, read_reply
from starlette.responses import Response


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(RowModel(), configure(limits={"maxRequestBytes": 200_000})) as running_server:
        yield running_server


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("gzip;q=0.5, identity", "gzip"),
        ("deflate, gzip; q=0", "deflate"),
        ("GZIP;Q=0.000", None),
        ("br", None),
        ("", None),
    ],
)
def test_a_reply_is_compressed_as_the_client_weighs_it(accepted: str, encoding: str | None) -> None:
    reply = compressed(Response(b"a" * 10_000), accepted)
    assert reply.headers.get("content-encoding") == encoding
    assert (len(reply.body) < 1000) == (encoding is not None)


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
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for piece in pieces:
            connection.sendall(piece)
        return read_reply(connection)


def test_a_slow_body_gets_408_and_a_slow_model_504() -> None:
    with running(RowModel(seconds=0.8), configure(limits={"timeoutSeconds": 0.4})) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + b"{")
            reply = read_reply(connection)
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
            eventually(lambda count=index: server.traffic.in_flight == count + 1)
        eventually(lambda: server.plane.queue_depth == 2)
        started = time.monotonic()
        refused = server.infer({"inputs": [X]})
        assert time.monotonic() - started < 0.5
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert "queue is full" in refused.error
        model.gate.set()
        for thread in threads:
            thread.join(60)
        assert [reply.status for reply in replies] == [200] * 3


def test_request_bytes_held_at_a_time_are_bounded() -> None:
    with running(RowModel(), configure(limits={"maxPendingBytes": 2000})) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
            slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1900\r\n\r\n".encode() + b" " * 1800)
            eventually(lambda: server.traffic.in_flight == 1)
            time.sleep(0.1)
            refused = server.call("POST", INFER, b" " * 500)
            assert refused.status == 503
            assert "request bytes" in refused.error
        eventually(lambda: server.traffic.in_flight == 0)
        assert server.infer({"inputs": [X]}).status == 200


def test_work_of_a_client_that_went_away_is_dropped() -> None:
    model = RowModel()
    with running(model) as server:
        model.gate.clear()
        first = threading.Thread(target=lambda: server.infer({"inputs": [X]}))
        first.start()
        eventually(lambda: model.begun == 1)  # in flight is not enough: the other's body may come before its own
        body = json.dumps({"inputs": [{**X, "shape": [3, 2]}]}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as gone:
            gone.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: server.plane.queue_depth == 1)
        eventually(lambda: server.plane.queue_depth == 0)
        model.gate.set()
        first.join(60)
        assert model.batches == [2]


def test_a_huge_value_in_the_wrong_place_costs_little_to_refuse() -> None:
    body = b"[" + b"1.5," * 2_000_000 + b"1]"
    started = time.process_time()
    with pytest.raises(InvalidInput) as caught:
        v2_codec.decode(body, None)
    assert len(str(caught.value)) < 200
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"",', b"1,"])
def test_json_that_would_fill_the_memory_is_refused_before_it_is_parsed(piece: bytes) -> None:
    body = b"[" + piece * (30_000_000 // len(piece)) + b"1]"
    with pytest.raises(InvalidInput, match="too many values"):
        v2_codec.decode(body, None)
