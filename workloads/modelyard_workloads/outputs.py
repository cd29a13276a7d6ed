"""What leaves the training: checkpoints and artifacts. Rank 0 alone touches the volume; the others get bytes from
it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from modelyard_workloads.artifact import Description, TrainingOrigin, write_artifact
from modelyard_workloads.checkpoint import CheckpointStore, Run, decode
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.durable import Fence, canonical_json
from modelyard_workloads.exits import CheckpointFailed, DataError, PodError
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.highwater import HighWater
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.tasks.base import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights to publish, under these names."""

    names: list[str]  # "best", "final"
    step: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


class Outputs:
    """The output volume as all ranks see it: every method but `due` is a collective call."""

    def __init__(self, config: TrainingConfig, ranks: Ranks, reporter: Reporter) -> None:
        """Rank 0 takes the output over. Raises Fenced when a later attempt has it, PodError when it cannot be
        written.
        """
        self._config = config
        self._ranks = ranks
        self._reporter = reporter
        self._saved_at = time.monotonic()
        self._saved_step = -1
        self._store: CheckpointStore | None = None
        self.highwater: HighWater | None = None
        if ranks.is_main:
            output, identity = config.output, config.training
            self._fence = Fence(output.path, config.attempt, identity.uid)
            self._store = CheckpointStore(
                output.path / "checkpoints",
                uri=output.uri,
                keep_last=config.checkpoint.keep_last,
                fence=self._fence,
                run=Run(fingerprint=fingerprint(config), uid=identity.uid),
            )
            try:
                self._fence.acquire()
                self._store.prepare()
                self.highwater = HighWater(output.path, identity.uid)
            except OSError as error:
                raise PodError(f"the output {output.path} cannot be written: {error}") from None

    def resume(self) -> dict[str, Any] | None:
        """The state to go on from, the same on all ranks, or None. Raises DataError when one is required and there is
        none.
        """
        mode = self._config.checkpoint.resume
        files: dict[str, bytes] | None = None
        if self._store is not None:
            if mode == "Never":
                self._store.start_over()
            elif found := self._store.load():
                info, files = found
                self._saved_step = info.step
                self._reporter.event("resumed", **asdict(info))
            elif mode == "Required":
                raise DataError("checkpoint.resume is Required, and there is no usable checkpoint of this training")
        names: list[str] = json.loads(self._ranks.broadcast(json.dumps(sorted(files or {})).encode()))
        if not names:
            return None
        return decode({name: self._ranks.broadcast(files[name] if files else None) for name in names})

    def due(self, step: int, *, ended: bool) -> bool:
        """Rank 0's opinion: is it time for a checkpoint? One is also made at the end, so that publishing can be
        repeated.
        """
        policy = self._config.checkpoint
        if self._store is None or (policy.every_steps is None and policy.every_seconds is None):
            return False
        return (
            (policy.every_steps is not None and step % policy.every_steps == 0)
            or (policy.every_seconds is not None and time.monotonic() - self._saved_at >= policy.every_seconds)
            or ended
        )

    def save(self, step: int, sections: dict[str, Any], *, required: bool) -> None:
        """Save a checkpoint. When the volume refuses, training goes on with the older ones, unless this one is
        `required`.
        """
        problem = ""
        if self._store is not None and step != self._saved_step:
            began = time.monotonic()
            try:
                info = self._store.save(step, sections)
                self._saved_step = step
                self._reporter.event("checkpoint", **asdict(info), saveSeconds=round(time.monotonic() - began, 4))
            except OSError as error:
                problem = f"the checkpoint of step {step} could not be written: {error}"
                logger.error(problem)
                self._reporter.event("checkpointFailed", step=step, message=problem)
            self._saved_at = time.monotonic()
        (failed,) = self._ranks.agree(bool(problem))
        if failed and required:
            raise CheckpointFailed(problem or "rank 0 could not write the checkpoint")

    def publish(self, task: Task, candidates: list[Published]) -> list[dict[str, Any]]:
        """Write the artifacts; rank 0 returns their entries for the status, the others wait and return none."""
        entries: list[dict[str, Any]] = []
        if self._store is not None:
            for candidate in candidates:
                entries += self._publish(task, candidate)
                moved()
        self._ranks.barrier()
        return entries

    def _publish(self, task: Task, candidate: Published) -> list[dict[str, Any]]:
        self._fence.check()
        identity, output = self._config.training, self._config.output
        metrics = {name: f"{value:.6g}" for name, value in candidate.metrics.items()}
        origin = TrainingOrigin(
            name=identity.name,
            uid=identity.uid,
            generation=identity.generation,
            step=candidate.step,
            metrics=metrics,
            versions=_versions(),
        )

        def fill(directory: Path) -> Description:
            return task.describe(directory, candidate.weights)

        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        artifact = write_artifact(output.path / "artifacts", fill, origin, now)
        base = output.uri or output.path.as_uri()
        entry = {
            "step": candidate.step,
            "uri": f"{base}/artifacts/{artifact.path.name}",
            "digest": artifact.digest,
            "sizeBytes": artifact.size_bytes,
            "task": self._config.task,
            "format": "safetensors",
            "metrics": metrics,
            "createdAt": now,
        }
        return [{"name": name, **entry} for name in candidate.names]


def fingerprint(config: TrainingConfig) -> str:
    """What a checkpoint must have in common with a run to be its past: task, parameters, data and initial weights."""
    decisive = {
        "task": config.task,
        "parameters": config.parameters.model_dump(mode="json"),
        "dataset": config.dataset.uri,
        "model": config.model.uri,
    }
    return hashlib.sha256(canonical_json(decisive)).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("modelyard", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
