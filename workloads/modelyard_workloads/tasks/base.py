"""The seam between the loop and everything that differs from one kind of training to the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from modelyard_workloads.artifact import Artifact, Description
from modelyard_workloads.data.order import Order, Shard

if TYPE_CHECKING:
    from modelyard_workloads.estimates.demand import Demand


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The evaluation metric that decides which weights are the best."""

    metric: str
    higher_is_better: bool

    def improves(self, value: float, best: float | None) -> bool:
        """As good counts as better: of two equal models the longer trained one is taken."""
        if best is None:
            return True
        return value >= best if self.higher_is_better else value <= best


class BatchStream(Protocol):
    """An endless iterator over this rank's training batches whose position can be saved."""

    steps_per_epoch: int

    def __next__(self) -> Any:
        """The next batch, on the device; what it is, only the task knows."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position: JSON values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position; the next batch is the one that would have come."""
        ...


class Task(Protocol):
    """One kind of training. The loop calls, in this order: build_data, build_model, then loss and evaluation, then
    describe.
    """

    objective: Objective

    def build_data(self, shard: Shard, device: torch.device) -> BatchStream:
        """Open the data, take this rank's part. Raises DataError."""
        ...

    def build_model(self) -> nn.Module:
        """A model on the CPU, with initial weights where the configuration names some. Raises ConfigError and
        DataError.
        """
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The scalar to minimise, such that its mean over the ranks is the loss of the global batch: DDP averages the
        gradients, and slices may differ in size (see `Shard.weight`). The losses of the parts of a batch add up to that
        of the batch: so a batch can be computed in parts.
        """
        ...

    def evaluation(self) -> Iterable[Any]:
        """This rank's part of the held-out data; every sample once over all ranks."""
        ...

    def measure(self, model: nn.Module, batch: Any) -> Tensor:
        """What a batch adds to the evaluation: a vector (float64) of sums, which are added over batches and ranks."""
        ...

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """The metrics of the whole evaluation from the added sums; `objective.metric` is among them."""
        ...

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """Write the files of an artifact, load the weights again, and describe them with golden answers (see
        artifact.py).
        """
        ...


@runtime_checkable
class OrderedStream(Protocol):
    """A stream whose order of samples can be replaced before the first batch: differential privacy needs its own."""

    order: Order


@runtime_checkable
class OwnOptimizer(Protocol):
    """A task whose model needs more than `optimizer.build_optimizer` makes."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of this model."""
        ...


@runtime_checkable
class Strict(Protocol):
    """A task all of whose operations have a deterministic form on a GPU, attention's slower one included."""

    strict: Literal[True]


@runtime_checkable
class Shardable(Protocol):
    """A task whose model can be shared out among the ranks."""

    def share_out(self, model: nn.Module, device: torch.device) -> bool:
        """Share the model out, if that is asked for (see `sharding.shard`); was it?"""
        ...


@runtime_checkable
class Estimated(Protocol):
    """A task that knows what a step takes."""

    def demand(self) -> Demand:
        """What one rank needs; asked once, between `build_data` and `build_model`. Raises what the latter raises."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A task whose speed is better said in other units than samples."""

    def work_per_step(self) -> dict[str, float]:
        """What one optimizer step does over all ranks, by unit in the plural: `tokens`, `flops`. Asked once, after the
        model was built.
        """
        ...


class ServedModel(Protocol):
    """A model as the server sees it: tensors by name in, tensors by name out; in eval mode, knows its preprocessing."""

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Dimension 0 of every tensor is the batch."""
        ...


class ServedModelBuilder(Protocol):
    """How a task turns a verified artifact into a model on the CPU; raises ArtifactInvalid when the weights do not
    fit.
    """

    def __call__(self, artifact: Artifact) -> ServedModel:
        """Load the weights."""
        ...
