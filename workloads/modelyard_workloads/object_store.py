"""Outputs on object stores: `spec.output.uri: s3://bucket/runs/a` (or `gs://`), with credentials of their own.

The pod works in a directory of its own, as it does on a volume; what is complete there is copied up. A store has no
rename, so the file that makes a directory complete (`manifest.json`, `modelyard.json`) is copied last, and a directory
without it is not there. The layout is the volume's (see docs/output-volume.md).

Credentials are the variables `MODELYARD_OUTPUT_…`, see `data.filesystems`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

from modelyard_workloads.artifact import MANIFEST_NAME
from modelyard_workloads.checkpoint import MANIFEST, STEP_PREFIX, CheckpointInfo, CheckpointStore, DamagedCheckpoint
from modelyard_workloads.data.failures import blamed
from modelyard_workloads.data.filesystems import credentials, open_filesystem
from modelyard_workloads.durable import Fence, make_temporary_directory, publish_directory
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.highwater import FILE_NAME as HIGHEST_STEP
from modelyard_workloads.snapshot import Snapshot

logger = logging.getLogger(__name__)

VARIABLES = "MODELYARD_OUTPUT_"
SCHEMES = ("s3", "gs")
CHECKPOINTS, ASIDE, TENSORBOARD = "checkpoints", "set-aside.json", "tensorboard"
_PIECE = 4 << 20


class RemoteDirectory:
    """A directory of an object store. Methods raise OSError when the store refuses."""

    def __init__(self, uri: str, filesystem: Any) -> None:
        parts = urlparse(uri)
        self.uri = uri.rstrip("/")
        self._root = f"{parts.netloc}{parts.path}".rstrip("/")
        self._files = filesystem

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        try:
            with self._files.open(f"{self._root}/{name}", "rb") as file:
                content: bytes = file.read()
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """A small file, at once or not at all."""
        with self._files.open(f"{self._root}/{name}", "wb") as file:
            file.write(content)

    def push(self, directory: Path, name: str, *, last: str = "") -> None:
        """Copy every file of a local directory whose size is another one here; `last` after all others are there."""
        names = sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
        for file in sorted(names, key=lambda file: file == last):
            source, target = directory / file, f"{self._root}/{name}/{file}"
            if file == last or self._size(target) != source.stat().st_size:
                with source.open("rb") as reader, self._files.open(target, "wb") as writer:
                    _copy(reader, writer)
            if self._size(target) != source.stat().st_size:
                raise OSError(f"{self.uri}/{name}/{file} is not there as it was written")

    def pull(self, name: str, directory: Path) -> None:
        """Copy every file below `name` into a local directory, which appears when it is complete."""
        temporary = make_temporary_directory(directory.parent, directory.name)
        try:
            for path in self._below(name):
                target = temporary / path.removeprefix(f"{self._root}/{name}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._files.open(path, "rb") as reader, target.open("wb") as writer:
                    _copy(reader, writer)
            publish_directory(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def having(self, name: str, file: str) -> list[str]:
        """The directories directly below `name` that have this file, in order."""
        prefix = f"{self._root}/{name}/"
        inner = (path.removeprefix(prefix).split("/") for path in self._below(name))
        return sorted(parts[0] for parts in inner if parts[1:] == [file])

    def rename(self, name: str, other: str) -> None:
        """A small file gets another name."""
        content = self.read(name)
        if content is not None:
            self.write(other, content)
            self._files.rm_file(f"{self._root}/{name}")

    def remove(self, name: str, *, first: str) -> None:
        """Remove all below `name`, beginning with the file that makes it complete."""
        for path in sorted(self._below(name), key=lambda path: not path.endswith(f"/{first}")):
            self._files.rm_file(path)

    def _below(self, name: str) -> Iterator[str]:
        try:
            self._files.invalidate_cache()
            yield from self._files.find(f"{self._root}/{name}")
        except FileNotFoundError:
            return

    def _size(self, path: str) -> int | None:
        try:
            self._files.invalidate_cache()
            return int(self._files.info(path)["size"])
        except FileNotFoundError:
            return None


def is_remote(uri: str) -> bool:
    """Is this output's address one of an object store?"""
    return urlparse(uri).scheme in SCHEMES


