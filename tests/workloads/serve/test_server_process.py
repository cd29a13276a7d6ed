"""The server as a pod runs it: loading, the golden gate, exit codes, Triton's own client, and a drain under traffic."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from modelyard_workloads.artifact import Artifact
from modelyard_workloads.tasks import build_model_from_artifact
from servers.artifacts import LABELS, WEIGHTS, image_artifact
from servers.process import ServerProcess, serve_config, serving

INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return image_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(scope="module")
def server(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    config = serve_config(artifact, validation={"golden": "Required"})
    with serving(config, tmp_path_factory.mktemp("server")) as process:
        process.wait_ready()
        yield process


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).random((5, 1, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def expected(artifact: Artifact, images: np.ndarray) -> dict[str, np.ndarray]:
    answers = build_model_from_artifact(artifact)({"image": torch.from_numpy(images)})
    return {name: tensor.numpy() for name, tensor in answers.items()}


def document(images: np.ndarray) -> dict[str, Any]:
    data = images.ravel().tolist()
    return {"inputs": [{"name": "image", "shape": list(images.shape), "datatype": "FP32", "data": data}]}


def test_the_port_answers_while_the_model_loads_and_then_becomes_ready(artifact: Artifact, tmp_path: Path) -> None:
    with serving(serve_config(artifact), tmp_path) as server:
        server.wait_bound()
        assert server.get("/v2/health/live") == (200, {"live": True})
        status, body = server.get("/v2/health/ready")
        assert (status, body["ready"]) == (503, False)
        server.wait_ready()
        assert server.get("/v2/models/digits")[1]["parameters"]["digest"] == artifact.digest


def test_answers_are_the_models_own_with_probabilities_and_label(
    server: ServerProcess, images: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    status, reply = server.post(INFER, document(images))
    assert status == 200
    outputs = {output["name"]: output for output in reply["outputs"]}
    assert list(outputs) == ["logits", "probabilities", "label"]
    for name in ("logits", "probabilities"):
        got = np.array(outputs[name]["data"]).reshape(outputs[name]["shape"])
        np.testing.assert_allclose(got, expected[name], rtol=1e-4, atol=1e-5)
    assert outputs["label"]["data"] == [LABELS[i] for i in expected["probabilities"].argmax(axis=1)]


def test_pixels_as_bytes_are_refused_with_what_to_send(server: ServerProcess, images: np.ndarray) -> None:
    status, reply = server.post(INFER, document(images * 255))
    assert status == 400
    assert "between 0 and 1 (a byte divided by 255)" in reply["error"]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_works_unmodified(
    server: ServerProcess, images: np.ndarray, expected: dict[str, np.ndarray], binary: bool, compression: str | None
) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        tensor = triton.InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images, binary_data=binary)
        names = ("logits", "probabilities", "label")
        outputs = None if binary else [triton.InferRequestedOutput(name, binary_data=False) for name in names]
        result = client.infer(
            "digits",
            [tensor],
            outputs=outputs,
            request_id="7",
            timeout=10_000_000,
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        np.testing.assert_allclose(result.as_numpy("logits"), expected["logits"], rtol=1e-4, atol=1e-5)
        assert result.get_response()["id"] == "7"
        labels = [value if isinstance(value, str) else value.decode() for value in result.as_numpy("label")]
        assert labels == [LABELS[i] for i in expected["probabilities"].argmax(axis=1)]


def test_tritons_client_reads_health_metadata_statistics_and_errors(server: ServerProcess, images: np.ndarray) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "r1")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["name"] == "modelyard"
        assert client.get_model_metadata("digits")["inputs"][0]["shape"] == [-1, 1, 8, 8]
        assert client.get_model_repository_index()[0]["state"] == "READY"
        assert client.get_inference_statistics("digits")["model_stats"][0]["name"] == "digits"
        tensor = triton.InferInput("image", [1, 3, 8, 8], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 3, 8, 8), np.float32))
        with pytest.raises(triton.InferenceServerException, match=r"the model takes \[-1, 1, 8, 8\]") as caught:
            client.infer("digits", [tensor])
        assert caught.value.status() == "400"
        tensor = triton.InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images)
        best = client.infer("digits", [tensor], outputs=[triton.InferRequestedOutput("probabilities", class_count=3)])
        assert best.as_numpy("probabilities").shape == (5, 3)


def test_many_clients_at_once_get_their_own_answers(
    server: ServerProcess, images: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    failures: list[str] = []

    def client(index: int) -> None:
        for turn in range(10):
            i = (index + turn) % len(images)
            status, reply = server.post(INFER, document(images[i : i + 1]))
            got = np.array(reply["outputs"][0]["data"]) if status == 200 else None
            if got is None or not np.allclose(got, expected["logits"][i], rtol=1e-4, atol=1e-5):
                failures.append(f"{index}.{turn}: {status}")

    threads = [threading.Thread(target=client, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def broken(artifact: Artifact, directory: Path, edit: Any) -> Artifact:
    copy = directory / "artifact"
    copy.mkdir()
    for file in artifact.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    edit(copy)
    return Artifact(path=copy, digest="", manifest=artifact.manifest)


def flip_one_bit(directory: Path) -> None:
    content = bytearray((directory / WEIGHTS).read_bytes())
    content[-100] ^= 1
    (directory / WEIGHTS).write_bytes(content)


def edit_manifest(edit: Any) -> Any:
    def apply(directory: Path) -> None:
        manifest = json.loads((directory / "modelyard.json").read_text())
        edit(manifest)
        (directory / "modelyard.json").write_text(json.dumps(manifest))

    return apply


def wrong_golden(manifest: Any) -> None:
    manifest["golden"][0]["outputs"][0]["data"][2][3] += 0.01


def wrong_preprocessing(manifest: Any) -> None:
    manifest["preprocess"]["mean"] = [0.4]


def unknown_task(manifest: Any) -> None:
    manifest["task"] = "fortune-telling"


def other_architecture(manifest: Any) -> None:
    manifest["architecture"]["name"] = "resnet18"


def remove_manifest(directory: Path) -> None:
    (directory / "modelyard.json").unlink()


@pytest.mark.parametrize(
    ("edit", "reason", "message"),
    [
        (flip_one_bit, "DigestMismatch", "model.safetensors has SHA-256"),
        (remove_manifest, "ArtifactMissing", "modelyard.json is not there"),
        (edit_manifest(wrong_golden), "GoldenMismatch", "golden[0].logits: 1 of 40 values differ"),
        (edit_manifest(wrong_preprocessing), "GoldenMismatch", "golden[0].logits: "),
        (edit_manifest(unknown_task), "ModelLoadFailed", "task 'fortune-telling' cannot be served"),
        (edit_manifest(other_architecture), "ModelLoadFailed", "resnet18"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)
def test_a_model_that_is_not_the_trained_one_is_never_served(
    artifact: Artifact, tmp_path: Path, edit: Any, reason: str, message: str
) -> None:
    with serving(serve_config(broken(artifact, tmp_path, edit)), tmp_path) as server:
        assert server.wait_exit() == 65
        failure = server.failure()
    assert failure["reason"] == reason
    assert message in failure["message"]
    assert reason in failure["logTail"]


def test_another_artifact_than_the_one_asked_for_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    config = serve_config(artifact)
    config["model"]["digest"] = "sha256:" + "0" * 64
    with serving(config, tmp_path) as server:
        assert server.wait_exit() == 65
        assert server.failure()["reason"] == "DigestMismatch"


def test_required_golden_answers_must_be_there(tmp_path: Path) -> None:
    bare = image_artifact(tmp_path / "bare", golden=False)
    with serving(serve_config(bare, validation={"golden": "Required"}), tmp_path) as server:
        assert server.wait_exit() == 65
        assert server.failure()["reason"] == "GoldenMismatch"
    with serving(serve_config(bare), tmp_path) as server:
        server.wait_ready()


def test_a_bad_configuration_ends_with_all_its_issues(tmp_path: Path) -> None:
    config = {
        "model": {"name": "", "path": "/x", "digest": "md5:1"},
        "batching": {"maxBatchSize": 0, "size": 1},
        "limits": {"timeoutSeconds": -1},
    }
    with serving(config, tmp_path) as server:
        assert server.wait_exit() == 64
        failure = server.failure()
    assert failure["reason"] == "InvalidConfig"
    for field in ("model.name", "model.digest", "batching.maxBatchSize", "batching.size", "limits.timeoutSeconds"):
        assert field in failure["message"]
