"""Mirrored requests: answers compared and counted, never returned, at nobody's cost."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from aiohttp import web
from modelyard_operator.router.compare import alike
from modelyard_operator.router.config import Tolerance
from ports import free_port
from routing import answering, backend, router, server, until

CLOSE = Tolerance()


def scores(*values: float, name: str = "probabilities") -> dict[str, Any]:
    return {"outputs": [{"name": name, "datatype": "FP32", "shape": [1, len(values)], "data": list(values)}]}


def same(one: Any, other: Any) -> bool:
    return alike(json.dumps(one).encode(), None, json.dumps(other).encode(), None, CLOSE)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (scores(0.1, 0.9), scores(0.1, 0.9), True),
        (scores(0.1, 0.9), scores(0.3, 0.7), True),
        (scores(0.1, 0.9), scores(0.6, 0.4), False),
        (scores(0.1, 0.9), scores(0.1, 0.9, name="logits"), False),
        (scores(0.5), scores(0.5001), True),
        (scores(0.5), scores(0.6), False),
        ({"id": "1", "label": "cat"}, {"id": "2", "label": "cat"}, True),
        ({"label": "cat"}, {"label": "dog"}, False),
        ({"label": "cat"}, {"label": "cat", "more": 1}, False),
        ({"predictions": [[1.0, 2.0], [4.0, 3.0]]}, {"predictions": [[0.0, 2.0], [5.0, 3.0]]}, True),
        ({"predictions": [1, 2]}, {"predictions": [1, 3]}, False),
        ({"model_version": "a", "outputs": []}, {"model_version": "b", "outputs": []}, True),
    ],
)
def test_answers_are_alike_when_they_decide_alike(one: Any, other: Any, expected: bool) -> None:
    assert same(one, other) is expected


def binary(*values: float) -> tuple[bytes, int]:
    data = struct.pack(f"<{len(values)}f", *values)
    output = {"name": "p", "datatype": "FP32", "shape": [1, len(values)], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"outputs": [output]}).encode()
    return head + data, len(head)


def test_binary_tensors_are_compared_by_their_numbers() -> None:
    assert alike(*binary(0.1, 0.9), *binary(0.2, 0.8), CLOSE)
    assert not alike(*binary(0.1, 0.9), *binary(0.8, 0.2), CLOSE)
    assert not alike(*binary(0.1, 0.9), *binary(0.1, 0.9, 0.0), CLOSE)


async def test_a_shadow_is_compared_and_never_answers() -> None:
    turn = 0

    async def shadow(request: web.Request) -> web.Response:
        nonlocal turn
        await request.read()
        turn += 1
        return web.json_response({"model_version": "new", "label": "cat" if turn % 4 else "dog"})

    async with (
        server(answering("old", label="cat")) as one,
        server(shadow) as two,
        router(backend("old", one), mirror=backend("new", two, 0)) as client,
    ):
        for _ in range(8):
            code, answer = await client.post()
            assert (code, answer["model_version"]) == (200, "old")
            done = turn
            await until(lambda done=done: turn > done or client.router.counts.compared == done + 1)  # type: ignore[misc]
        await until(lambda: client.router.counts.compared == 8)
        status = client.router.counts.status()
        assert status["revisions"]["new"]["requests"] == 8
        assert status["agreed"] == 0, "the length of the body is told by one of them only"


async def test_explanations_are_neither_mirrored_nor_judged() -> None:
    async with (
        server(answering("old")) as one,
        server(answering("new")) as two,
        router(backend("old", one), mirror=backend("new", two, 0)) as client,
    ):
        for path in ("/v1/models/m:explain", "/v2/models/m/versions/1/explain?x=1", "/v2/models/m/infer"):
            assert (await client.post(path=path))[0] == 200
        await until(lambda: client.router.counts.compared == 1)
        revisions = client.router.counts.status()["revisions"]
        assert {name: counted["requests"] for name, counted in revisions.items()} == {"old": 1, "new": 1}
        assert sum(revisions["old"]["latencies"].values()) == 1


async def test_a_shadow_that_is_dead_or_slow_costs_nothing() -> None:
    async with (
        server(answering("old")) as one,
        router(backend("old", one), mirror=backend("new", free_port(), 0)) as client,
    ):
        for _ in range(3):
            assert (await client.post())[0] == 200
        await until(lambda: client.router.counts.compared == 3)
        status = client.router.counts.status()
        assert (status["agreed"], status["revisions"]["new"]["errors"]) == (0, 3)
        assert status["revisions"]["old"]["errors"] == 0


async def test_compressed_and_chunked_answers_are_compared_by_their_content() -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.json_response({"label": "cat", "text": "x" * 5000})
        response.enable_compression(web.ContentCoding.gzip)
        response.enable_chunked_encoding()
        return response

    async def plain(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"text": "x" * 5000, "label": "cat"})

    async with (
        server(chunked) as one,
        server(plain) as two,
        router(backend("old", one), mirror=backend("new", two, 0)) as client,
    ):
        assert (await client.post())[0] == 200
        await until(lambda: client.router.counts.compared == 1)
        assert client.router.counts.agreed == 1