def open_remote(uri: str) -> RemoteDirectory:
    """The directory at an address. Raises DataError for credentials that cannot be used."""
    with blamed("output", uri):
        return RemoteDirectory(uri, open_filesystem(urlparse(uri).scheme, credentials(VARIABLES)))


class RemoteFence(Fence):
    """The fence of an output on an object store. Between a look and a write another attempt may come: a store has no
    lock. But what was written then is a complete checkpoint of the same run, or an artifact under its own digest.
    """

    def __init__(self, remote: RemoteDirectory, attempt: int, uid: str) -> None:
        super().__init__(Path(), attempt, uid)
        self._remote = remote
        self.place = remote.uri

    def _load(self) -> bytes | None:
        return self._remote.read("fence.json")

    def _replace(self, content: bytes) -> None:
        self._remote.write("fence.json", content)


class RemoteCheckpoints(CheckpointStore):
    """Checkpoints that are complete when they are complete on the object store."""

    def __init__(self, root: Path, remote: RemoteDirectory, **settings: Any) -> None:
        super().__init__(root, **settings)
        self._remote = remote

    def prepare(self) -> None:
        """Also brings the mark of the highest step."""
        super().prepare()
        mark = self._root.parent / HIGHEST_STEP
        content = self._remote.read(HIGHEST_STEP)
        if content is not None and not mark.exists():
            mark.write_bytes(content)

    def save(self, step: int, snapshot: Snapshot) -> CheckpointInfo:
        """Write it here, copy it up, then drop the oldest ones there. Raises Fenced and OSError."""
        info = super().save(step, snapshot)
        name = f"{STEP_PREFIX}{step:010d}"
        self._fence.check()
        # What is there under this name is another run's, damaged, or was cut off.
        self._remote.remove(f"{CHECKPOINTS}/{name}", first=MANIFEST)
        self._remote.push(self._root / name, f"{CHECKPOINTS}/{name}", last=MANIFEST)
        for mark in (MANIFEST, ASIDE):
            for old in self._remote.having(CHECKPOINTS, mark)[: -self._keep_last]:
                self._remote.remove(f"{CHECKPOINTS}/{old}", first=mark)
        self.push_beside()
        return info

    def push_beside(self) -> None:
        """Copy up what lies beside the checkpoints: curves, and the mark of the highest step."""
        output = self._root.parent
        self._remote.push(output / TENSORBOARD, TENSORBOARD)
        if (output / HIGHEST_STEP).exists():
            self._remote.write(HIGHEST_STEP, (output / HIGHEST_STEP).read_bytes())

    def push_artifact(self, artifact: Path) -> None:
        """Copy up a published artifact."""
        self._remote.push(artifact, f"artifacts/{artifact.name}", last=MANIFEST_NAME)

    def load(self) -> tuple[CheckpointInfo, dict[str, bytes]] | None:
        """The newest one of this run that is what was saved; others are set aside there too."""
        for name in reversed(self._remote.having(CHECKPOINTS, MANIFEST)):
            if not (self._root / name).exists():
                self._remote.pull(f"{CHECKPOINTS}/{name}", self._root / name)
            found = super().load()
            if found is not None:
                return found
            self._set_aside(name)
        return None

    def start_over(self) -> None:
        """Resume is off: this training's own checkpoints are removed, those of others set aside."""
        for name in self._remote.having(CHECKPOINTS, MANIFEST):
            if self._is_mine(name):
                self._remote.remove(f"{CHECKPOINTS}/{name}", first=MANIFEST)
            else:
                self._set_aside(name)

    def _is_mine(self, name: str) -> bool:
        content = self._remote.read(f"{CHECKPOINTS}/{name}/{MANIFEST}")
        try:
            return content is not None and self.parse_manifest(name, content)["run"]["uid"] == self._run.uid
        except DamagedCheckpoint:
            return False

    def _set_aside(self, name: str) -> None:
        logger.warning("checkpoint %s/%s/%s is set aside", self._remote.uri, CHECKPOINTS, name)
        self._remote.rename(f"{CHECKPOINTS}/{name}/{MANIFEST}", f"{CHECKPOINTS}/{name}/{ASIDE}")


def _copy(reader: BinaryIO, writer: BinaryIO) -> None:
    while piece := reader.read(_PIECE):
        writer.write(piece)
        moved()
