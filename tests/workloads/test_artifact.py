"""The artifact directory: complete or not there, and every byte pinned by its digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from modelyard_workloads.artifact import (
    Architecture,
    Artifact,
    ArtifactInvalid,
    ArtifactMissing,
    Description,
    DigestMismatch,
    TensorSpec,
    TrainingOrigin,
    read_artifact,
    write_artifact,
)

ORIGIN = TrainingOrigin(name="digits", uid="u-1", generation=1, step=7, metrics={"accuracy": "0.99"})
TIME = "2026-01-01T00:00:00Z"


def fill(directory: Path) -> Description:
    """Two files and a description."""
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "extra").mkdir()
    (directory / "extra/notes.txt").write_text("notes")
    spec = TensorSpec(name="x", datatype="FP32", shape=[-1, 2])
    return Description(
        task="toy", architecture=Architecture(name="toy"), weights=["model.safetensors"], inputs=[spec], outputs=[spec]
    )


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_artifact(tmp_path / "artifacts", fill, ORIGIN, TIME)


def test_what_was_written_is_read_back_under_its_digest(artifact: Artifact) -> None:
    assert artifact.path.name == artifact.digest.replace(":", "-")
    again = read_artifact(artifact.path, artifact.digest)
    assert again == artifact
    assert again.weights == [artifact.path / "model.safetensors"]
    assert again.size_bytes == len(b"weights") + len("notes")
    assert [file.path for file in again.manifest.files] == ["extra/notes.txt", "model.safetensors"]


def test_publishing_the_same_bytes_twice_leaves_one_artifact_and_nothing_temporary(artifact: Artifact) -> None:
    again = write_artifact(artifact.path.parent, fill, ORIGIN, TIME)
    assert again == artifact
    assert [path.name for path in artifact.path.parent.iterdir()] == [artifact.path.name]


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken(directory: Path) -> Description:
        fill(directory)
        raise RuntimeError("no golden answers")

    with pytest.raises(RuntimeError, match="no golden answers"):
        write_artifact(tmp_path / "artifacts", broken, ORIGIN, TIME)
    assert list((tmp_path / "artifacts").iterdir()) == []


def flip(path: Path) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    """Replace a file by a symbolic link to a file with the same content."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "has SHA-256"),
        (lambda path: path.write_bytes(b"weigh"), "has 5 bytes, modelyard.json says 7"),
        (lambda path: path.unlink(), "is not there"),
        (link, "is not there"),
    ],
)
def test_a_damaged_file_is_noticed(artifact: Artifact, damage: Callable[[Path], None], message: str) -> None:
    damage(artifact.path / "model.safetensors")
    with pytest.raises(DigestMismatch, match=message):
        read_artifact(artifact.path)


def test_another_manifest_than_the_one_asked_for_is_refused(artifact: Artifact) -> None:
    with pytest.raises(DigestMismatch, match="expected sha256:0000"):
        read_artifact(artifact.path, "sha256:" + 64 * "0")
    flip(artifact.path / "modelyard.json")
    with pytest.raises(DigestMismatch):
        read_artifact(artifact.path, artifact.digest)


def test_a_path_without_an_artifact_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactMissing):
            read_artifact(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schemaVersion": 2}, "schemaVersion 2; this program reads 1"),
        ({"weights": ["model.pt"]}, "must be safetensors"),
        ({"weights": ["other.safetensors"]}, "not in files"),
        ({"files": [{"path": "../../etc/passwd", "size": 1, "sha256": 64 * "0"}]}, "inside the artifact"),
        ({"files": [{"path": "/etc/passwd", "size": 1, "sha256": 64 * "0"}]}, "inside the artifact"),
        ({"inputs": []}, "inputs: "),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_invalid(
    artifact: Artifact, change: dict[str, object], message: str
) -> None:
    path = artifact.path / "modelyard.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactInvalid, match=message):
        read_artifact(artifact.path)


def test_a_manifest_that_is_no_json_is_invalid(artifact: Artifact) -> None:
    for content in ("{", "[]", "null"):
        (artifact.path / "modelyard.json").write_text(content)
        with pytest.raises(ArtifactInvalid):
            read_artifact(artifact.path)
