"""The artifact directory: what a training hands to a server.

Layout (complete or not there; the directory is named by its digest):

    <output>/artifacts/sha256-<64 hex>/
        modelyard.json        canonical JSON, see `Manifest`; its SHA-256 IS the artifact's digest
        model.safetensors     weights; every file is listed in modelyard.json with its size and SHA-256

So one digest pins every byte: the manifest by its own hash, the files by the hashes in the manifest.

`inputs` and `outputs` are Open Inference Protocol v2 tensors; -1 is the batch dimension. `golden` holds a few held-out
inputs with the answers that the saved weights gave when they were loaded again in eval mode and float32; `data` is a
nested list in the shape of the tensor. A server that reproduces them (within its tolerance) serves what was trained.

image-classification: one input `image` FP32 [-1, C, H, W], raw pixel values scaled to 0..1 (a byte divided by 255),
channels first, RGB or grey. Normalisation and resizing to the network's size happen inside the served model, from
`preprocess`. Outputs `logits` and `probabilities`, both FP32 [-1, K]; K and the order are those of `labels`.

This module knows no torch: the weights are bytes here. `modelyard_workloads.tasks.build_model_from_artifact(artifact)`
gives the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from modelyard_workloads.durable import canonical_json, make_temporary_directory, publish_directory, sha256_file

MANIFEST_NAME = "modelyard.json"
SCHEMA_VERSION = 1

Datatype = Literal["BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"]


class ArtifactError(Exception):
    """Base of what can be wrong with an artifact; `reason` is the CamelCase word for a status."""

    reason = "ArtifactInvalid"


class ArtifactMissing(ArtifactError):
    """There is no artifact at the path (no directory, or no modelyard.json in it)."""

    reason = "ArtifactMissing"


class DigestMismatch(ArtifactError):
    """The manifest is not the one asked for, or a file is not the one that the manifest lists: damaged or replaced."""

    reason = "DigestMismatch"


class ArtifactInvalid(ArtifactError):
    """The manifest cannot be understood: not JSON, a field is wrong, or a newer schemaVersion."""

    reason = "ArtifactInvalid"


class _Model(BaseModel):
    # `model_` is no reserved prefix here; unknown fields are errors because the schema is versioned.
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


class TensorSpec(_Model):
    """Name, Open Inference Protocol datatype and shape of one input or output; -1 = any size (the batch)."""

    name: str
    datatype: Datatype
    shape: list[int]


class TensorValue(TensorSpec):
    """A tensor with its values as a nested list; no dimension is -1."""

    data: list[Any]


class Golden(_Model):
    """Inputs (one batch) and the answers of the saved weights to them."""

    inputs: list[TensorValue]
    outputs: list[TensorValue]


class FileEntry(_Model):
    """One file of the artifact: POSIX path relative to the directory, size in bytes, SHA-256 in lower-case hex."""

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _inside_the_directory(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path:
            raise ValueError(f"{path!r} must be a relative path inside the artifact")
        return path


class Architecture(_Model):
    """Which network: a name and the arguments that build it."""

    name: str
    config: dict[str, Any] = {}


class TrainingOrigin(_Model):
    """Where the weights come from; metrics as strings, versions of the libraries that made them."""

    name: str
    uid: str = ""
    generation: int = 0
    step: int = Field(ge=0)
    metrics: dict[str, str] = {}
    versions: dict[str, str] = {}


class Description(_Model):
    """What a task says about its model; the artifact writer adds files, origin and time."""

    task: str
    architecture: Architecture
    weights: list[str] = Field(min_length=1)
    preprocess: dict[str, Any] = {}
    labels: list[str] = []
    inputs: list[TensorSpec] = Field(min_length=1)
    outputs: list[TensorSpec] = Field(min_length=1)
    golden: list[Golden] = []


class Manifest(Description):
    """The content of modelyard.json."""

    schema_version: Literal[1]
    files: list[FileEntry] = Field(min_length=1)
    training: TrainingOrigin
    created_at: str

    @model_validator(mode="after")
    def _weights_are_listed_safetensors(self) -> Manifest:
        listed = {file.path for file in self.files}
        for name in self.weights:
            if not name.endswith(".safetensors"):
                raise ValueError(f"weights must be safetensors files, not {name!r}")
            if name not in listed:
                raise ValueError(f"weights name {name!r}, which is not in files")
        return self


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A verified artifact: every file had the listed size and hash when it was read."""

    path: Path
    digest: str  # "sha256:<64 hex>"
    manifest: Manifest

    @property
    def weights(self) -> list[Path]:
        """Absolute paths of the safetensors files, in order."""
        return [self.path / name for name in self.manifest.weights]

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files; the manifest itself is not counted."""
        return sum(file.size for file in self.manifest.files)


def read_artifact(path: Path, digest: str = "") -> Artifact:
    """Read and verify the artifact directory at `path`.

    `digest` ("sha256:<64 hex>") is required of modelyard.json when it is not empty. Raises ArtifactMissing,
    DigestMismatch (wrong manifest, or a listed file that is absent, truncated, changed or not a regular file) or
    ArtifactInvalid; files that are not listed are ignored.
    """
    try:
        content = (path / MANIFEST_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactMissing(f"no artifact at {path}: {MANIFEST_NAME} is not there") from None
    except OSError as error:
        raise ArtifactInvalid(f"cannot read {path / MANIFEST_NAME}: {error.strerror}") from None
    actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if digest and digest != actual:
        raise DigestMismatch(f"{path / MANIFEST_NAME} has digest {actual}, expected {digest}")
    manifest = parse_manifest(content, path)
    for entry in manifest.files:
        _verify(path, entry)
    return Artifact(path=path, digest=actual, manifest=manifest)


def parse_manifest(content: bytes, path: PurePath) -> Manifest:
    """The content of a modelyard.json at `path`, which errors name. Raises ArtifactInvalid."""
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise ArtifactInvalid(f"{path / MANIFEST_NAME} is not JSON: {error}") from None
    version = raw.get("schemaVersion") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactInvalid(
            f"{path / MANIFEST_NAME} has schemaVersion {version!r}; this program reads {SCHEMA_VERSION}"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        issues = "; ".join(f"{'.'.join(map(str, issue['loc']))}: {issue['msg']}" for issue in error.errors())
        raise ArtifactInvalid(f"{path / MANIFEST_NAME}: {issues}") from None


def _verify(root: Path, entry: FileEntry) -> None:
    path = root / entry.path
    # A symbolic link could point anywhere and change after the check.
    if path.is_symlink() or not path.is_file():
        raise DigestMismatch(f"{path} is listed in {MANIFEST_NAME} and is not there (as a regular file)")
    size = path.stat().st_size
    if size != entry.size:
        raise DigestMismatch(f"{path} has {size} bytes, {MANIFEST_NAME} says {entry.size}")
    actual = sha256_file(path)
    if actual != entry.sha256:
        raise DigestMismatch(f"{path} has SHA-256 {actual}, {MANIFEST_NAME} says {entry.sha256}")


def write_artifact(
    root: Path, fill: Callable[[Path], Description], origin: TrainingOrigin, created_at: str
) -> Artifact:
    """Write an artifact below `root` (`<output>/artifacts`) and publish it under its digest.

    `fill(directory)` writes the weights (and other files) into an empty directory and returns the description, golden
    answers included: it can therefore load the saved weights again before answering. `created_at` is RFC 3339. Nothing
    is visible under a final name unless all of it is on the disk. Raises OSError; whatever `fill` raises passes
    through after the temporary directory is gone.
    """
    temporary = make_temporary_directory(root, f"artifact-{os.getpid()}")
    try:
        description = fill(temporary)
        names = sorted(p.relative_to(temporary).as_posix() for p in temporary.rglob("*") if p.is_file())
        files = [
            FileEntry(path=n, size=(temporary / n).stat().st_size, sha256=sha256_file(temporary / n)) for n in names
        ]
        manifest = Manifest(
            **dict(description), schema_version=SCHEMA_VERSION, files=files, training=origin, created_at=created_at
        )
        content = canonical_json(manifest.model_dump(mode="json", by_alias=True))
        (temporary / MANIFEST_NAME).write_bytes(content)
        hexdigest = hashlib.sha256(content).hexdigest()
        final = root / f"sha256-{hexdigest}"
        if not final.exists():  # the same bytes were published before: nothing to do
            publish_directory(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Artifact(path=final, digest=f"sha256:{hexdigest}", manifest=manifest)
