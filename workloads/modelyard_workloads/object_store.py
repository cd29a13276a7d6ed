"""Outputs on object stores: `spec.output.uri: s3://bucket/runs/a` (or `gs://`), with credentials of their own.

The pod works in a directory of its own, as it does on a volume; what is complete there is copied up. A store has no
rename, so the file that makes a directory complete (`manifest.json`, `modelyard.json`) is copied last, and a directory
without it is not there. The layout is the volume's (see docs/output-volume.md).

Credentials are the variables `MODELYARD_OUTPUT_…`, see `data.filesystems`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from modelyard_workloads.artifact import MANIFEST_NAME
from modelyard_workloads.checkpoint import MANIFEST, STEP_PREFIX, CheckpointInfo, CheckpointStore, DamagedCheckpoint
from modelyard_workloads.durable import Fence
from modelyard_workloads.highwater import FILE_NAME as HIGHEST_STEP
from modelyard_workloads.remote_directory import RemoteDirectory
from modelyard_workloads.snapshot import Snapshot

logger = logging.getLogger(__name__)

CHECKPOINTS, ASIDE, TENSORBOARD = "checkpoints", "set-aside.json", "tensorboard"


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
