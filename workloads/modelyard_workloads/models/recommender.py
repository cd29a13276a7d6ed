"""Wide & Deep (Cheng et al. 2016, arXiv:1606.07792) and DeepFM (Guo et al. 2017, arXiv:1703.04247).

All categorical columns share one table, so a batch needs one lookup; see `data.features` for the numbering of its rows.

Shapes: B batch, F categorical columns, C crosses, D numeric columns, E embedding dimension, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class RecommenderArchitecture:
    """Everything that is needed to build the network again."""

    name: str  # wide_deep, deepfm
    categorical: int  # F
    numeric: int  # D
    deep_rows: int
    wide_rows: int
    embedding_dimension: int
    hidden_units: list[int]
    dropout: float = 0.0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    dense_tables: bool = False  # trained like any layer


class Table(nn.Module):
    """Rows of numbers of which a batch touches few: (B, F) row numbers -> (B, F, E).

    The weight has no gradient of its own, which would be as large as the table. Instead every lookup in training is
    remembered in `touched` with the values that were looked up; these have gradients after the backward pass, and
    `tables.JointOptimizer` updates the touched rows alone.
    """

    def __init__(self, rows: int, width: int, deviation: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width), requires_grad=False)
        nn.init.normal_(self.weight, std=deviation) if deviation else nn.init.zeros_(self.weight)
        self.touched: list[tuple[Tensor, Tensor]] = []

    def forward(self, rows: Tensor) -> Tensor:
        """(B, F) -> (B, F, E)"""
        values = pick_rows(self.weight, rows)
        if self.training and torch.is_grad_enabled() and not self.weight.requires_grad:
            values.requires_grad_()
            self.touched.append((rows, values))
        return values


def pick_rows(values: Tensor, rows: Tensor) -> Tensor:
    """values (R, E), rows (...) -> (..., E)"""
    if not values.is_cuda:
        return F.embedding(rows, values)
    # The kernels that torch has for whole rows give each a block of threads, most of which a short row leaves idle: 1.7
    # million rows of 16 numbers took 1.4 ms on an H100, twenty times what its memory needs for them. So the numbers are
    # picked one by one.
    width = values.shape[1]
    return values.take(rows.long().unsqueeze(-1) * width + torch.arange(width, device=values.device))


class Layers(nn.Sequential):
    """Layers one after the other; torch's own class is not compiled by `Module.compile`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, widths) -> (B, 1)"""
        for layer in self:
            x = layer(x)
        return x


class Recommender(nn.Module):
    """Row numbers and numbers -> the logit of a click."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: RecommenderArchitecture) -> None:
        super().__init__()
        a = architecture
        self.columns = a.categorical
        self.factorised = a.name == "deepfm"
        self.wide = _table(a.wide_rows, 1, 0.0, a.dense_tables) if a.wide_rows else None
        self.wide_numeric = nn.Linear(a.numeric, 1, bias=False) if a.numeric else None
        columns = a.categorical
        self.embeddings = _table(a.deep_rows, a.embedding_dimension, 0.05, a.dense_tables) if columns else None
        width = a.numeric + a.categorical * a.embedding_dimension
        layers: list[nn.Module] = []
        for units in a.hidden_units:
            layers += [nn.Linear(width, units), nn.ReLU(), *([nn.Dropout(a.dropout)] if a.dropout else [])]
            width = units
        self.deep = Layers(*layers, nn.Linear(width, 1))  # its bias is the whole model's
        self.register_buffer("mean", torch.tensor(a.mean), persistent=False)
        self.register_buffer("std", torch.tensor(a.std), persistent=False)

    def regions(self) -> Iterable[nn.Module]:
        """See `backward.Regional`: the lookups remember what they did, which compiled code could not."""
        return [self.deep]

    def forward(self, rows: Tensor, numbers: Tensor) -> Tensor:
        """rows (B, F + C), numbers (B, D) with NaN for what is missing -> logits (B,)"""
        return self.score(*self.look_up(rows, numbers))

    def look_up(self, rows: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What the tables know of a batch: standardised numbers (B, D), wide values (B, F + C, 1) and embeddings
        (B, F, E); None for a table that there is not.
        """
        return (
            torch.nan_to_num((numbers - self.mean) / self.std),
            self.wide(rows) if self.wide is not None else None,
            self.embeddings(rows[:, : self.columns]) if self.embeddings is not None else None,
        )

    def score(self, numbers: Tensor, wide: Tensor | None, embedded: Tensor | None) -> Tensor:
        """What `look_up` gives -> logits (B,); 0 of everything is the average number, and a value never seen."""
        parts = []  # of the logit, (B,) each
        deep = [numbers]
        if self.wide_numeric is not None:
            parts.append(self.wide_numeric(numbers).squeeze(1))
        if wide is not None:
            parts.append(wide.sum(dim=(1, 2)))
        if embedded is not None:
            deep.append(embedded.flatten(1))
            if self.factorised:
                parts.append(pairwise(embedded))
        parts.append(self.deep(torch.cat(deep, dim=1)).squeeze(1))
        return torch.stack(parts).sum(dim=0)

    def tables(self) -> dict[str, Table]:
        """The tables that there are, by name."""
        found: dict[str, Any] = {"wide": self.wide, "embeddings": self.embeddings}
        return {name: table for name, table in found.items() if isinstance(table, Table)}


def _table(rows: int, width: int, deviation: float, dense: bool) -> nn.Module:
    """A Table; or, `dense`, an ordinary embedding with a gradient, which is what differential privacy adds noise to."""
    table = Table(rows, width, deviation)
    return nn.Embedding.from_pretrained(table.weight.detach(), freeze=False) if dense else table  # type: ignore[no-untyped-call]


def pairwise(embedded: Tensor) -> Tensor:
    """The factorisation machine: the sum of the products of all pairs of embeddings, (B, F, E) -> (B,)."""
    total = embedded.sum(dim=1)
    return (total.square() - embedded.square().sum(dim=1)).sum(dim=1) / 2
