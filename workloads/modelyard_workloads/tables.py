"""Optimizers of embedding tables: only the rows that a batch touched are read and written.

Row-wise Adagrad keeps one number a row (as DLRM and TorchRec do); FTRL-Proximal is that of McMahan et al. 2013, "Ad
Click Prediction: a View from the Trenches", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from modelyard_workloads.gathering import Gathering
from modelyard_workloads.models.recommender import Table, pick_rows

Touched = tuple[Tensor, Tensor]
"""Row numbers (m,) and a gradient for each (m, E)."""
_TOGETHER = 64  # gradients of one row that are added up one after the other; some rows are in every sample


class TableRule(Protocol):
    """How touched rows of a table change."""

    @property
    def scheduled(self) -> bool:
        """Does its rate follow the learning rate's schedule?"""

    def state(self, weight: Tensor) -> dict[str, Tensor]:
        """New state for a table (R, E)."""
        ...

    def update(self, weight: Tensor, state: dict[str, Tensor], rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Change `weight` and `state` at `rows` (k,) by `gradient` (k, E); equal rows have equal gradients."""
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
        weight.index_copy_(0, rows, pick_rows(weight, rows) + step)


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
        self._add_up = AddUp(max((len(trained.table.weight) for trained in tables.values()), default=0))
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self._dense.param_groups, self._dense.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update everything that has a gradient."""
        assert closure is None
        averages = _Averages([trained.table for trained in self._tables.values()], self._add_up)
        self._dense.step()
        share = self.param_groups[0]["lr"] / self._peak
        for trained, found in zip(self._tables.values(), averages(), strict=True):
            if found is not None:
                rate = trained.rate * (share if trained.rule.scheduled else 1.0)
                if rate > 0:
                    with _in_any_order():
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


def _touched(table: Table) -> Touched:
    """(rows that were looked up (m,), their gradients (m, E)), in the order of the look-ups."""
    looked_up = [
        (rows.flatten(), values.grad.flatten(0, -2)) for rows, values in table.touched if values.grad is not None
    ]
    width = table.weight.shape[1]
    rows = torch.cat([rows for rows, _ in looked_up]) if looked_up else table.weight.new_zeros(0, dtype=torch.int32)
    gradients = torch.cat([g for _, g in looked_up]) if looked_up else table.weight.new_zeros(0, width)
    return rows, gradients.to(table.weight.dtype)


class _Averages:
    """The touched rows of all tables, each row once, with their gradients averaged over the ranks. What the ranks tell
    each other is on its way while the caller does something else.
    """

    def __init__(self, tables: list[Table], add_up: AddUp) -> None:
        self._add_up = add_up
        self._size = dist.get_world_size() if tables and dist.is_initialized() else 1
        touched = [_touched(table) for table in tables]
        once = add_up_unseen if self._size == 1 and touched and touched[0][0].is_cuda else add_up
        self._found = [once(*found) if len(found[0]) else found for found in touched]
        if self._size > 1:  # both kinds of numbers have four bytes, and travel as integers
            own = [part for rows, g in self._found for part in (rows.int(), g.flatten().view(torch.int32))]
            self._gathering = Gathering(own)

    def __call__(self) -> list[Touched | None]:
        """For each table (rows (k,) int64, gradients (k, E)); None where no rank touched any."""
        found = self._found if self._size == 1 else self._gathered()
        return [(rows.long(), gradients) if len(rows) else None for rows, gradients in found]

    def _gathered(self) -> list[Touched]:
        of_ranks = self._gathering()
        averages = []
        for table, (_, own) in enumerate(self._found):
            rows = torch.cat([parts[2 * table] for parts in of_ranks])
            gradients = torch.cat([parts[2 * table + 1] for parts in of_ranks]).view(torch.float32)
            averages.append(self._add_up(rows, gradients.view(len(rows), own.shape[1]) / self._size))
        return averages


class AddUp:
    """Rows that occur several times become one with the sum, in their order, without sorting them: each row's place in
    the batch is written down at the row's number, and the place that stays there stands for the row.
    """

    def __init__(self, rows: int) -> None:
        """For tables of at most `rows` rows: four bytes for each, from the first call on."""
        self._rows = rows
        self._places: Tensor | None = None

    def __call__(self, rows: Tensor, gradients: Tensor) -> Touched:
        """(m,), (m, E) -> (k,) int64, (k, E)"""
        rows = rows.long()
        order = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        if self._places is None:
            self._places = order.new_empty(self._rows)
        with _in_any_order():
            self._places.scatter_(0, rows, order)
        chosen = self._places.index_select(0, rows)
        stands = chosen == order
        unique = rows[stands]
        numbers = stands.cumsum(0) - 1  # among those that stand for a row
        sums = gradients.new_zeros(len(unique), gradients.shape[1])
        return unique, sums.index_add_(0, numbers.index_select(0, chosen), gradients)


def add_up_unseen(rows: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The same where the processor does not see the numbers, so that it need not wait for a GPU: (m,), (m, E) ->
    (m,) int64, (m, E). After the k rows with their sums, the last of them is repeated: to write it again changes
    nothing. The sums are made in a fixed order, first of at most `_TOGETHER` and then of these.
    """
    count = len(rows)
    ordered, order = torch.sort(rows, stable=True)
    places = torch.arange(count + 1, device=rows.device)
    first = torch.cat([places[:1] == 0, ordered[1:] != ordered[:-1]])
    groups = first.cumsum(0) - 1  # (m,): which of the k rows
    pieces = (first | (places[:-1] % _TOGETHER == 0)).cumsum(0) - 1
    starts = torch.searchsorted(groups, places)  # (m + 1,): where each of the k begins, then m
    partial = _sums(pick_rows(gradients, order), torch.searchsorted(pieces, places))
    sums = _sums(partial, torch.cat([pieces, pieces[-1:] + 1])[starts])
    places = torch.minimum(places[:-1], groups[-1])
    return ordered[starts[places]].long(), pick_rows(sums, places)


def _sums(values: Tensor, bounds: Tensor) -> Tensor:
    """values (m, E), bounds (n + 1,) -> (n, E): the sum of values[bounds[i]:bounds[i + 1]]"""
    return torch.segment_reduce(values, "sum", offsets=bounds, axis=0, initial=0, unsafe=True)


@contextmanager
def _in_any_order() -> Iterator[None]:
    """Where the order of writes does not matter (each row is written once, or twice the same) torch need not sort
    them.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
