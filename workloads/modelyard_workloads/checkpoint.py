"""Checkpoints: complete or not there, verified when read, never pickled.

    <output>/checkpoints/step-0000000450/
        manifest.json         {"body": {step, run, files: [{path, size, sha256}], …}, "sha256": hash of the body}
        state.json, *.safetensors   a snapshot's files, see snapshot.py

A directory appears by one rename after everything in it was fsynced, so SIGKILL at any moment leaves the checkpoints
before it untouched. The newest one whose hashes are right is used; a damaged one is renamed `damaged-…` and the one
before it is tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard_workloads.durable import (
    TEMPORARY_PREFIX,
    Fence,
    canonical_json,
    fsync_path,
    make_temporary_directory,
    publish_directory,
    sha256_file,
    write_file,
)
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.snapshot import Snapshot

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STEP_PREFIX = "step-"
_READERS = 4  # files that are read and hashed at once


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what was saved."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What the status shows of a checkpoint."""

    step: int
    uri: str
    time: str  # RFC 3339
    sizeBytes: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a checkpoint belongs to: the fingerprint of everything that decides the result, and the training's uid."""

    fingerprint: str
    uid: str


class CheckpointStore:
    """The checkpoints directory of one output. Only rank 0 has one."""

    def __init__(self, root: Path, *, uri: str, keep_last: int, fence: Fence, run: Run) -> None:
        self._root = root
        self._uri = uri
        self._keep_last = keep_last
        self._fence = fence
        self._run = run
        # Collects the files that other ranks write for a checkpoint: (step, unfinished directory) -> their entries.
        self.collect: Callable[[int, Path], list[dict[str, Any]]] = lambda _step, _into: []

    def prepare(self) -> None:
        """Make the directory and remove what killed processes left unfinished."""
        self._fence.check()
        self._root.mkdir(parents=True, exist_ok=True)
        for path in self._root.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, snapshot: Snapshot) -> CheckpointInfo:
        """Write the checkpoint of `step`, then drop the oldest ones. Raises Fenced, and OSError with the older ones
        untouched.
        """
        self._fence.check()
        final = self._root / f"{STEP_PREFIX}{step:010d}"
        temporary = make_temporary_directory(self._root, f"{final.name}-{os.getpid()}")
        try:
            entries = [snapshot.entry(temporary / name) for name in snapshot.names()]
            entries += self.collect(step, temporary)
            now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            body = {"schemaVersion": 1, "step": step, "run": asdict(self._run), "createdAt": now, "files": entries}
            manifest = {"body": body, "sha256": hashlib.sha256(canonical_json(body)).hexdigest()}
            write_file(temporary / MANIFEST, canonical_json(manifest))
            self._fence.check()  # writing may have taken minutes
            if final.exists():
                self._quarantine(final, "replaced")
            publish_directory(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune(newest=final)
        return self._info(final, body)

    def load(self) -> tuple[CheckpointInfo, dict[str, bytes]] | None:
        """The newest complete checkpoint of this run as verified bytes (see `snapshot.decode`), or None.

        Damaged ones are renamed `damaged-…`. Checkpoints of a run with other parameters or data are renamed `other-…`,
        and the newest of them kept: going on from them would be a different training.
        """
        for path in self._steps():
            try:
                body, files = self._read(path)
            except (DamagedCheckpoint, OSError) as error:
                logger.warning("checkpoint %s is damaged and set aside: %s", path.name, error)
                self._quarantine(path, "damaged")
                continue
            if body["run"]["fingerprint"] == self._run.fingerprint:
                return self._info(path, body), files
            logger.warning("checkpoint %s belongs to other parameters or data and is set aside", path.name)
            self._quarantine(path, "other")
        return None

    def start_over(self) -> None:
        """Resume is off: this training's own checkpoints are removed, those of others set aside."""
        for path in self._steps():
            try:
                mine = self._read_manifest(path)["run"]["uid"] == self._run.uid
            except (DamagedCheckpoint, OSError):
                mine = False
            if mine:
                _remove(path)
            else:
                self._quarantine(path, "other")

    def _steps(self) -> list[Path]:
        """Complete checkpoints, newest first."""
        return sorted((p for p in self._root.glob(f"{STEP_PREFIX}*") if p.is_dir()), reverse=True)

    def _read_manifest(self, path: Path) -> dict[str, Any]:
        try:
            content = (path / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{MANIFEST} is not there") from None
        return self.parse_manifest(path.name, content)

    @staticmethod
    def parse_manifest(name: str, content: bytes) -> dict[str, Any]:
        """The body of a manifest, of the checkpoint of that name. Raises DamagedCheckpoint."""
        try:
            manifest = json.loads(content)
            body = manifest["body"]
            if hashlib.sha256(canonical_json(body)).hexdigest() != manifest["sha256"]:
                raise DamagedCheckpoint(f"{MANIFEST} has a wrong hash")
            if name != f"{STEP_PREFIX}{body['step']:010d}":
                raise DamagedCheckpoint(f"{MANIFEST} is that of step {body['step']}")
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{MANIFEST} cannot be understood: {error}") from None
        return dict(body)

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
        body = self._read_manifest(path)

        def read(entry: dict[str, Any]) -> bytes:
            content: bytes = (path / entry["path"]).read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise DamagedCheckpoint(f"{entry['path']} has {len(content)} bytes with a wrong hash")
            moved()
            return content

        with ThreadPoolExecutor(_READERS) as readers:
            return body, dict(zip((e["path"] for e in body["files"]), readers.map(read, body["files"]), strict=True))

    def _prune(self, newest: Path) -> None:
        """Keep the last ones; nothing is dropped before the newest has been read back from the volume and is right."""
        entries = self._read_manifest(newest)["files"]
        if any(sha256_file(newest / entry["path"]) != entry["sha256"] for entry in entries):
            raise DamagedCheckpoint(f"{newest} reads back differently from what was written")
        for path in self._steps()[self._keep_last :]:
            _remove(path)
        for word in ("damaged", "replaced", "other"):
            aside = sorted(self._root.glob(f"{word}-*"), key=lambda path: (path.stat().st_mtime, path.name))
            for path in aside[: -self._keep_last]:
                _remove(path)

    def _quarantine(self, path: Path, word: str) -> None:
        target = self._root / f"{word}-{path.name}"
        number = 1
        while target.exists():
            number += 1
            target = self._root / f"{word}-{path.name}-{number}"
        path.rename(target)
        fsync_path(self._root)

    def _info(self, path: Path, body: dict[str, Any]) -> CheckpointInfo:
        size = sum(int(entry["size"]) for entry in body["files"])
        uri = f"{self._uri}/checkpoints/{path.name}" if self._uri else path.as_uri()
        return CheckpointInfo(step=int(body["step"]), uri=uri, time=str(body["createdAt"]), sizeBytes=size)


def _remove(path: Path) -> None:
    """Delete a checkpoint: first out of sight, so that a kill in between leaves no half one under a valid name."""
    hidden = path.with_name(f"{TEMPORARY_PREFIX}removed-{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
