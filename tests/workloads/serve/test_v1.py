"""KServe's v1 protocol: rows in, rows out; files instead of numbers; every mistake named."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.pictures import PictureDecoder
from PIL import Image
from servers.inprocess import MODEL, Reply, Running, running
from servers.rows import RowModel

PREDICT = f"/v1/models/{MODEL}:predict"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(RowModel()) as running_server:
        yield running_server


def predict(server: Running, instances: Any) -> Reply:
    return server.infer({"instances": instances}, path=PREDICT)


def b64(text: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(text).decode()}


ROWS = [{"y": [6.0, 3.0], "name": "3"}, {"y": [15.0, 6.0], "name": "3"}]


@pytest.mark.parametrize(
    "instances",
    [
        [[1, 2, 3], [4, 5, 6]],
        [{"x": [1, 2, 3]}, {"x": [4, 5, 6]}],
        [b64(b"1,2,3"), b64(b"4,5,6")],
        [{"x": b64(b"1,2,3")}, {"x": b64(b"4,5,6")}],
    ],
    ids=["bare values", "by name", "bare files", "files by name"],
)
def test_rows_are_answered_row_by_row(server: Running, instances: Any) -> None:
    reply = predict(server, instances)
    assert (reply.status, reply.json()) == (200, {"predictions": ROWS})


def test_files_are_read_in_the_v2_protocol_too(server: Running) -> None:
    tensor = {"name": "x", "datatype": "BYTES", "shape": [2, 1], "data": ["1,2,3", "4,5,6"]}
    assert server.infer({"inputs": [tensor]}).json()["outputs"][0]["data"] == [6, 3, 15, 6]


def test_kserves_client_finds_the_server_alive(server: Running) -> None:
    reply = server.call("GET", "/")
    assert (reply.status, reply.json()) == (200, {"status": "alive"})


def test_models_and_whether_they_are_ready(server: Running) -> None:
    listed = server.call("GET", "/v1/models").json()
    assert listed["models"] == [MODEL]
    assert [card["id"] for card in listed["data"]] == [MODEL]  # OpenAI's clients ask here too
    found = server.call("GET", f"/v1/models/{MODEL}").json()
    assert (found["name"], found["ready"], found["id"]) == (MODEL, True, MODEL)
    assert server.call("GET", "/v1/models/other").status == 404
    with running(None) as loading:
        assert loading.call("GET", f"/v1/models/{MODEL}").json()["ready"] is False
        assert predict(loading, [[1]]).status == 503


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([1], "the body must be an object like"),
        ({}, "instances is missing"),
        ({"instances": []}, "at least one row"),
        ({"instances": {"x": 1}}, "at least one row"),
        ({"instances": [{"z": 1}]}, "instances[0] lacks x"),
        ({"instances": [{"x": [1], "z": 1}]}, "'z' is unknown"),
        ({"instances": [[1, 2], [3]]}, "nested data does not have shape"),
        ({"instances": [["a"]]}, "data of FP32 must be numbers"),
        ({"instances": ["a"]}, 'instances[0].x must be {"b64"'),
        ({"instances": [{"b64": "a b"}]}, "b64 is not base64"),
        ({"instances": [b64(b"1,2"), [1, 2]]}, 'instances[1].x must be {"b64"'),
        ({"instances": [b64(b"1,2"), b64(b"one")]}, "element 1: not numbers"),
        ({"instances": [1]}, "shape [1], the model takes [-1, -1]"),
    ],
)
def test_a_mistake_is_named(server: Running, body: Any, words: str) -> None:
    reply = server.infer(body, path=PREDICT)
    assert reply.status == 400
    assert words in reply.error


def test_predictions_are_counted_like_inferences(server: Running) -> None:
    before = server.plane.statistics.successes
    assert predict(server, [[1, 2, 3]]).status == 200
    assert server.plane.statistics.successes == before + 1
    assert 'protocol="v1",route="predict"' in server.call("GET", "/metrics").body.decode()


def picture(mode: str, size: tuple[int, int], form: str) -> bytes:
    """A picture whose left half is black and whose right half is white."""
    image = Image.new(mode, size)
    image.paste(Image.new(mode, (size[0] // 2, size[1]), "white"), (size[0] // 2, 0))
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_picture_becomes_the_models_pixels(form: str, mode: str, channels: int) -> None:
    pixels = PictureDecoder((-1, channels, 8, 8))(picture("RGB", (16, 16), form))
    assert pixels.shape == (channels, 8, 8)
    assert pixels.dtype == np.float32
    assert pixels[:, :, 0].max() < 0.1 and pixels[:, :, -1].min() > 0.9, mode


def test_a_model_of_any_size_takes_the_pictures_own() -> None:
    assert PictureDecoder((-1, 3, -1, -1))(picture("L", (10, 6), "PNG")).shape == (3, 6, 10)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "not a picture"),
        (picture("L", (64, 64), "PNG")[:-20], "damaged"),
        (b"<svg/>", "not a picture"),
        (picture("1", (8_000, 8_000), "PNG"), "at most 50000000 are read"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        PictureDecoder((-1, 1, 8, 8))(data)
