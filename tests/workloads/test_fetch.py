"""Models loaded from elsewhere: verified, resumed, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from modelyard_workloads.artifact import ArtifactInvalid, ArtifactMissing, DigestMismatch, read_artifact
from modelyard_workloads.data.sources import Patience
from modelyard_workloads.exits import DataError
from modelyard_workloads.fetch import FetchConfig, Progress, fetch, telling
from ports import free_port
from servers.files import FileServer, file_server
from servers.s3 import s3_server

QUICK = Patience(attempts=2, first_pause=0.01)
WEIGHTS = bytes(range(256)) * 4096
KEYS = {"AWS_ACCESS_KEY_ID": "the-id", "AWS_SECRET_ACCESS_KEY": "the-secret"}


def manifest(*files: tuple[str, bytes]) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    return json.dumps(
        {
            "schemaVersion": 1,
            "task": "image-classification",
            "architecture": {"name": "a"},
            "weights": ["model.safetensors"],
            "inputs": [tensor],
            "outputs": [tensor],
            "files": [{"path": n, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files],
            "training": {"name": "t", "step": 1},
            "createdAt": "2026-01-01T00:00:00Z",
        }
    ).encode()


FILES = {"model.safetensors": WEIGHTS, "tokenizer/vocab.txt": b"a\nb\n"}
MANIFEST = manifest(*FILES.items())
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    certificate = tmp_path / "server.pem"
    content = {f"/m/{name}": data for name, data in {"modelyard.json": MANIFEST, **FILES}.items()}
    with file_server(content, certificate) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        arguments: dict[str, Any] = {"access_key": "the-id", "secret_key": "the-secret", "region": "us-east-1"}
        store = pyarrow.fs.S3FileSystem(**arguments, endpoint_override=address, allow_bucket_creation=True)
        store.create_dir("models")
        foreign = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"no", "a/b.txt": b"b"}
        folders = {"good": {"modelyard.json": MANIFEST, **FILES}, "foreign": foreign, "pickles": {"x.pt": b"no"}}
        folders["torn"] = {"modelyard.json": MANIFEST, "model.safetensors": WEIGHTS}
        for folder, files in folders.items():
            for name, content in files.items():
                with store.open_output_stream(f"models/{folder}/{name}") as stream:
                    stream.write(content)
        yield address


@pytest.fixture
def _keys(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(f"MODELYARD_MODEL_{name}", value)


def load(uri: str, path: Path, digest: str = "") -> Progress:
    progress = Progress()
    fetch(FetchConfig(uri=uri, digest=digest, path=path), progress, QUICK)
    return progress


@pytest.mark.usefixtures("_keys")
def test_an_artifact_comes_from_s3_and_is_verified(tmp_path: Path) -> None:
    progress = load("s3://models/good", tmp_path / "model", DIGEST)
    artifact = read_artifact(tmp_path / "model", DIGEST)
    assert progress.done == progress.total == artifact.size_bytes
    assert not list((tmp_path / "model").rglob("*.part"))


def test_an_artifact_comes_over_https(web: FileServer, tmp_path: Path) -> None:
    load(f"{web.url}/m/", tmp_path / "model")
    assert read_artifact(tmp_path / "model").digest == DIGEST


@pytest.mark.usefixtures("_keys")
def test_what_is_there_and_right_is_not_loaded_again(tmp_path: Path) -> None:
    model = tmp_path / "model"
    load("s3://models/good", model)
    (model / "modelyard.json").unlink()
    (model / "tokenizer" / "vocab.txt").write_text("x\nx\n")
    kept = (model / "model.safetensors").stat().st_mtime_ns
    progress = load("s3://models/good", model, DIGEST)
    assert (model / "model.safetensors").stat().st_mtime_ns == kept
    assert (model / "tokenizer" / "vocab.txt").read_bytes() == FILES["tokenizer/vocab.txt"]
    assert progress.done == progress.total


@pytest.mark.usefixtures("_keys")
def test_a_model_in_another_layout_comes_without_what_would_be_unpickled(tmp_path: Path) -> None:
    load("s3://models/foreign", tmp_path)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file() and "cache" not in p.parts}
    assert found == {"config.json", "model.safetensors", "a/b.txt"}


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize(
    ("uri", "digest", "error", "says"),
    [
        ("s3://models/good", "sha256:" + "0" * 64, DigestMismatch, "expected sha256:000"),
        ("s3://models/torn", "", DigestMismatch, "tokenizer/vocab.txt"),
        ("s3://models/foreign", DIGEST, ArtifactMissing, "no modelyard.json"),
        ("s3://models/pickles", "", ArtifactMissing, "safetensors"),
        ("s3://models/nothing", "", DataError, "there is nothing there"),
    ],
)
def test_what_cannot_be_had_is_told(uri: str, digest: str, error: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        load(uri, tmp_path / "model", digest)
    assert not (tmp_path / "model" / "modelyard.json").exists()


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"/m/model.safetensors": WEIGHTS[:-1] + b"!"}, DigestMismatch, "not the file"),
        ({"/m/model.safetensors": WEIGHTS + b"more"}, DigestMismatch, "more than the"),
        ({"/m/modelyard.json": b"{}"}, ArtifactInvalid, "schemaVersion"),
        ({"/m/modelyard.json": manifest(("../up", b"x"), ("model.safetensors", b"x"))}, ArtifactInvalid, "inside the"),
    ],
)
def test_a_tampered_model_is_not_taken(
    changed: dict[str, bytes], error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {f"/m/{name}": data for name, data in {"modelyard.json": MANIFEST, **FILES}.items()}
    certificate = tmp_path / "server.pem"
    with file_server({**content, **changed}, certificate) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(error, match=says):
            load(f"{server.url}/m", tmp_path / "model")
    assert not (tmp_path / "model" / "modelyard.json").exists()
    assert not (tmp_path / "up").exists()


def test_progress_is_told_while_it_loads() -> None:
    port = free_port()
    with (
        telling(Progress(total=10, done=4), port),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=60) as response,
    ):
        assert json.load(response) == {"doneBytes": 4, "totalBytes": 10}


def run(tmp_path: Path, config: str) -> tuple[int, Any]:
    told = tmp_path / "termination"
    env = {**os.environ, "MODELYARD_FETCH": config, "MODELYARD_TERMINATION_LOG": str(told)}
    done = subprocess.run([sys.executable, "-m", "modelyard_workloads.fetch"], env=env, timeout=120, check=False)
    return done.returncode, json.loads(told.read_text())["failure"] if told.exists() else None


def test_the_process_says_why_it_failed(tmp_path: Path) -> None:
    code, failure = run(tmp_path, '{"uri": "file:///etc", "path": "/tmp"}')
    assert (code, failure["reason"]) == (64, "InvalidConfig")
    config = {"uri": "https://localhost:1/model", "path": str(tmp_path)}
    code, failure = run(tmp_path, json.dumps(config))
    assert (code, failure["reason"]) == (65, "DownloadFailed")
    assert "model.uri" in failure["message"]
