"""The one training loop.

    load, [batch -> loss -> backward -> step -> evaluate -> report -> checkpoint]*, publish

It knows no model: a Task says what a batch, a loss and a metric are. Everything that changes while training is in
`Training.sections`, which is exactly what a checkpoint holds; so a run that was killed and resumed on the same number
of ranks ends bit for bit like one that never was.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelyard_workloads.backward import Backward, compile_model
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.order import Shard
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.metrics import Meter, Progress, Reporter
from modelyard_workloads.optimizer import MovingAverage, build_optimizer, restore_optimizer, set_learning_rate
from modelyard_workloads.outputs import Outputs, Published
from modelyard_workloads.randomness import random_state, restore_random_state, seed_everything
from modelyard_workloads.schedule import Schedule
from modelyard_workloads.tasks.base import OwnOptimizer, Task

_REPORT_SECONDS = 1.0  # the launcher hears at least this often that there is progress


class Stopped(Exception):
    """The ranks agreed to stop after a SIGTERM and have saved a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped after step {step}, checkpoint saved")


@dataclass
class LoopState:
    """Where the loop is; exactly this is saved under `loop`."""

    step: int = 0  # optimizer steps done
    loss: float | None = None  # the latest one that was averaged over the ranks
    metrics: dict[str, float] = field(default_factory=dict)  # of the latest evaluation
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    evaluations_since_best: int = 0
    ended_early: bool = False  # after too many evaluations that were not the best

    def all_metrics(self) -> dict[str, float]:
        """The latest loss and evaluation together."""
        return ({} if self.loss is None else {"loss": self.loss}) | self.metrics


class Diverged(RuntimeError):
    """The loss is no number any more; a checkpoint of it would be worthless and is not written."""


