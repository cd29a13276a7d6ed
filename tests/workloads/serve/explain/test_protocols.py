"""Explanations over every protocol, by the process beside the server, and what that process can never cost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from modelyard_workloads.artifact import Artifact
from modelyard_workloads.serve.explain.process import MAX_PENDING, MAX_ROWS, ExplainerProcess
from modelyard_workloads.serve.runtimes import build_runtime
from servers.artifacts import LABELS, image_artifact
from servers.inprocess import MODEL, PATIENT, VERSION, Reply, Running, configure, eventually, running
from servers.rows import RowModel
from tritonclient.utils import InferenceServerException

IMAGES = np.random.default_rng(4).random((2, 1, 8, 8), dtype=np.float32)
SCORES = ("target", "output", "baseline", "delta", "steps", "complete", "attributions")
SERVER = {"host": "127.0.0.1", "port": 0, "grpcPort": 0}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return image_artifact(tmp_path_factory.mktemp("artifact"))


def section(artifact: Artifact) -> dict[str, Any]:
    return {"name": MODEL, "path": str(artifact.path), "digest": artifact.digest, "version": VERSION}


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Running]:
    config = configure(model=section(artifact), server=SERVER, explain={"enabled": True, "steps": 20}, limits=PATIENT)
    with running(build_runtime(artifact), config) as made:
        eventually(lambda: made.plane.ready)
        yield made


def process_of(server: Running) -> ExplainerProcess:
    explainer = server.plane.explainer(MODEL)
    assert isinstance(explainer, ExplainerProcess)
    return explainer


def explain(server: Running, images: Any = IMAGES) -> Reply:
    return server.infer({"instances": images.tolist()}, path=f"/v1/models/{MODEL}:explain")


def explain_within(server: Running, microseconds: int) -> Reply:
    tensor = {"name": "image", "datatype": "FP32", "shape": list(IMAGES.shape), "data": IMAGES.ravel().tolist()}
    body = {"inputs": [tensor], "parameters": {"timeout": microseconds}}
    return server.infer(body, path=f"/v2/models/{MODEL}/explain")


def check(outputs: dict[str, Any]) -> None:
    """`outputs` of IMAGES as arrays: every picture's pixels account for its score."""
    assert tuple(outputs) == SCORES
    assert outputs["attributions"].shape == IMAGES.shape
    sums = outputs["attributions"].sum(axis=(1, 2, 3))
    np.testing.assert_allclose(sums, outputs["output"] - outputs["baseline"], rtol=0.01, atol=1e-4)
    assert outputs["complete"].all()


def test_v1_explains_row_by_row(server: Running) -> None:
    reply = explain(server)
    assert reply.status == 200
    rows = reply.json()["explanations"]
    check({name: np.array([row[name] for row in rows]) for name in SCORES})
    predicted = server.infer({"instances": IMAGES.tolist()}, path=f"/v1/models/{MODEL}:predict").json()["predictions"]
    assert [row["target"] for row in rows] == [row["label"] for row in predicted]
    for row, prediction in zip(rows, predicted, strict=True):
        assert row["output"] == pytest.approx(max(prediction["logits"]), abs=1e-5)


@pytest.mark.parametrize("version", ["", f"/versions/{VERSION}"])
def test_v2_explains_in_json(server: Running, version: str) -> None:
    tensor = {"name": "image", "datatype": "FP32", "shape": list(IMAGES.shape), "data": IMAGES.ravel().tolist()}
    reply = server.infer({"id": "7", "inputs": [tensor]}, path=f"/v2/models/{MODEL}{version}/explain")
    assert reply.status == 200
    document = reply.json()
    assert (document["model_name"], document["model_version"], document["id"]) == (MODEL, VERSION, "7")
    check({one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in document["outputs"]})


def test_v2_explains_in_binary_and_gives_the_outputs_that_are_asked_for(server: Running) -> None:
    given = triton_http.InferInput("image", list(IMAGES.shape), "FP32")
    given.set_data_from_numpy(IMAGES)
    wanted = [triton_http.InferRequestedOutput(name, binary_data=True) for name in ("attributions", "target")]
    body, size = triton_http.InferenceServerClient.generate_request_body([given], outputs=wanted)
    headers = {"Inference-Header-Content-Length": str(size)}
    reply = server.call("POST", f"/v2/models/{MODEL}/explain", body, headers)
    assert reply.status == 200
    length = int(reply.headers["inference-header-content-length"])
    found = triton_http.InferenceServerClient.parse_response_body(reply.body, header_length=length)
    attributions = found.as_numpy("attributions")
    assert attributions is not None and attributions.shape == IMAGES.shape
    again = np.array([row["attributions"] for row in explain(server).json()["explanations"]])
    np.testing.assert_allclose(attributions, again, rtol=1e-4, atol=1e-6)
    assert [output["name"] for output in found.get_response()["outputs"]] == ["attributions", "target"]


def test_grpc_explains_where_the_parameter_asks_for_it(server: Running) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.server.grpc_port}") as client:
        given = triton_grpc.InferInput("image", list(IMAGES.shape), "FP32")
        given.set_data_from_numpy(IMAGES)
        found = client.infer(MODEL, [given], parameters={"explain": True})
        check({name: found.as_numpy(name) for name in SCORES})
        predicted = client.infer(MODEL, [given], parameters={"explain": False})
        assert predicted.as_numpy("logits").shape == (2, len(LABELS))
        with pytest.raises(InferenceServerException, match="explain must be true or false, got 'yes'"):
            client.infer(MODEL, [given], parameters={"explain": "yes"})


