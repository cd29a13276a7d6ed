"""Faults inside a bundled trainer, in its own image and unchanged: mounted as `sitecustomize.py`, which Python imports
before anything else, this changes one call of the loop once that is loaded.

STALLS says who is to hang, `attempt:kind:rank:step,…`; SLOW_SECONDS makes the first pass, every batch of an evaluation,
and every file of a checkpoint take so long. Nothing of the tests is there: it runs in the pod.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

LOOP, SNAPSHOT, WATCH = (f"modelyard_workloads.{name}" for name in ("loop", "snapshot", "watch"))


PART = 36
"""Images in a batch of a slow evaluation: five batches for each of two ranks."""


class Changing(importlib.abc.MetaPathFinder):
    """Changes modules right after they were loaded."""

    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self._changes.pop(name, None)
        spec = importlib.machinery.PathFinder.find_spec(name, path) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


class StuckLoader:
    """A data set whose next sample never comes: it is read from a pipe into which nobody writes."""

    def __next__(self) -> Any:
        pipe = Path("/tmp/never")
        os.mkfifo(pipe)
        return pipe.read_text(encoding="utf-8")


def skip_a_collective(ranks: Any) -> None:
    """Everybody else is at the agreement after the step; this rank waits for a message that was never sent."""

    def agree(*_flags: bool) -> tuple[bool, ...]:
        import torch

        torch.distributed.recv(torch.zeros(1), src=1 - ranks.rank)
        raise AssertionError("nobody sends anything")

    ranks.agree = agree


def hang(kind: str, step: int) -> Callable[[Any], None]:
    """The change of the loop that makes this rank hang when it has done so many steps of this attempt."""

    def change(loop: Any) -> None:
        wait_for, begun = loop.Watch.wait_for, [0]

        def waiting(watch: Any, data: Any) -> Any:
            begun[0] += 1
            if begun[0] <= step:
                return wait_for(watch, data)
            sys.stdout.write(json.dumps({"event": "hang", "kind": kind, "at": time.time()}) + "\n")
            sys.stdout.flush()
            if kind == "loader":
                return wait_for(watch, StuckLoader())
            skip_a_collective(watch._ranks)
            return wait_for(watch, data)

        loop.Watch.wait_for = waiting

    return change


def slow_loop(seconds: float) -> Callable[[Any], None]:
    """A first pass like that of a model that is compiled, and an evaluation in small and slow batches."""

    def change(loop: Any) -> None:
        prepare, held_out = loop.Training.prepare, loop.Training._held_out

        def compiling(training: Any, ranks: Any) -> Any:
            time.sleep(8 * seconds)
            return prepare(training, ranks)

        def slowly(training: Any, ranks: Any) -> Iterator[Any]:
            for (images, labels), counts in held_out(training, ranks):
                for part in zip(images.split(PART), labels.split(PART), strict=True):
                    time.sleep(seconds)
                    yield part, counts

        loop.Training.prepare, loop.Training._held_out = compiling, slowly

    return change


def slow_volume(seconds: float) -> Callable[[Any], None]:
    """A volume that takes so long for each file of a checkpoint."""

    def change(snapshot: Any) -> None:
        save = snapshot.Snapshot.save

        def slowly(self: Any, path: Any) -> Any:
            time.sleep(seconds)
            return save(self, path)

        snapshot.Snapshot.save = slowly

    return change


def announce_compilation(watch: Any) -> None:
    watch.compiles = lambda *_: True


def changes(environment: Any) -> dict[str, Callable[[Any], None]]:
    """What is to go wrong in this process."""
    if seconds := float(environment.get("SLOW_SECONDS") or 0):
        return {LOOP: slow_loop(seconds), SNAPSHOT: slow_volume(seconds), WATCH: announce_compilation}
    for entry in filter(None, environment.get("STALLS", "").split(",")):
        attempt, kind, rank, step = entry.split(":")
        if (attempt, rank) == (environment.get("MODELYARD_ATTEMPT"), environment.get("RANK")):
            return {LOOP: hang(kind, int(step))}
    return {}


if "modelyard_workloads.train" in sys.orig_argv:
    sys.meta_path.insert(0, Changing(changes(os.environ)))
