"""The one training loop.

    load, [batch -> loss -> backward -> step -> evaluate -> report -> checkpoint]*, publish

It knows no model: a Task says what a batch, a loss and a metric are. Everything that changes while training is in
`Training.sections`, which is exactly what a checkpoint holds; so a run that was killed and resumed on the same number
of ranks ends bit for bit like one that never was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelyard_workloads.accelerators import peak
from modelyard_workloads.backward import Backward, compile_model
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.order import Shard
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.estimates import demand
from modelyard_workloads.exits import Stopped
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.optimizer import MovingAverage, build_optimizer, restore_optimizer, set_learning_rate
from modelyard_workloads.outputs import Outputs, Published
from modelyard_workloads.private import PrivateBackward
from modelyard_workloads.randomness import random_state, restore_random_state, seed_everything
from modelyard_workloads.schedule import Schedule
from modelyard_workloads.sharding import gathered, in_step, share_out_optimizer, shared_out
from modelyard_workloads.tasks.base import Estimated, Metered, OwnOptimizer, Shardable, Task
from modelyard_workloads.watch import Watch


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


class Training:
    """Model, optimizer, data and state of one rank."""

    def __init__(self, task: Task, config: TrainingConfig, ranks: Ranks) -> None:
        parameters = config.parameters
        seed_everything(parameters.seed)  # the same initial weights on every rank
        self.data = task.build_data(Shard(rank=ranks.rank, world_size=ranks.world_size), ranks.device)
        if isinstance(task, Estimated):
            demand.check(task.demand(), config, ranks)
        self.model = task.build_model()
        self.sharded = isinstance(task, Shardable) and ranks.world_size > 1 and task.share_out(self.model, ranks.device)
        self.model.to(ranks.device)
        if isinstance(task, OwnOptimizer):
            self.optimizer = task.build_optimizer(self.model)
        else:
            self.optimizer = build_optimizer(self.model, parameters)
        self.work = task.work_per_step() if isinstance(task, Metered) else {}  # of a step, by unit
        self.peak = peak(parameters, ranks)  # operations a second, of all ranks together
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
        self._private = PrivateBackward(config, self.data, self.total_steps, ranks) if config.private else None
        self._backward = self._private or Backward(parameters, ranks.device)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and published."""
        return self.average.model if self.average else self.model

    @property
    def epoch(self) -> int:
        """The epoch of the latest step, from 0."""
        return max(0, self.state.step - 1) // self.data.steps_per_epoch

    def sections(self, ranks: Ranks, *, whole: bool = True) -> dict[str, Any]:
        """The state; a collective call, since every rank has random numbers of its own. What the ranks share out is
        gathered on rank 0, or, not `whole`, stays as it is.
        """
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        return {
            "loop": asdict(self.state),
            "model": gathered(model, keep=ranks.is_main) if whole else model,
            "optimizer": gathered(optimizer, keep=ranks.is_main) if whole else optimizer,
            "average": self.average.model.state_dict() if self.average else None,
            "best": self.best,
            "data": self.data.state_dict(),
            "random": [json.loads(state) for state in ranks.gather(random_state())],
        }

    def restore(self, sections: dict[str, Any], ranks: Ranks) -> None:
        """Become what was saved. With another number of ranks the random numbers start anew; all else is the same."""
        self.state = LoopState(**sections["loop"])
        self.model.load_state_dict(shared_out(sections["model"], self.model.state_dict()))
        restore_optimizer(self.optimizer, share_out_optimizer(self.optimizer, sections["optimizer"]))
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
        if self._private:
            return self._private.wrap(self.model)
        compile_model(self.model, self._compile, ranks.device)
        model = self.model if self.sharded else ranks.wrap(self.model)
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
        sums = []
        with self._backward.precision():
            for batch, counts in self._held_out(ranks):
                measured = self._task.measure(model, batch)
                if counts:
                    sums.append(measured)
                moved()
        # A rank without samples has nothing to add, but does not know how long the vector is.
        length = int(ranks.maximum(len(sums[0]) if sums else 0))
        local = torch.stack(sums).sum(dim=0) if sums else torch.zeros(length, dtype=torch.float64)
        metrics = self._task.summarise(ranks.sum(local)) | self.spent()
        model.train(self.average is None)
        self.state.metrics = metrics
        self.state.evaluations_since_best += 1
        objective = self._task.objective
        value, best = metrics[objective.metric], self.state.best_metrics.get(objective.metric)
        if objective.improves(value, best):
            self.state.best_metrics, self.state.best_step = metrics, self.state.step
            if value != best:  # what stays as good as it was has no reason to go on
                self.state.evaluations_since_best = 0
            weights = gathered(model.state_dict(), keep=ranks.is_main)
            if ranks.is_main:  # it alone publishes
                self.best = {n: v.detach().to("cpu", copy=True) for n, v in weights.items()}
        self.state.ended_early = self._patience is not None and self.state.evaluations_since_best >= self._patience
        return metrics

    def _held_out(self, ranks: Ranks) -> Iterable[tuple[Any, bool]]:
        """This rank's batches, and whether each counts; ranks that share a model have to compute in step."""
        if not self.sharded:
            return ((batch, True) for batch in self._task.evaluation())
        batches = list(self._task.evaluation())
        return in_step(batches, least=-ranks.maximum(-len(batches)), most=ranks.maximum(len(batches)))

    def spent(self) -> dict[str, float]:
        """The privacy that the steps so far have cost; nothing when there is no budget."""
        return self._private.spent(self.state.step) if self._private else {}

    @property
    def ended(self) -> bool:
        """Is there nothing left to train?"""
        return self.state.step >= self.total_steps or self.state.ended_early

    def candidates(self, is_main: bool) -> list[Published]:
        """What to publish: the best weights and the final ones; one entry with both names when they are the same."""
        state = self.state
        weights = gathered(self.evaluated.state_dict(), keep=is_main)
        final = Published(names=["final"], step=state.step, metrics=state.metrics, weights=weights)
        if state.best_step == state.step:
            return [Published(names=["best", "final"], step=final.step, metrics=final.metrics, weights=final.weights)]
        # All steps have been seen by whoever gets both: what the best weights cost is what the whole run cost.
        metrics = state.best_metrics | self.spent()
        return [Published(names=["best"], step=state.best_step, metrics=metrics, weights=self.best), final]


