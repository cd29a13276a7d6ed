"""What node 0's launcher tells the world, and hears from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.exporter import Exporter
from modelyard_workloads.status import Estimator, StatusReporter, report
from modelyard_workloads.supervisor import Outcome, Supervisor
from modelyard_workloads.watchdog import COMPILE_SECONDS, Investigator


class Announcer:
    """Carries rank 0's events to the operator and to Prometheus, and the operator's directives to the ranks."""

    def __init__(self, environment: Mapping[str, str], config: TrainingConfig) -> None:
        self._exporter = Exporter(config.training.namespace, config.training.name)
        self._exporter.serve(environment)
        self._environment = environment
        self._status: StatusReporter | None = None
        self._outcome = Outcome()
        self._estimator = Estimator()
        self._remaining: int | None = None
        self._checkpoint: object = None
        self._ended = False
        self._allowed = 0  # beats of the heart that compiling is given
        self._compiling_since: float | None = None

    def connect(self, supervisor: Supervisor, investigator: Investigator) -> None:
        """Report from now on, and pass directives on."""
        actions = {"checkpoint": lambda: supervisor.ask(supervisor.save), "dumpStacks": investigator.start}

        def follow(directive: str) -> None:
            if directive in actions:
                actions[directive]()

        def found(stacks: dict[str, Any]) -> None:
            self._outcome.stacks = stacks
            if self._status:
                self._status.send_now()

        self._outcome = supervisor.outcome
        investigator.found = found
        self._status = StatusReporter.from_environment(self._environment, self._compose, follow)

    def update(self, outcome: Outcome) -> None:
        """Something new is known."""
        progress, checkpoint = outcome.progress, outcome.checkpoint
        if progress is not None:
            self._exporter.progress(progress)
            self._remaining = self._estimator.remaining(progress["step"], progress["totalSteps"], time.monotonic())
        self._exporter.timing(outcome.timing)
        if checkpoint is not None and checkpoint is not self._checkpoint:
            self._exporter.checkpoint(checkpoint)
            self._checkpoint = checkpoint

    def close(self) -> None:
        """The last report. That all ranks have ended is a movement: the kubelet may take seconds to tell of it."""
        self._ended = True
        if self._status:
            self._status.close()

    def _compose(self) -> dict[str, Any]:
        outcome = self._outcome
        body = report(outcome, 0 if outcome.result is not None else self._remaining)
        if body["progress"].get("phase") == "compile":
            self._compiling_since = self._compiling_since or time.monotonic()
            if time.monotonic() - self._compiling_since < COMPILE_SECONDS:
                self._allowed += 1  # nothing can move inside the first pass of a compiled model
        # The result is one more, and the end of the processes after it.
        body["progress"]["tick"] += self._allowed + (outcome.result is not None) + self._ended
        return body
