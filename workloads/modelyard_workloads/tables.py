"""Optimizers of embedding tables: only the rows that a batch touched are read and written.

Row-wise Adagrad keeps one number a row (as DLRM and TorchRec do); FTRL-Proximal is that of McMahan et al. 2013, "Ad
Click Prediction: a View from the Trenches", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from modelyard_workloads.models.recommender import Table


class TableRule(Protocol):
    """How touched rows of a table change."""

    @property
    def scheduled(self) -> bool:
        """Does its rate follow the learning rate's schedule?"""

    def state(self, weight: Tensor) -> dict[str, Tensor]:
        """New state for a table (R, E)."""
        ...

    def update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Change `weight` and `state` at `rows` (k,), each different, by `gradient` (k, E)."""
        ...


@dataclass(frozen=True)
class RowwiseAdagrad:
    """w -= rate * g / (sqrt(sum of mean squares) + epsilon), with one sum for each row."""

    epsilon: float = 1e-8
    scheduled: bool = True

    def state(self, weight: Tensor) -> dict[str, Tensor]:
        """{"sum": (R,)}"""
        return {"sum": weight.new_zeros(len(weight))}

    def update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, gradient: Tensor, rate: float) -> None:
        """One step."""
        sums = state["sum"].index_select(0, rows) + torch.linalg.vecdot(gradient, gradient) / gradient.shape[1]
        state["sum"].scatter_(0, rows, sums)
        step = gradient * (-rate / (sums.sqrt() + self.epsilon))[:, None]
        weight.index_copy_(0, rows, weight.index_select(0, rows) + step)


@dataclass(frozen=True)
class Ftrl:
    """FTRL-Proximal; its closed form supposes a constant rate, so the schedule does not apply."""

    l1: float = 0.0
    l2: float = 0.0
    beta: float = 1.0
    scheduled: bool = False

    def state(self, weight: Tensor) -> dict[str, Tensor]:
        """{"z": (R, E), "n": (R, E)}"""
        return {"z": torch.zeros_like(weight), "n": torch.zeros_like(weight)}

    def update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, gradient: Tensor, rate: float) -> None:
        """One step."""
        z, n, w = (tensor.index_select(0, rows) for tensor in (state["z"], state["n"], weight))
        grown = n + gradient.square()
        z += gradient - (grown.sqrt() - n.sqrt()) / rate * w
        state["z"].index_copy_(0, rows, z)
        state["n"].index_copy_(0, rows, grown)
        shrunk = z.sign() * self.l1 - z
        w = torch.where(z.abs() <= self.l1, 0.0, shrunk / ((self.beta + grown.sqrt()) / rate + self.l2))
        weight.index_copy_(0, rows, w)


@dataclass
class TrainedTable:
    """A table, its rule, its highest rate and its state."""

    table: Table
    rule: TableRule
    rate: float
    state: dict[str, Tensor] = field(default_factory=dict)


class JointOptimizer(torch.optim.Optimizer):
    """The optimizer of the dense layers and the rules of the tables, stepping together.

    The learning rate that the loop sets is the dense optimizer's; scheduled rules get the same share of their own.
    Gradients of the tables are averaged over the ranks here, in the order of the ranks: DDP knows nothing of them.
    """

    def __init__(self, dense: torch.optim.Optimizer, tables: dict[str, TrainedTable], peak: float) -> None:
        super().__init__(dense.param_groups, dense.defaults)
        self._dense = dense
        self._tables = tables
        self._peak = peak
        for trained in tables.values():
            trained.state = trained.rule.state(trained.table.weight)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self._dense.param_groups, self._dense.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update everything that has a gradient."""
        assert closure is None
        self._dense.step()
        share = self.param_groups[0]["lr"] / self._peak
        for trained in self._tables.values():
            found = _gradient(trained.table)
            if found is not None:
                rate = trained.rate * (share if trained.rule.scheduled else 1.0)
                if rate > 0:
                    trained.rule.update(trained.table.weight, trained.state, *found, rate)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, and what was looked up."""
        self._dense.zero_grad(set_to_none)
        for trained in self._tables.values():
            trained.table.touched.clear()

    def state_dict(self) -> dict[str, Any]:
        """The dense optimizer's state and that of every table."""
        return {**self._dense.state_dict(), "tables": {n: t.state for n, t in self._tables.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved state."""
        self._dense.load_state_dict({name: value for name, value in state.items() if name != "tables"})
        self._share()
        for name, trained in self._tables.items():
            for key, value in state["tables"][name].items():
                trained.state[key].copy_(value)


def _gradient(table: Table) -> tuple[Tensor, Tensor] | None:
    """(touched rows, each once; their gradients averaged over the ranks), None when no rank touched any."""
    looked_up = [
        (rows.flatten(), values.grad.flatten(0, -2)) for rows, values in table.touched if values.grad is not None
    ]
    width = table.weight.shape[1]
    rows = torch.cat([rows for rows, _ in looked_up]) if looked_up else table.weight.new_zeros(0, dtype=torch.int32)
    gradients = torch.cat([g for _, g in looked_up]) if looked_up else table.weight.new_zeros(0, width)
    found = add_up(rows, gradients.to(table.weight.dtype))
    if dist.is_initialized() and (size := dist.get_world_size()) > 1:
        found = add_up(_gather(found[0].int(), size), _gather(found[1], size) / size)
    return found if len(found[0]) else None


def add_up(rows: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that occur several times become one with the sum: (m,), (m, E) -> (k,) int64, (k, E)."""
    unique, places = torch.unique(rows, return_inverse=True)
    sums = gradients.new_zeros(len(unique), gradients.shape[1])
    return unique.long(), sums.index_add_(0, places, gradients)


def _gather(values: Tensor, size: int) -> Tensor:
    """The ranks' values one after the other along dimension 0; their lengths may differ."""
    length = torch.tensor([len(values)], device=values.device)
    lengths = [torch.zeros_like(length) for _ in range(size)]
    dist.all_gather(lengths, length)
    longest = max(int(count) for count in lengths)
    padded = values.new_zeros(longest, *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, lengths, strict=True)])
