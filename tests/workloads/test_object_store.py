"""Outputs on an object store: a real S3 server on this machine, and pods that begin with nothing of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
from modelyard_workloads import stacks
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.data import clicks
from modelyard_workloads.data.sources import MODEL, open_source
from modelyard_workloads.durable import Fenced
from modelyard_workloads.exits import DataError
from modelyard_workloads.remote_directory import open_remote
from servers.s3 import s3_server
from trainings.inprocess import run

URI = "s3://bucket/runs/a"
KEYS = {"AWS_ACCESS_KEY_ID": "the-id", "AWS_SECRET_ACCESS_KEY": "the-secret"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3")) as address:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> pyarrow.fs.S3FileSystem:
    """An empty one, and the credentials of the output in the environment."""
    for prefix in ("MODELYARD_OUTPUT_", MODEL):
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3}.items():
            monkeypatch.setenv(prefix + name, value)
    host = s3.removeprefix("http://")
    filesystem = pyarrow.fs.S3FileSystem(
        access_key="the-id",
        secret_key="the-secret",  # noqa: S106
        endpoint_override=host,
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    filesystem.create_dir("bucket")
    filesystem.delete_dir_contents("bucket")
    return filesystem


def training(**changes: Any) -> dict[str, Any]:
    parameters = {
        "label": "clicked",
        "categorical": {"country": clicks.COUNTRIES, "device": clicks.DEVICES},
        "embeddingDimension": 4,
        "hiddenUnits": [8],
        "batchSize": 256,
        "maxSteps": 8,
    }
    return {
        "task": "recommendation",
        "dataset": {"uri": "example://clicks"},
        "parameters": parameters,
        "training": {"uid": "one"},
        "checkpoint": {"everySteps": 2, "everySeconds": None},
        **changes,
    }


def test_the_stacks_of_a_standstill_are_there_too(tmp_path: Path, bucket: pyarrow.fs.S3FileSystem) -> None:
    told = stacks.keep(tmp_path, f"{URI}/", 2, {0: "rank 0 waits", 1: "rank 1 is stopped"})
    assert told == {"path": "stacks/attempt-2", "uri": f"{URI}/stacks/attempt-2"}
    with bucket.open_input_stream("bucket/runs/a/stacks/attempt-2/rank-1.txt") as file:
        assert file.read() == b"rank 1 is stopped"
    assert stacks.keep(tmp_path, "pvc://claim", 2, {0: "rank 0 waits"})["uri"] == "pvc://claim/stacks/attempt-2"
    assert (tmp_path / "stacks/attempt-2/rank-0.txt").read_text() == "rank 0 waits"


def in_pod(directory: Path, raw: dict[str, Any], stop_after: int | None = None) -> Any:
    """A pod that has nothing but an empty directory."""
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return stop_after is not None and calls > stop_after

    return run(directory, {**raw, "output": {"path": str(directory), "uri": URI}}, stop)


def names(bucket: pyarrow.fs.S3FileSystem, below: str) -> list[str]:
    selector = pyarrow.fs.FileSelector(f"bucket/runs/a/{below}", recursive=True, allow_not_found=True)
    return sorted(i.path.removeprefix("bucket/runs/a/") for i in bucket.get_file_info(selector) if i.is_file)


def complete(bucket: pyarrow.fs.S3FileSystem) -> list[str]:
    """The checkpoints that are complete."""
    return [n.split("/")[1] for n in names(bucket, "checkpoints") if n.endswith("/manifest.json")]


def put(bucket: pyarrow.fs.S3FileSystem, name: str, content: bytes) -> None:
    with bucket.open_output_stream(f"bucket/runs/a/{name}") as stream:
        stream.write(content)


def get(bucket: pyarrow.fs.S3FileSystem, name: str) -> bytes:
    with bucket.open_input_stream(f"bucket/runs/a/{name}") as stream:
        content: bytes = stream.read()
    return content


def test_a_run_that_is_stopped_goes_on_in_another_pod_and_ends_bit_for_bit_alike(
    tmp_path: Path, bucket: pyarrow.fs.S3FileSystem
) -> None:
    whole = run(tmp_path / "volume", training())
    assert in_pod(tmp_path / "1", training(), stop_after=5) is None
    assert complete(bucket) == ["step-0000000004", "step-0000000005"], "keepLast is 2"
    ended = in_pod(tmp_path / "2", training(attempt=2))
    assert ended.artifacts["final"].manifest.files == whole.artifacts["final"].manifest.files  # type: ignore[union-attr]
    assert names(bucket, "tensorboard")
    assert json.loads(get(bucket, "highest-step.json"))["step"] >= 5


@pytest.mark.usefixtures("bucket")
def test_what_is_published_is_found_under_the_address_in_the_status(tmp_path: Path) -> None:
    ended = in_pod(tmp_path / "1", training())
    for entry in ended.result["artifacts"]:
        assert entry["uri"].startswith(f"{URI}/artifacts/sha256-")
        directory = open_source(entry["uri"], MODEL).local_directory()
        assert read_artifact(directory, entry["digest"]).digest == entry["digest"]


@pytest.mark.usefixtures("bucket")
def test_a_training_begins_with_an_artifact_that_lies_there(tmp_path: Path) -> None:
    def texts(**changes: Any) -> dict[str, Any]:
        parameters = {"architecture": "tiny", "sequenceLength": 16, "batchSize": 8, "maxSteps": 1, "learningRate": 1e-9}
        shared = {"task": "text-classification", "dataset": {"uri": "example://python-areas"}}
        return {**training(), **shared, "parameters": {**parameters, "vocabularySize": 512}, **changes}

    first = in_pod(tmp_path / "1", texts()).result["artifacts"][-1]
    model = {"uri": first["uri"], "digest": first["digest"]}
    raw = texts(model=model, training={"uid": "two"})
    del raw["parameters"]["vocabularySize"], raw["parameters"]["architecture"]
    assert run(tmp_path / "2", raw) is not None
    with pytest.raises(DataError, match=r"model.uri: .* expected sha256:0000"):
        run(tmp_path / "3", {**raw, "model": {**model, "digest": f"sha256:{'0' * 64}"}})


def test_an_earlier_attempt_that_wakes_up_writes_nothing(tmp_path: Path, bucket: pyarrow.fs.S3FileSystem) -> None:
    calls = 0

    def wake_up_late() -> bool:
        nonlocal calls
        calls += 1
        if calls == 4:
            put(bucket, "fence.json", b'{"attempt":2,"uid":"one"}')
        return False

    raw = training(output={"path": str(tmp_path / "1"), "uri": URI})
    with pytest.raises(Fenced, match="s3://bucket/runs/a is owned by"):
        run(tmp_path / "1", raw, wake_up_late)
    assert not any("step-0000000008" in name for name in names(bucket, "checkpoints"))
    with pytest.raises(Fenced, match="attempt 1 may not write to s3://bucket/runs/a: attempt 2 was here"):
        in_pod(tmp_path / "2", training())


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    tmp_path: Path, bucket: pyarrow.fs.S3FileSystem
) -> None:
    assert in_pod(tmp_path / "1", training(), stop_after=5) is None
    victim = next(n for n in names(bucket, "checkpoints/step-0000000005") if n.endswith(".safetensors"))
    content = bytearray(get(bucket, victim))
    content[-1] ^= 1
    put(bucket, victim, bytes(content))
    ended = in_pod(tmp_path / "2", training(attempt=2))
    assert ended.result["step"] == 8
    assert "checkpoints/step-0000000005/set-aside.json" in names(bucket, "checkpoints")


def test_an_upload_that_was_cut_off_is_no_checkpoint(tmp_path: Path, bucket: pyarrow.fs.S3FileSystem) -> None:
    assert in_pod(tmp_path / "1", training(), stop_after=5) is None
    put(bucket, "checkpoints/step-0000000007/state.json", b"{}")
    ended = in_pod(tmp_path / "2", training(attempt=2, checkpoint={"resume": "Required", "everySeconds": None}))
    assert ended.result["step"] == 8


def test_checkpoints_of_other_parameters_are_set_aside_and_never_removes_ones_own(
    tmp_path: Path, bucket: pyarrow.fs.S3FileSystem
) -> None:
    assert in_pod(tmp_path / "1", training(), stop_after=5) is None
    other = training(attempt=2)
    other["parameters"] = {**other["parameters"], "learningRate": 0.01}
    assert in_pod(tmp_path / "2", other).result["step"] == 8
    assert "checkpoints/step-0000000005/set-aside.json" in names(bucket, "checkpoints")
    afresh = {**other, "checkpoint": {"resume": "Never", "everySeconds": None}}
    assert in_pod(tmp_path / "3", afresh, stop_after=1) is None
    assert complete(bucket) == ["step-0000000001"]


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"MODELYARD_OUTPUT_AWS_SECRET_ACCESS_KEY": ""}, "output.uri: .*must have both AWS_ACCESS_KEY_ID and"),
        ({"uri": "s3://no-such-bucket/a"}, "output.uri: s3://no-such-bucket/a"),
    ],
)
def test_an_output_that_cannot_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str
) -> None:
    uri = change.pop("uri", URI)
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=says):
        run(tmp_path / "1", training(output={"path": str(tmp_path / "1"), "uri": uri}))


_UPLOAD = """
import sys
from pathlib import Path
from modelyard_workloads.remote_directory import open_remote
remote = open_remote("s3://bucket/runs/a")
print("begun", flush=True)
while True:
    remote.push(Path(sys.argv[1]), "checkpoints/step-0000000001", last="manifest.json")
    remote.remove("checkpoints/step-0000000001", first="manifest.json")
"""


def test_a_kill_while_it_is_copied_up_leaves_all_or_nothing(tmp_path: Path, bucket: pyarrow.fs.S3FileSystem) -> None:
    source = tmp_path / "step"
    source.mkdir()
    files = {"a.safetensors": b"a" * 3_000_000, "b.safetensors": b"b" * 1_000_000, "manifest.json": b"{}"}
    for name, content in files.items():
        (source / name).write_bytes(content)
    for round_ in range(4):
        process = subprocess.Popen([sys.executable, "-c", _UPLOAD, str(source)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(0.05 + 0.07 * round_)
        process.kill()
        process.wait(timeout=30)
        for whole in open_remote(URI).having("checkpoints", "manifest.json"):
            for name, content in files.items():
                assert get(bucket, f"checkpoints/{whole}/{name}") == content
