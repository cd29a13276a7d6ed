"""What leaves the training: checkpoints and artifacts. Rank 0 alone touches the volume and the others get bytes from
it; but ranks that share a model out and all see the volume write their own parts of its checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from modelyard_workloads.artifact import Description, TrainingOrigin, write_artifact
from modelyard_workloads.checkpoint import CheckpointStore, Run
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.curves import Curves
from modelyard_workloads.data.failures import blamed, is_denied
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.durable import TEMPORARY_PREFIX, Fence, canonical_json
from modelyard_workloads.exits import CheckpointFailed, DataError, PodError
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.highwater import HighWater
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.object_store import TENSORBOARD, RemoteCheckpoints, RemoteFence
from modelyard_workloads.parts import PartStore
from modelyard_workloads.remote_directory import is_remote, open_remote
from modelyard_workloads.saver import Saver
from modelyard_workloads.snapshot import decode
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
    """The output, a volume or an object store, as all ranks see it: every method but `due` is a collective call."""

    def __init__(self, config: TrainingConfig, ranks: Ranks, reporter: Reporter) -> None:
        """Rank 0 takes the output over. Raises Fenced when a later attempt has it, PodError when it cannot be
        written, DataError when it never will be.
        """
        self._config = config
        self._ranks = ranks
        self._reporter = reporter
        self._saved_at = time.monotonic()
        self._store: CheckpointStore | None = None  # rank 0's
        self._saver: Saver | None = None
        self.highwater: HighWater | None = None
        if ranks.is_main:
            output, identity = config.output, config.training
            try:
                self._store, self._fence = _open_store(config)
                self._fence.acquire()
                self._store.prepare()
                self._saver = Saver(self._store, reporter)
                self.highwater = HighWater(output.path, identity.uid)
            except OSError as error:
                if is_remote(output.uri) and (is_denied(error) or isinstance(error, FileNotFoundError)):
                    with blamed("output", output.uri):  # another try makes it no better
                        raise
                raise PodError(f"the output {output.uri or output.path} cannot be written: {error}") from None

    def resume(self) -> dict[str, Any] | None:
        """The state to go on from, the same on all ranks, or None. Raises DataError when one is required and there is
        none.
        """
        mode = self._config.checkpoint.resume
        files: dict[str, bytes] | None = None
        if self._store is not None and self._saver is not None:
            if mode == "Never":
                self._store.start_over()
            elif found := self._store.load():
                info, files = found
                self._saver.resumed(info.step)
                self._reporter.event("resumed", **asdict(info))
            elif mode == "Required":
                raise DataError("checkpoint.resume is Required, and there is no usable checkpoint of this training")
        names: list[str] = json.loads(self._ranks.broadcast(json.dumps(sorted(files or {})).encode()))
        if not names:
            return None
        return decode({name: self._ranks.broadcast(files[name] if files else None) for name in names})

    def share_out(self) -> bool:
        """Let every rank write its own part of the checkpoints. False, and nothing changes, where one of them does not
        see rank 0's volume: then whole tensors have to be gathered.
        """
        ranks, root = self._ranks, self._config.output.path / "checkpoints"
        name = f"{TEMPORARY_PREFIX}seen-{uuid.uuid4()}".encode()
        seen = root / ranks.broadcast(name if ranks.is_main else None).decode()
        if ranks.is_main:
            seen.touch()
        ranks.barrier()
        (hidden,) = ranks.agree(not seen.exists())
        if ranks.is_main:
            seen.unlink()
        if hidden:
            return False
        part = PartStore(root=root, attempt=self._config.attempt, rank=ranks.rank, ranks=ranks.world_size)
        if self._store is not None:
            self._store.collect = part.collect
        else:
            self._saver = Saver(part, self._reporter)
        assert self._saver is not None
        self._saver.part = part.suffix
        return True

    def curves(self, resumed_step: int) -> Curves | None:
        """Rank 0's curves for TensorBoard, from this step on."""
        if not self._ranks.is_main:
            return None
        return Curves(self._config.output.path / TENSORBOARD, resumed_step)

    def due(self, step: int, *, ended: bool) -> bool:
        """Rank 0's opinion: is it time for a checkpoint? One is also made at the end, so that publishing can be
        repeated. Raises what made the writing of the one before impossible (Fenced).
        """
        policy = self._config.checkpoint
        if self._saver is None:
            return False
        self._saver.settle(wait=False)
        if not self._ranks.is_main:
            return False
        if policy.every_steps is None and policy.every_seconds is None:
            return False
        overdue = policy.every_seconds is not None and time.monotonic() - self._saved_at >= policy.every_seconds
        return (
            (policy.every_steps is not None and step % policy.every_steps == 0)
            or (overdue and not self._saver.busy)
            or ended
        )

    def save(self, step: int, sections: dict[str, Any], *, required: bool, shared: Collection[str] = ()) -> None:
        """Save a checkpoint, beside what follows. When the volume refuses, training goes on with the older ones, unless
        this one is `required`: then it is waited for. Tensors of `shared` sections never change.
        """
        problem = ""
        if self._saver is not None:
            self._saver.submit(step, sections, shared)
            self._saved_at = time.monotonic()
            if required:
                problem = self._saver.settle(wait=True)
        if not required:
            return
        (failed,) = self._ranks.agree(bool(problem))
        if failed:
            raise CheckpointFailed(problem or "another rank could not write the checkpoint")

    def publish(self, task: Task, candidates: list[Published]) -> list[dict[str, Any]]:
        """Write the artifacts; rank 0 returns their entries for the status, the others wait and return none."""
        entries: list[dict[str, Any]] = []
        if self._saver is not None:
            self._saver.settle(wait=True)
        if self._ranks.is_main:
            for candidate in candidates:
                entries += self._publish(task, candidate)
                moved()
            if isinstance(self._store, RemoteCheckpoints):
                self._store.push_beside()
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
        if isinstance(self._store, RemoteCheckpoints):
            self._store.push_artifact(artifact.path)
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


def _open_store(config: TrainingConfig) -> tuple[CheckpointStore, Fence]:
    """The checkpoints on the volume or on the object store. Raises DataError for credentials that cannot be used."""
    output, identity = config.output, config.training
    run = Run(fingerprint=fingerprint(config), uid=identity.uid)
    settings: dict[str, Any] = {"uri": output.uri, "keep_last": config.checkpoint.keep_last, "run": run}
    directory = output.path / "checkpoints"
    if not is_remote(output.uri):
        fence = Fence(output.path, config.attempt, identity.uid)
        return CheckpointStore(directory, fence=fence, **settings), fence
    remote = open_remote(output.uri)
    fence = RemoteFence(remote, config.attempt, identity.uid)
    return RemoteCheckpoints(directory, remote, fence=fence, **settings), fence


def fingerprint(config: TrainingConfig) -> str:
    """What a checkpoint must have in common with a run to be its past: task, parameters, data and initial weights.

    A parameter that a newer image brings was not decided on when the run began, and does not count.
    """
    parameters = config.parameters.model_dump(mode="json", by_alias=True)
    if config.defaults:
        written = config.parameters.model_dump(by_alias=True, exclude_unset=True)
        parameters = {name: value for name, value in parameters.items() if name in {*config.defaults, *written}}
    decisive = {
        "task": config.task,
        "parameters": parameters,
        "dataset": config.dataset.uri,
        "model": config.model.uri,
    }
    if config.private:
        decisive["privacy"] = config.private.model_dump(mode="json")
    return hashlib.sha256(canonical_json(decisive)).hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("modelyard", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
