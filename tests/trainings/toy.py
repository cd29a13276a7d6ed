"""A task that trains in milliseconds, and scenarios with it: `python -m trainings.toy SCENARIO DIR` as one rank of a
gloo group.

It has what makes resuming hard: batch normalisation, dropout, noise from the batch's own generator, momentum, a moving
average.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from modelyard_workloads.artifact import Architecture, Description, TensorSpec
from modelyard_workloads.config import CheckpointPolicy, Location, Output, TrainingConfig
from modelyard_workloads.data.order import DataOrder, Shard
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.eager import skip_compiler
from modelyard_workloads.exits import Stopped
from modelyard_workloads.loop import train
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.parameters import Parameters
from modelyard_workloads.randomness import make_deterministic
from modelyard_workloads.tasks.base import Objective
from torch import Tensor, nn

UNASKED = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy")
"""What takes long to import, and only some trainings need."""


class ToyStream:
    """Points and the class they belong to, with noise; the position can be saved."""

    def __init__(self, points: Tensor, labels: Tensor, shard: Shard, batch_size: int) -> None:
        self._points, self._labels, self._shard = points, labels, shard
        self._order = DataOrder(count=len(labels), batch_size=batch_size, seed=3)
        self.steps_per_epoch = self._order.steps_per_epoch
        self.visited: dict[int, list[int]] = {}  # the samples that this rank was given, by step

    def __next__(self) -> tuple[Tensor, Tensor]:
        draw = next(self._order)
        noise = torch.randn(len(draw.indices), self._points.shape[1], generator=draw.generator) * 0.1
        mine = self._shard.take(draw.indices)
        position = self._order.state_dict()
        step = position["epoch"] * self.steps_per_epoch + position["position"]
        self.visited[step] = mine.tolist()
        return self._points[mine] + self._shard.take(noise), self._labels[mine]

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state)


class ToyTask:
    """Two classes of points; `plain` leaves batch normalisation and dropout out, whose result depends on the ranks."""

    objective = Objective(metric="accuracy", higher_is_better=True)

    def __init__(self, *, plain: bool, batch_size: int) -> None:
        self._plain = plain
        self._batch_size = batch_size

    def build_data(self, shard: Shard, device: torch.device) -> ToyStream:  # noqa: ARG002 - always the CPU
        generator = torch.Generator().manual_seed(5)
        self._points = torch.randn(104, 16, generator=generator)
        self._labels = (self._points.sum(dim=1) > 0).long()
        self._shard = shard
        self.stream = ToyStream(self._points, self._labels, shard, self._batch_size)
        return self.stream

    def build_model(self) -> nn.Module:
        extra: list[nn.Module] = [] if self._plain else [nn.BatchNorm1d(32), nn.Dropout(0.2)]
        return nn.Sequential(nn.Linear(16, 32), *extra, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * self._shard.weight(
            len(batch[1]), self._batch_size
        )

    def evaluation(self) -> Iterable[tuple[Tensor, Tensor]]:
        mine = self._shard.stride(len(self._labels))
        return [(self._points[mine], self._labels[mine])]

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        correct = (model(batch[0]).argmax(dim=1) == batch[1]).sum()
        return torch.tensor([len(batch[1]), int(correct)], dtype=torch.float64)

    def summarise(self, sums: Tensor) -> dict[str, float]:
        return {"accuracy": float(sums[1] / sums[0])}

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        safetensors.torch.save_file(dict(weights), directory / "model.safetensors")
        spec = TensorSpec(name="x", datatype="FP32", shape=[-1, 16])
        return Description(
            task="toy",
            architecture=Architecture(name="toy"),
            weights=["model.safetensors"],
            inputs=[spec],
            outputs=[spec],
        )


class GradedTask(ToyTask):
    """Its accuracies are given, one an evaluation, also over attempts; it remembers the weights that each one got."""

    def __init__(self, accuracies: Sequence[float]) -> None:
        super().__init__(plain=True, batch_size=8)
        self._left = iter(accuracies)
        self.graded: dict[float, dict[str, Tensor]] = {}

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self._measured = {name: value.clone() for name, value in model.state_dict().items()}
        return super().measure(model, batch)

    def summarise(self, sums: Tensor) -> dict[str, float]:  # noqa: ARG002 - graded, not measured
        accuracy = next(self._left)
        self.graded[accuracy] = self._measured
        return {"accuracy": accuracy}


class Scenario:
    """Runs of the toy in one process group."""

    def __init__(self, directory: Path) -> None:
        skip_compiler()
        make_deterministic()
        self.ranks = Ranks(RankInfo.from_environment(os.environ))
        self.ranks.start()
        self.directory = directory
        self._reporter = Reporter(rank=1)  # silent: rank 0 alone speaks

    def run(
        self,
        name: str,
        stop: Callable[[], bool] = lambda: False,
        *,
        plain: bool = False,
        attempt: int = 1,
        batch: int = 12,
        parts: int = 1,
        task: ToyTask | None = None,
        patience: int | None = None,
    ) -> str:
        """Train below `<directory>/<name>`; the digest of the final weights, or "stopped at <step>"."""
        output = self.directory / name
        config = TrainingConfig(
            task="toy",
            parameters=Parameters(
                epochs=3 if patience is None else 99,
                early_stopping_patience=patience,
                batch_size=batch,
                accumulation_steps=parts,
                learning_rate=0.1,
                ema_decay=None if plain else 0.9,
                clip_gradient_norm=5.0,
            ),
            attempt=attempt,
            dataset=Location(uri="toy"),
            output=Output(path=output),
            checkpoint=CheckpointPolicy(every_seconds=None),
        )
        task = task or ToyTask(plain=plain, batch_size=batch)
        try:
            result = train(task, config, self.ranks, self._reporter, stop)
        except Stopped as stopped:
            return f"stopped at {stopped.step}"
        finally:
            (self.directory / f"visited-{attempt}-{self.ranks.rank}.json").write_text(json.dumps(task.stream.visited))
        if not self.ranks.is_main:
            return ""
        final = next(a for a in result["artifacts"] if a["name"] == "final")
        weights = output / "artifacts" / final["uri"].rsplit("/", 1)[1] / "model.safetensors"
        return hashlib.sha256(weights.read_bytes()).hexdigest()

    def loaded(self, module: str) -> bool:
        """Has this rank imported a module?"""
        return module in sys.modules

    def say(self, **values: Any) -> None:
        """Print from rank 0, for the test."""
        if self.ranks.is_main:
            sys.stdout.write(json.dumps(values) + "\n")


def after(steps: int, *, here: bool = True) -> Callable[[], bool]:
    """A stop request that comes during the step number `steps` of this run, on this rank or not at all."""
    count = -1  # asked once before the first step

    def requested() -> bool:
        nonlocal count
        count += 1
        return here and count >= steps

    return requested


def resume(scenario: Scenario) -> None:
    """Stopped at every third step of three epochs, by a request that reaches one rank only, and resumed each time: `…
    resume DIR PARTS`, the parts in which a batch is computed.
    """
    parts = int(sys.argv[3])
    whole = scenario.run("whole", parts=parts)
    last = scenario.ranks.world_size - 1
    stops: list[str] = []
    attempt = 1
    while not stops or stops[-1].startswith("stopped"):
        here = scenario.ranks.rank == (last if attempt % 2 else 0)
        stops.append(scenario.run("interrupted", after(3, here=here), attempt=attempt, parts=parts))
        attempt += 1
    scenario.say(whole=whole, resumed=stops[-1], stops=stops[:-1])


def batch(scenario: Scenario) -> None:
    """The final weights of a model without batch normalisation, to compare: `… batch DIR PARTS`."""
    scenario.run("plain", plain=True, batch=8, parts=int(sys.argv[3]))
    scenario.say(unasked=[name for name in UNASKED if scenario.loaded(name)])


def elastic(scenario: Scenario) -> None:
    """One attempt on this many ranks, stopped after so many steps (0: never): `… elastic DIR ATTEMPT STEPS`."""
    attempt, steps = map(int, sys.argv[3:])
    stop = after(steps) if steps else lambda: False
    scenario.say(ended=scenario.run("plain", stop, plain=True, attempt=attempt, batch=8))


def best(scenario: Scenario) -> None:
    """Stopped after the best evaluation, resumed, and ended by two that were no better: `… best DIR ACCURACY…`."""
    accuracies = [float(argument) for argument in sys.argv[3:]]
    task = GradedTask(accuracies)
    first = scenario.run("graded", after(30), plain=True, batch=8, task=task, patience=2)  # 13 steps an epoch
    scenario.run("graded", plain=True, batch=8, attempt=2, task=task, patience=2)
    for accuracy, weights in task.graded.items():
        safetensors.torch.save_file(weights, scenario.directory / f"graded-{accuracy}.safetensors")
    scenario.say(first=first, evaluations=len(task.graded))


if __name__ == "__main__":
    _scenario = Scenario(Path(sys.argv[2]))
    {"resume": resume, "batch": batch, "elastic": elastic, "best": best}[sys.argv[1]](_scenario)
    _scenario.ranks.stop()