@pytest.mark.parametrize(
    ("path", "document", "status", "words"),
    [
        ("/v1/models/other:explain", {}, 404, "is not here"),
        (f"/v1/models/{MODEL}:explain", {}, 400, "instances is missing"),
        (f"/v1/models/{MODEL}:explain", {"instances": [[[[7] * 8] * 8]]}, 400, "pixels must be between 0 and 1"),
        (f"/v1/models/{MODEL}:explain", {"instances": [[[[0] * 8] * 8]] * (MAX_ROWS + 1)}, 400, "at most 64"),
        (f"/v2/models/{MODEL}/versions/9/explain", {}, 404, "has no version '9'"),
        (f"/v2/models/{MODEL}/explain", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}, 400,
         "input 'x' is unknown"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(server: Running, path: str, document: Any, status: int, words: str) -> None:
    reply = server.infer(document, path=path)
    assert reply.status == status
    assert words in reply.error


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"name": "logits"}, "output 'logits' is unknown; the model gives target"),
        ({"name": "attributions", "parameters": {"classification": 2}}, "explanations have no classes"),
    ],
)
def test_an_output_that_explanations_do_not_have_is_named(server: Running, output: Any, words: str) -> None:
    tensor = {"name": "image", "datatype": "FP32", "shape": list(IMAGES.shape), "data": IMAGES.ravel().tolist()}
    reply = server.infer({"inputs": [tensor], "outputs": [output]}, path=f"/v2/models/{MODEL}/explain")
    assert reply.status == 400
    assert words in reply.error


def test_explanations_are_posted(server: Running) -> None:
    reply = server.call("GET", f"/v1/models/{MODEL}:explain")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


def test_explanations_are_measured_and_are_no_inferences(server: Running) -> None:
    before = server.plane.statistics.successes
    assert explain(server).status == 200
    assert server.plane.statistics.successes == before
    metrics = server.call("GET", "/metrics").body.decode()
    assert 'protocol="v1",route="explain"' in metrics
    counts = [line for line in metrics.splitlines() if line.startswith("modelyard_explain_seconds_count")]
    assert float(counts[0].split()[-1]) >= 1


@pytest.mark.parametrize("sections", [{}, {"explain": {"enabled": False}}], ids=["not asked for", "off"])
def test_a_server_without_explanations_says_how_to_get_them(sections: dict[str, Any]) -> None:
    with running(RowModel(), configure(**sections)) as plain:
        reply = plain.infer({"instances": [[1, 2]]}, path=f"/v1/models/{MODEL}:explain")
        assert reply.status == 404
        assert "set explain.enabled to true" in reply.error


# What they can never cost.


def predict(server: Running) -> int:
    return server.infer({"instances": IMAGES.tolist()}, path=f"/v1/models/{MODEL}:predict").status


def test_the_process_has_the_lowest_priority_and_one_thread_that_computes(server: Running) -> None:
    assert explain(server).status == 200
    pid = process_of(server).pid
    assert pid is not None and pid != os.getpid()
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    assert b"OMP_NUM_THREADS=1\0" in Path(f"/proc/{pid}/environ").read_bytes()


def test_predictions_are_answered_while_an_explanation_cannot_go_on(server: Running) -> None:
    """The process is stopped in the midst of its work: whatever it holds, no prediction waits for it."""
    assert explain(server).status == 200
    pid = process_of(server).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    replies: list[Reply] = []
    waiting = [threading.Thread(target=lambda: replies.append(explain(server))) for _ in range(MAX_PENDING)]
    try:
        for thread in waiting:
            thread.start()
        eventually(lambda: server.traffic.in_flight == MAX_PENDING)
        eventually(lambda: explain(server).status == 503)
        refused = explain(server)
        assert refused.headers["retry-after"] == "1"
        assert "wait for explanations" in refused.error
        for _ in range(20):
            assert predict(server) == 200
    finally:
        os.kill(pid, signal.SIGCONT)
        for thread in waiting:
            thread.join(240)
    assert [reply.status for reply in replies] == [200] * MAX_PENDING


def test_a_killed_process_costs_its_own_request_and_comes_back(server: Running) -> None:
    assert explain(server).status == 200
    first = process_of(server).pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    replies: list[Reply] = []
    asking = threading.Thread(target=lambda: replies.append(explain(server)))
    asking.start()
    eventually(lambda: server.traffic.in_flight == 1)
    os.kill(first, signal.SIGKILL)
    assert predict(server) == 200
    asking.join(240)
    assert replies[0].status in (200, 503)  # 200: the request had not reached the process yet
    assert explain(server).status == 200
    assert process_of(server).pid not in (None, first)


def test_one_that_still_loads_is_let_live(artifact: Artifact) -> None:
    config = configure(model=section(artifact), explain={"steps": 5}, limits=PATIENT)
    with running(build_runtime(artifact), config) as made:
        replies: list[Reply] = []
        asking = threading.Thread(target=lambda: replies.append(explain_within(made, 500_000)))
        asking.start()
        eventually(lambda: process_of(made).pid is not None)
        pid = process_of(made).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        asking.join(240)
        assert [reply.status for reply in replies] == [504]
        os.kill(pid, signal.SIGCONT)
        assert explain(made).status == 200
        assert process_of(made).pid == pid


def test_one_that_takes_too_long_is_given_up_and_the_next_one_works(artifact: Artifact) -> None:
    config = configure(model=section(artifact), explain={"steps": 5}, limits=PATIENT)
    with running(build_runtime(artifact), config) as made:
        assert explain(made).status == 200
        pid = process_of(made).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        reply = explain_within(made, 200_000)
        assert reply.status == 504
        assert "no explanation within the request's time" in reply.error
        assert explain(made).status == 200
        assert process_of(made).pid != pid
    eventually(lambda: not Path(f"/proc/{process_of(made).pid}/environ").exists())
