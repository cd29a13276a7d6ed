"""The checkpoint of a model that is shared out (FSDP), written by all ranks: each writes what it holds.

    <output>/checkpoints/.tmp-parts-<attempt>-0000000450/
        model-00002-of-00008.safetensors, …   this rank's slices along dimension 0
        rank-1.json                           [{path, size, sha256}] or {"error": …}; written last

Rank 0 moves the files into the checkpoint before it writes the manifest. The threads that write meet in files, since
the collectives belong to the loop.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard_workloads.checkpoint import CheckpointInfo
from modelyard_workloads.durable import TEMPORARY_PREFIX, canonical_json, replace_file
from modelyard_workloads.snapshot import STATE_FILE, Snapshot

PATIENCE_SECONDS = 600.0  # between rank 0's part and the last of the others
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class PartStore:
    """The checkpoints directory as a rank other than 0 sees it, and rank 0's view of those ranks' files."""

    root: Path
    attempt: int
    rank: int
    ranks: int
    patience: float = PATIENCE_SECONDS

    @property
    def suffix(self) -> str:
        """What this rank's files have in their names."""
        return f"-{self.rank + 1:05d}-of-{self.ranks:05d}"

    def save(self, step: int, snapshot: Snapshot) -> CheckpointInfo:
        """Write this rank's files for rank 0 to collect. Raises OSError, and rank 0 hears of it."""
        directory = self._directory(step)
        said = directory / f"rank-{self.rank}.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            entries = [snapshot.entry(directory / name) for name in snapshot.names() if name != STATE_FILE]
            replace_file(said, canonical_json(entries))
        except OSError as error:
            with contextlib.suppress(OSError):  # then rank 0 loses its patience
                replace_file(said, canonical_json({"error": str(error)}))
            raise
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return CheckpointInfo(step=step, uri="", time=now, sizeBytes=sum(entry["size"] for entry in entries))

    def collect(self, step: int, into: Path) -> list[dict[str, Any]]:
        """Move the files of all other ranks into the unfinished checkpoint; their entries of the manifest. Raises
        OSError when a rank could not write or does not come.
        """
        directory, entries = self._directory(step), []
        deadline = time.monotonic() + self.patience
        for rank in range(1, self.ranks):
            for entry in self._said(directory, rank, deadline):
                (directory / entry["path"]).rename(into / entry["path"])
                entries.append(entry)
        # Those of earlier steps are of checkpoints that failed; no rank writes to them any more.
        for done in self.root.glob(f"{TEMPORARY_PREFIX}parts-{self.attempt}-*"):
            if done.name <= directory.name:
                shutil.rmtree(done, ignore_errors=True)
        return entries

    def _directory(self, step: int) -> Path:
        # An earlier attempt that still runs somewhere must not write into this one's files.
        return self.root / f"{TEMPORARY_PREFIX}parts-{self.attempt}-{step:010d}"

    def _said(self, directory: Path, rank: int, deadline: float) -> list[dict[str, Any]]:
        path = directory / f"rank-{rank}.json"
        while not path.exists():
            if time.monotonic() > deadline:
                raise OSError(f"rank {rank} has not written its part within {self.patience:.0f} s")
            time.sleep(_PAUSE_SECONDS)
        said: Any = json.loads(path.read_bytes())
        if isinstance(said, dict):
            raise OSError(f"rank {rank} could not write its part: {said['error']}")
        return list(said)
