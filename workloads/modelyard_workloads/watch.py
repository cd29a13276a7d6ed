"""The clock of the loop: what is due, where the time goes, what is reported."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from modelyard_workloads.backward import compiles
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.exits import Ending, Stopped
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.metrics import Meter, Progress, Reporter, rates_of
from modelyard_workloads.outputs import Outputs
from modelyard_workloads.wandb_run import WandbRun

if TYPE_CHECKING:
    from modelyard_workloads.loop import Training

_CURVES = ("learningRate", "samplesPerSecond", "stepSeconds", "dataWaitSeconds")
_REPORT_SECONDS = 1.0  # the launcher hears at least this often that there is progress


class Diverged(RuntimeError):
    """The loss is no number any more; a checkpoint of it would be worthless and is not written."""


class Drawer(Protocol):
    """Where people look at curves."""

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every curve. Never raises, whatever becomes of it."""

    def close(self, ending: Ending) -> None:
        """There will be no more of this attempt."""


def _drawers(config: TrainingConfig, ranks: Ranks, outputs: Outputs, step: int) -> list[Drawer]:
    """Those of rank 0, from this step on."""
    drawers: list[Drawer | None] = [outputs.curves(step)]
    if ranks.is_main and os.environ.get("MLFLOW_TRACKING_URI"):
        from modelyard_workloads.mlflow_run import MlflowRun  # it imports what takes a moment

        drawers.append(MlflowRun.wanted(config, os.environ))
    if ranks.is_main:
        drawers.append(WandbRun.wanted(config, os.environ))
    return [drawer for drawer in drawers if drawer is not None]


class Watch:
    """One for each rank; rank 0's is heard."""

    def __init__(
        self, training: Training, config: TrainingConfig, ranks: Ranks, reporter: Reporter, outputs: Outputs
    ) -> None:
        self._training = training
        self._parameters = config.parameters
        self._ranks = ranks
        self._reporter = reporter
        self._highwater = outputs.highwater  # rank 0 has one
        self._drawers = _drawers(config, ranks, outputs, training.state.step)
        self._stopwatch = reporter.stopwatch
        self._meter = Meter()
        self._reported = time.perf_counter()
        self._waited = 0.0
        # What is compiled is compiled by the first pass: it may take minutes, in which nothing else moves.
        self._phase = "compile" if compiles(config.parameters.compile, ranks.device) else "start"
        self._send(self._phase, line=False)

    def wait_for(self, data: Any) -> Any:
        """The next batch; the time it took counts as waiting for data, what follows as progress or repetition."""
        if self._phase != "compile":
            self._stopwatch.switch("dataWait")
        began = time.perf_counter()
        batch = next(data)
        self._waited = time.perf_counter() - began
        if self._phase != "compile":
            again = self._highwater is not None and self._training.state.step < self._highwater.before
            self._stopwatch.switch("replayed" if again else "productive")
        return batch

    def evaluation_due(self) -> bool:
        """At the end of every n-th epoch, or after so many steps, and at the end."""
        step, per_epoch = self._training.state.step, self._training.data.steps_per_epoch
        every = self._parameters.evaluate_every_steps or self._parameters.evaluate_every_epochs * per_epoch
        return step % every == 0 or step == self._training.total_steps

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around an evaluation: its time has a cause of its own, and it is no slow step."""
        self._send("evaluate", line=False)
        with self._stopwatch.during("evaluation"):
            yield
        state = self._training.state
        self._reporter.event("evaluation", step=state.step, epoch=self._training.epoch + 1, metrics=state.metrics)
        self._draw(state.step, state.metrics)
        self._meter.restart()

    def count(self) -> None:
        """One more step is done."""
        moved()
        if self._phase != "train":
            self._phase = "train"
            self._stopwatch.lap("firstStep")
            self._reporter.event("started", step=self._training.state.step, seconds=self._stopwatch.laps)
        if self._highwater is not None:
            self._highwater.reached(self._training.state.step)
        self._meter.count(self._parameters.batch_size, self._waited)

    def report(self, loss: Tensor) -> None:
        """Say something when a line is due, or when the launcher has not heard for a second."""
        step = self._training.state.step
        line = step % self._parameters.log_every_steps == 0 or self._training.ended
        if line:
            self._check(loss)
        if line or time.perf_counter() - self._reported > _REPORT_SECONDS:
            self._send(self._training.schedule.phase(step), line=line)

    @contextmanager
    def saving(self, loss: Tensor) -> Iterator[None]:
        """Around a checkpoint, which is only made if the loss is worth one; its time is no slow step."""
        self._check(loss)
        self._send("save", line=False)
        with self._stopwatch.during("checkpoint"):
            yield
        self._meter.restart()

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Around the artifacts."""
        self._send("publish", line=False)
        with self._stopwatch.during("checkpoint"):
            yield
        self._send("publish", line=False)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Around all steps: whoever is told of them is told how they ended."""
        ending: Ending = "failed"
        try:
            yield
            ending = "complete"
        except Stopped:
            ending = "stopped"
            raise
        finally:
            for drawer in self._drawers:
                drawer.close(ending)

    def _draw(self, step: int, values: Mapping[str, float]) -> None:
        for drawer in self._drawers:
            drawer.draw(step, values)

    def _check(self, loss: Tensor) -> None:
        """Average the loss over the ranks (a collective call). Raises Diverged when it is no number."""
        value = float(self._ranks.sum(loss.double())) / self._ranks.world_size
        if not math.isfinite(value):
            step = self._training.state.step
            raise Diverged(f"the loss is {value} at step {step}: lower learningRate or set clipGradientNorm")
        self._training.state.loss = value

    def _send(self, phase: str, *, line: bool) -> None:
        training, reading = self._training, self._meter.latest()
        seconds = reading["stepSeconds"]
        progress = Progress(
            step=training.state.step,
            totalSteps=training.total_steps,
            epoch=training.epoch + 1,
            phase=phase,
            metrics=training.state.all_metrics(),
            learningRate=training.schedule.learning_rate(max(0, training.state.step - 1)),
            rates=rates_of(training.work, seconds, training.peak),
            **reading,
        )
        self._reporter.progress(progress, line=line)
        if line and self._drawers:
            rates = {name: getattr(progress, name) for name in _CURVES}
            loss = {} if training.state.loss is None else {"loss": training.state.loss}
            self._draw(progress.step, loss | rates | progress.rates)
        self._reported = time.perf_counter()
