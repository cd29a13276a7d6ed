"""Saves beside the training: the loop waits for a copy in memory, a thread does the rest.

At most one checkpoint is in flight. What goes wrong in the thread is an error of the next step, not of a moment that
nobody looks at. The thread is no daemon: a rank that fails still finishes the checkpoint it has begun, as far as the
launcher gives it the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, Protocol

from modelyard_workloads.checkpoint import CheckpointInfo
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.snapshot import Camera, Snapshot

logger = logging.getLogger(__name__)


class Store(Protocol):
    """Where snapshots go."""

    def save(self, step: int, snapshot: Snapshot) -> CheckpointInfo:
        """Write the snapshot of a step. Raises OSError, and Fenced."""
        ...


class Saver:
    """Of a rank that saves: rank 0, or all where each saves its part of a shared-out model."""

    def __init__(self, store: Store, reporter: Reporter) -> None:
        self.part = ""  # is in the names of this rank's files; see parts.py
        self._store = store
        self._reporter = reporter
        self._camera = Camera()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._step = -1  # of the checkpoint that is there or under way

    @property
    def busy(self) -> bool:
        """Is a checkpoint being written?"""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, step: int, state: dict[str, Any], shared: Collection[str]) -> None:
        """Save the state of a step, unless it is saved already; waits for the one in flight first. Raises what `settle`
        raises.
        """
        self.settle(wait=True)
        if step == self._step:
            return
        began = time.monotonic()
        snapshot = self._camera.take(state, shared, self.part)
        stalled = time.monotonic() - began
        self._step = step
        self._thread = threading.Thread(target=self._write, args=(step, snapshot, stalled), name="saver")
        self._thread.start()

    def settle(self, *, wait: bool) -> str:
        """What went wrong with the checkpoint that was in flight, if it has come to its end; empty when nothing did. A
        volume that refuses is a reason to say so and go on; any other error (Fenced) is raised.
        """
        if self._thread is None or (self.busy and not wait):
            return ""
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is None:
            return ""
        step, self._step = self._step, -1
        if not isinstance(error, OSError):
            raise error
        problem = f"the checkpoint of step {step} could not be written: {error}"
        logger.error(problem)
        self._reporter.event("checkpointFailed", step=step, message=problem)
        return problem

    def resumed(self, step: int) -> None:
        """The checkpoint of this step is there."""
        self._step = step

    def _write(self, step: int, snapshot: Snapshot, stalled: float) -> None:
        began = time.monotonic()
        try:
            info = self._store.save(step, snapshot)
        except Exception as error:
            self._error = error  # settle() raises it
            return
        seconds = {"saveSeconds": round(time.monotonic() - began, 4), "stallSeconds": round(stalled, 4)}
        self._reporter.event("checkpoint", **asdict(info), **seconds)