def train(
    task: Task,
    config: TrainingConfig,
    ranks: Ranks,
    reporter: Reporter,
    stop_requested: Callable[[], bool],
    save_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train to the end. Returns the result for the termination message; raises Stopped after a SIGTERM on any rank.
    `save_requested`: a checkpoint is wanted now, after which training goes on.
    """
    lap = reporter.stopwatch.lap
    outputs = Outputs(config, ranks, reporter)
    training = Training(task, config, ranks)
    moved()
    lap("dataAndModel")
    saved = outputs.resume()
    if saved is not None:
        training.restore(saved, ranks)
    lap("checkpoint")
    whole = not (training.sharded and outputs.share_out())
    watch = Watch(training, config, ranks, reporter, outputs)
    state = training.state
    with watch.drawing():
        model = training.prepare(ranks)
        lap("firstPass")
        (stop,) = ranks.agree(stop_requested())
        if stop:  # nothing has been done yet that could be lost
            raise Stopped(state.step)

        while not training.ended:
            batch = watch.wait_for(training.data)
            loss = training.step(model, batch)
            watch.count()
            if watch.evaluation_due():
                with watch.evaluating():
                    training.evaluate(ranks)
            watch.report(loss)
            save_wanted = outputs.due(state.step, ended=training.ended) or save_requested()
            stop, save = ranks.agree(stop_requested(), save_wanted)
            if stop or save:
                with watch.saving(loss):
                    outputs.save(state.step, training.sections(ranks, whole=whole), required=stop, shared={"best"})
            if stop and not training.ended:
                raise Stopped(state.step)

        with watch.publishing():
            artifacts = outputs.publish(task, training.candidates(ranks.is_main))
    return {
        "step": state.step,
        "totalSteps": training.total_steps,
        "endedEarly": state.ended_early,
        "epoch": training.epoch + 1,
        "metrics": {name: f"{value:.6g}" for name, value in state.all_metrics().items()},
        "artifacts": artifacts,
    }