class Training:
    """Model, optimizer, data and state of one rank."""

    def __init__(self, task: Task, config: TrainingConfig, ranks: Ranks) -> None:
        parameters = config.parameters
        seed_everything(parameters.seed)  # the same initial weights on every rank
        self.data = task.build_data(Shard(rank=ranks.rank, world_size=ranks.world_size), ranks.device)
        self.model = task.build_model().to(ranks.device)
        if isinstance(task, OwnOptimizer):
            self.optimizer = task.build_optimizer(self.model)
        else:
            self.optimizer = build_optimizer(self.model, parameters)
        self.average = MovingAverage(self.model, parameters.ema_decay) if parameters.ema_decay else None
        self.state = LoopState()
        self.best: dict[str, Tensor] = {}
        self.total_steps = parameters.epochs * self.data.steps_per_epoch
        if parameters.max_steps is not None:
            self.total_steps = min(self.total_steps, parameters.max_steps)
        warmup = self.total_steps / 8
        if parameters.warmup_epochs is not None:
            warmup = min(self.total_steps, parameters.warmup_epochs * self.data.steps_per_epoch)
        self.schedule = Schedule(
            peak=parameters.learning_rate,
            total_steps=self.total_steps,
            warmup_steps=round(warmup),
            shape=parameters.schedule,
        )
        seed_everything(parameters.seed + 1 + ranks.rank)  # dropout differs between the ranks

        self._task = task
        self._clip = parameters.clip_gradient_norm
        self._patience = parameters.early_stopping_patience
        self._compile = parameters.compile
        self._backward = Backward(parameters, ranks.device)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and published."""
        return self.average.model if self.average else self.model

    @property
    def epoch(self) -> int:
        """The epoch of the latest step, from 0."""
        return max(0, self.state.step - 1) // self.data.steps_per_epoch

    def sections(self, ranks: Ranks) -> dict[str, Any]:
        """The whole state; a collective call, since every rank has random numbers of its own."""
        return {
            "loop": asdict(self.state),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.model.state_dict() if self.average else None,
            "best": self.best,
            "data": self.data.state_dict(),
            "random": [json.loads(state) for state in ranks.gather(random_state())],
        }

    def restore(self, sections: dict[str, Any], ranks: Ranks) -> None:
        """Become what was saved. With another number of ranks the random numbers start anew; all else is the same."""
        self.state = LoopState(**sections["loop"])
        self.model.load_state_dict(sections["model"])
        restore_optimizer(self.optimizer, sections["optimizer"])
        if self.average:
            self.average.model.load_state_dict(sections["average"])
        self.best = sections["best"]
        self.data.load_state_dict(sections["data"])
        if len(sections["random"]) == ranks.world_size:
            restore_random_state(json.dumps(sections["random"][ranks.rank]).encode())

    def prepare(self, ranks: Ranks) -> nn.Module:
        """The model to train with, DDP's buckets in their final order.

        DDP orders its buckets anew after the first backward pass, and with the order the rounding of the sums changes.
        One pass whose gradients, buffers, random numbers and batch are put back makes the first step of a resumed run
        like any other step.
        """
        compile_model(self.model, self._compile, ranks.device)
        model = ranks.wrap(self.model)
        if model is not self.model:
            position, randomness = self.data.state_dict(), random_state()
            buffers = [buffer.clone() for buffer in self.model.buffers()]
            self._backward(self._task, model, next(self.data))
            self.optimizer.zero_grad()
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)
            self.data.load_state_dict(position)
            restore_random_state(randomness)
        return model

    def step(self, model: nn.Module, batch: Any) -> Tensor:
        """One optimizer step; the loss of this rank's samples."""
        set_learning_rate(self.optimizer, self.schedule.learning_rate(self.state.step))
        loss = self._backward(self._task, model, batch)
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        if self.average:
            self.average.update(self.model, self.state.step)
        return loss

    @torch.no_grad()
    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """Metrics on the held-out data, the same on all ranks; remembers the best weights."""
        model = self.evaluated.eval()
        ranks.broadcast_buffers(model)
        with self._backward.precision():
            sums = [self._task.measure(model, batch) for batch in self._task.evaluation()]
        # A rank without samples has nothing to add, but does not know how long the vector is.
        length = int(ranks.maximum(len(sums[0]) if sums else 0))
        local = torch.stack(sums).sum(dim=0) if sums else torch.zeros(length, dtype=torch.float64)
        metrics = self._task.summarise(ranks.sum(local))
        model.train(self.average is None)
        self.state.metrics = metrics
        self.state.evaluations_since_best += 1
        objective = self._task.objective
        if objective.improves(metrics[objective.metric], self.state.best_metrics.get(objective.metric)):
            self.state.best_metrics, self.state.best_step = metrics, self.state.step
            self.state.evaluations_since_best = 0
            if ranks.is_main:  # it alone publishes
                self.best = {n: v.detach().to("cpu", copy=True) for n, v in model.state_dict().items()}
        self.state.ended_early = self._patience is not None and self.state.evaluations_since_best >= self._patience
        return metrics

    @property
    def ended(self) -> bool:
        """Is there nothing left to train?"""
        return self.state.step >= self.total_steps or self.state.ended_early

    def candidates(self) -> list[Published]:
        """What to publish: the best weights and the final ones; one entry with both names when they are the same."""
        state = self.state
        final = Published(names=["final"], step=state.step, metrics=state.metrics, weights=self.evaluated.state_dict())
        if state.best_step == state.step:
            return [Published(names=["best", "final"], step=final.step, metrics=final.metrics, weights=final.weights)]
        return [Published(names=["best"], step=state.best_step, metrics=state.best_metrics, weights=self.best), final]


