"""What an explanation says of one row, as tensors for all rows and as JSON values. No torch, no protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelyard_workloads.serve.tensors import Array, Tensor

TOLERANCE = 0.01
"""Of the difference between both scores: how far the attributions' sum may be from it."""
ROUNDING = 1e-4  # of a score in float32, which a small difference cannot be better than

FeatureValues = Sequence[str] | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """`output`: the score of what the model answers here, `target`; `baseline`: that of an input that says nothing.

    `attributions` FP32: one number for each piece of the input, (n,) for tokens or columns, (C, H, W) for pixels; they
    share out output - baseline. `delta`: their sum less that difference. `features`: what the n pieces are.
    """

    target: str
    output: float
    baseline: float
    delta: float
    steps: int
    attributions: Array
    features: Mapping[str, FeatureValues] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the attributions account for the whole difference, within 1 %."""
        return is_complete(self.delta, self.output - self.baseline)


def is_complete(delta: float, difference: float) -> bool:
    """See TOLERANCE."""
    return abs(delta) <= max(TOLERANCE * abs(difference), ROUNDING)


def as_rows(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """One JSON object a row; `attributions` is a list of objects where the pieces have names, else nested numbers."""
    return [
        {
            "target": one.target,
            "output": one.output,
            "baseline": one.baseline,
            "delta": one.delta,
            "steps": one.steps,
            "complete": one.complete,
            "attributions": _named(one) if one.features else one.attributions,
        }
        for one in explanations
    ]


def _named(one: Explanation) -> list[dict[str, Any]]:
    columns = {**one.features, "attribution": [float(value) for value in one.attributions]}
    return [dict(zip(columns, piece, strict=True)) for piece in zip(*columns.values(), strict=True)]


def as_tensors(explanations: Sequence[Explanation]) -> list[Tensor]:
    """B explanations as tensors whose first dimension is B.

    Rows of fewer pieces than the longest are filled up: with 0, with empty BYTES, and with -1 for places.
    """
    scores = [("output", "FP32"), ("baseline", "FP32"), ("delta", "FP32"), ("steps", "INT32"), ("complete", "BOOL")]
    tensors = [Tensor("target", "BYTES", _bytes([one.target for one in explanations]))]
    for name, datatype in scores:
        kind = {"FP32": np.float32, "INT32": np.int32, "BOOL": np.bool_}[datatype]
        tensors.append(Tensor(name, datatype, np.array([getattr(one, name) for one in explanations], dtype=kind)))
    tensors.append(Tensor("attributions", "FP32", _stacked([one.attributions for one in explanations])))
    for name in explanations[0].features:
        tensors.append(_feature(f"{name}s", [one.features[name] for one in explanations]))
    return tensors


def _stacked(rows: Sequence[Array]) -> Array:
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    filled = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.float32)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return filled


def _feature(name: str, rows: Sequence[FeatureValues]) -> Tensor:
    longest = max(len(row) for row in rows)
    if any(isinstance(value, str) for row in rows for value in row):
        texts = [[str(value) for value in row] + [""] * (longest - len(row)) for row in rows]
        return Tensor(name, "BYTES", _bytes([text for row in texts for text in row]).reshape(len(rows), longest))
    numbers = np.full((len(rows), longest), -1, dtype=np.int32)
    for place, row in zip(numbers, rows, strict=True):
        place[: len(row)] = row
    return Tensor(name, "INT32", numbers)


def _bytes(texts: Sequence[str]) -> Array:
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array
