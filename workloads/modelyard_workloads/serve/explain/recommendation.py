"""recommendation: what each column, and each cross of columns, contributed to the logit of a click.

The baseline is a row that says nothing: numbers are the training's average, embeddings are 0, around which all begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.data.features import Features
from modelyard_workloads.models.recommender import Recommender
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort, integrate
from modelyard_workloads.serve.tensors import Array
from modelyard_workloads.tasks.recommendation import load_recommender

_POINTS_AT_ONCE = 256


class RecommendationExplainer:
    """Explains a network whose columns are encoded as `features` say."""

    def __init__(self, network: Recommender, features: Features) -> None:
        self._network = network.eval().requires_grad_(False)
        self._features = features

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """{column: [B]} -> attributions (columns and crosses,)"""
        columns = {name: [_value(array[row])] for name, array in arrays.items()}
        rows = torch.from_numpy(self._features.rows(columns, 1))
        numbers = torch.from_numpy(self._features.numbers(columns, 1))
        with torch.no_grad():
            known = self._network.look_up(rows, numbers)
        there = [part is not None and part.numel() > 0 for part in known]
        inputs = tuple(part for part, is_there in zip(known, there, strict=True) if is_there and part is not None)

        def score(*given: Tensor) -> Tensor:
            parts = iter(given)
            numbers, wide, embedded = (next(parts) if is_there else None for is_there in there)
            if numbers is None:
                numbers = given[0].new_zeros(len(given[0]), 0)
            return self._network.score(numbers, wide, embedded)

        baselines = tuple(torch.zeros_like(part) for part in inputs)
        found = integrate(score, inputs, baselines, effort, together=_POINTS_AT_ONCE)
        parts = iter(found.attributions)
        by_number, by_wide, by_embedding = (next(parts) if is_there else None for is_there in there)
        return Explanation(
            target="click",
            output=found.output,
            baseline=found.baseline,
            delta=found.delta,
            steps=found.steps,
            attributions=self._shares(by_number, by_wide, by_embedding).numpy(),
            features=self._named(columns),
        )

    def _shares(self, numbers: Tensor | None, wide: Tensor | None, embedded: Tensor | None) -> Tensor:
        """(D,), (F + C, 1) and (F, E) -> (D + F + C,)"""
        features = self._features
        categorical = torch.zeros(len(features.categorical) + len(features.crosses))
        if wide is not None:
            categorical += wide.sum(dim=1)
        if embedded is not None:
            categorical[: len(features.categorical)] += embedded.sum(dim=1)
        return categorical if numbers is None else torch.cat([numbers, categorical])

    def _named(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        parts = [[name] for name in (*self._features.numeric, *self._features.categorical)] + self._features.crosses
        return {
            "column": [" x ".join(names) for names in parts],
            "value": [" x ".join(_shown(columns[name][0]) for name in names) for names in parts],
        }


def _value(element: Any) -> Any:
    return element.decode() if isinstance(element, bytes) else element.item()


def _shown(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def build(artifact: Artifact) -> RecommendationExplainer:
    """Raises ArtifactInvalid."""
    return RecommendationExplainer(
        load_recommender(artifact), Features.from_json(artifact.manifest.preprocess["features"])
    )