def train(
    task: Task, config: TrainingConfig, ranks: Ranks, reporter: Reporter, stop_requested: Callable[[], bool]
) -> dict[str, Any]:
    """Train to the end. Returns the result for the termination message; raises Stopped after a SIGTERM on any rank."""
    outputs = Outputs(config, ranks, reporter)
    training = Training(task, config, ranks)
    saved = outputs.resume()
    if saved is not None:
        training.restore(saved, ranks)
    model = training.prepare(ranks)
    watch = _Watch(training, config, ranks, reporter)
    state = training.state

    while not training.ended:
        batch = watch.wait_for(training.data)
        loss = training.step(model, batch)
        watch.count()
        if watch.evaluation_due():
            watch.evaluated(training.evaluate(ranks))
        watch.report(loss)
        stop, save = ranks.agree(stop_requested(), outputs.due(state.step, ended=training.ended))
        if stop or save:
            watch.saving(loss)
            outputs.save(state.step, training.sections(ranks), required=stop)
            watch.saved()
        if stop and not training.ended:
            raise Stopped(state.step)

    return {
        "step": state.step,
        "totalSteps": training.total_steps,
        "endedEarly": state.ended_early,
        "epoch": training.epoch + 1,
        "metrics": {name: f"{value:.6g}" for name, value in state.all_metrics().items()},
        "artifacts": outputs.publish(task, training.candidates()),
    }


class _Watch:
    """The clock of the loop: what is due, what is reported."""

    def __init__(self, training: Training, config: TrainingConfig, ranks: Ranks, reporter: Reporter) -> None:
        self._training = training
        self._parameters = config.parameters
        self._ranks = ranks
        self._reporter = reporter
        self._meter = Meter()
        self._reported = time.perf_counter()
        self._waited = 0.0
        self._send("train", line=False)

    def wait_for(self, data: Any) -> Any:
        """The next batch; the time it took counts as waiting for data."""
        began = time.perf_counter()
        batch = next(data)
        self._waited = time.perf_counter() - began
        return batch

    def evaluation_due(self) -> bool:
        """At the end of every n-th epoch, or after so many steps, and at the end."""
        step, per_epoch = self._training.state.step, self._training.data.steps_per_epoch
        every = self._parameters.evaluate_every_steps or self._parameters.evaluate_every_epochs * per_epoch
        due = step % every == 0 or step == self._training.total_steps
        if due:
            self._send("evaluate", line=False)
        return due

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Report an evaluation."""
        self._reporter.event(
            "evaluation", step=self._training.state.step, epoch=self._training.epoch + 1, metrics=metrics
        )
        self._meter.restart()

    def count(self) -> None:
        """One more step is done."""
        self._meter.count(self._parameters.batch_size, self._waited)

    def report(self, loss: Tensor) -> None:
        """Say something when a line is due, or when the launcher has not heard for a second."""
        step = self._training.state.step
        line = step % self._parameters.log_every_steps == 0 or self._training.ended
        if line:
            self.check(loss)
        if line or time.perf_counter() - self._reported > _REPORT_SECONDS:
            self._send(self._training.schedule.phase(step), line=line)

    def check(self, loss: Tensor) -> None:
        """Average the loss over the ranks (a collective call). Raises Diverged when it is no number."""
        value = float(self._ranks.sum(loss.double())) / self._ranks.world_size
        if not math.isfinite(value):
            step = self._training.state.step
            raise Diverged(f"the loss is {value} at step {step}: lower learningRate or set clipGradientNorm")
        self._training.state.loss = value

    def saving(self, loss: Tensor) -> None:
        """A checkpoint follows, if the loss is worth one."""
        self.check(loss)
        self._send("save", line=False)

    def saved(self) -> None:
        """Do not take the pause for slow steps."""
        self._meter.restart()

    def _send(self, phase: str, *, line: bool) -> None:
        training = self._training
        progress = Progress(
            step=training.state.step,
            totalSteps=training.total_steps,
            epoch=training.epoch + 1,
            phase=phase,
            metrics=training.state.all_metrics(),
            learningRate=training.schedule.learning_rate(max(0, training.state.step - 1)),
            **self._meter.latest(),
        )
        self._reporter.progress(progress, line=line)
        self._reported = time.perf_counter()
