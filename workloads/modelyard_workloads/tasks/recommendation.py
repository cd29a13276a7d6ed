"""Recommendation: the probability of a click (a purchase, any yes or no) from columns of words and numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from modelyard_workloads.artifact import (
    Architecture,
    Artifact,
    ArtifactInvalid,
    Description,
    Golden,
    TensorSpec,
    TensorValue,
)
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.features import Features
from modelyard_workloads.data.interactions import Batch, InteractionBatches, Interactions, load_interactions
from modelyard_workloads.data.order import Shard
from modelyard_workloads.estimates.demand import Demand
from modelyard_workloads.estimates.recommenders import recommender_demand
from modelyard_workloads.exits import ConfigError, Issue
from modelyard_workloads.models.recommender import Recommender, RecommenderArchitecture
from modelyard_workloads.models.uninitialised import with_weights
from modelyard_workloads.optimizer import build_optimizer
from modelyard_workloads.parameters.recommendation import RecommendationParameters
from modelyard_workloads.per_sample import too_large
from modelyard_workloads.ranking import ranking_metrics, ranking_sums
from modelyard_workloads.tables import Ftrl, JointOptimizer, RowwiseAdagrad, TableRule, TrainedTable
from modelyard_workloads.tasks.base import Objective

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
_EVALUATION_BATCH = 8192


class RecommendationTask:
    """The Task of `recommendation`; see `tasks.base.Task` for the order of calls."""

    objective = Objective(metric="auc", higher_is_better=True)

    def __init__(self, config: TrainingConfig) -> None:
        assert isinstance(config.parameters, RecommendationParameters)
        if config.model.uri:
            issue = Issue("model.uri", "recommendation starts from scratch: ids mean other things elsewhere; remove it")
            raise ConfigError([issue])
        self._parameters = config.parameters
        self._private = config.private is not None
        if self._private and (issues := _privacy_issues(config.parameters)):
            raise ConfigError(issues)
        self._features = Features.of(config.parameters)
        self._dataset_uri = config.dataset.uri
        self._data: Interactions
        self._shard: Shard
        self._device: torch.device

    def build_data(self, shard: Shard, device: torch.device) -> InteractionBatches:
        """Encode the columns, or map what was encoded before."""
        self._shard, self._device = shard, device
        self._data = load_interactions(self._dataset_uri, self._parameters)
        if self._data.skipped["skippedRows"]:
            logger.warning("rows were left out: %s", self._data.skipped)
        return InteractionBatches(self._data.train, self._parameters, shard, device)

    def demand(self) -> Demand:
        """See `tasks.base.Estimated`."""
        return recommender_demand(self._architecture(), self._parameters)

    def build_model(self) -> Recommender:
        """A network for these columns. Raises ConfigError when its tables do not fit into memory."""
        try:
            return Recommender(self._architecture())
        except RuntimeError as error:
            if "alloc" not in str(error):
                raise
            size = self._features.deep_rows * self._parameters.embedding_dimension * 4 / 2**30
            message = f"the embeddings alone take {size:.1f} GiB, more than there is; use fewer buckets"
            raise ConfigError([Issue("parameters.categorical", message)]) from None

    def build_optimizer(self, model: nn.Module) -> JointOptimizer:
        """AdamW (or another) for the layers, one rule for each table."""
        assert isinstance(model, Recommender)
        parameters = self._parameters
        adagrad = RowwiseAdagrad(epsilon=parameters.embedding_optimizer_epsilon)
        rules: dict[str, tuple[TableRule, float]] = {
            "embeddings": (adagrad, parameters.embedding_learning_rate),
            "wide": (adagrad, parameters.wide_learning_rate),
        }
        if parameters.wide_optimizer == "ftrl":
            rules["wide"] = (Ftrl(l1=parameters.wide_l1, l2=parameters.wide_l2), parameters.wide_learning_rate)
        # Without tables of their own (privacy) all is the layers' optimizer's.
        tables = {name: TrainedTable(table, *rules[name]) for name, table in model.tables().items()}
        return JointOptimizer(build_optimizer(model, parameters), tables, parameters.learning_rate)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        logits = model(batch.rows, batch.numbers)
        mean = F.binary_cross_entropy_with_logits(logits, batch.labels)
        return mean * self._shard.weight(len(batch), self._parameters.batch_size)

    def evaluation(self) -> Iterator[Batch]:
        """This rank's share of the held-out rows."""
        for indices in torch.split(self._shard.stride(len(self._data.held_out)), _EVALUATION_BATCH):
            yield self._data.held_out.take(indices, self._device)

    def measure(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `ranking.ranking_sums`."""
        return ranking_sums(model(batch.rows, batch.numbers).float(), batch.labels)

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """auc, logLoss, calibration (mean prediction / share of clicks)."""
        return ranking_metrics(sums)

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """The weights as they are; everything about the columns is in `preprocess`."""
        plain = {name: value.detach().to("cpu").float().contiguous() for name, value in weights.items()}
        safetensors.torch.save_file(plain, directory / WEIGHTS, metadata={"format": "pt"})
        arguments = asdict(self._architecture())
        name = str(arguments.pop("name"))
        inputs = input_specs(self._features, self._data.integers)
        served = ServedRecommender(_load(self._architecture(), [directory / WEIGHTS]))
        return Description(
            task="recommendation",
            architecture=Architecture(name=name, config=arguments),
            weights=[WEIGHTS],
            preprocess={"features": self._features.to_json()},
            inputs=inputs,
            outputs=[TensorSpec(name=n, datatype="FP32", shape=[-1]) for n in ("probability", "logit")],
            golden=[self._golden(served, inputs)],
        )

    def _golden(self, model: ServedRecommender, inputs: list[TensorSpec]) -> Golden:
        columns = {name: list(values) for name, values in self._data.examples.items()}
        if self._private:  # golden answers are published: real rows must not be
            columns = {name: [0, 1, 2, 3] for name in columns}
        for name, mean in zip(self._features.numeric, self._data.mean, strict=True):
            # JSON has no NaN: where an example has no number, any will do.
            columns[name] = [float(np.float32(mean if value is None else value)) for value in columns[name]]
        for name in self._features.categorical:
            if name not in self._data.integers:
                columns[name] = ["" if value is None else str(value) for value in columns[name]]
        count = len(next(iter(columns.values())))
        answers = model(
            {
                "rows": torch.from_numpy(self._features.rows(columns, count)),
                "numbers": torch.from_numpy(self._features.numbers(columns, count)),
            }
        )
        given = [TensorValue(**{**dict(spec), "shape": [count]}, data=columns[spec.name]) for spec in inputs]
        wanted = [TensorValue(name=n, datatype="FP32", shape=[count], data=v.tolist()) for n, v in answers.items()]
        return Golden(inputs=given, outputs=wanted)

    def _architecture(self) -> RecommenderArchitecture:
        parameters, features = self._parameters, self._features
        return RecommenderArchitecture(
            name=parameters.architecture,
            categorical=len(features.categorical),
            numeric=len(features.numeric),
            deep_rows=features.deep_rows,
            wide_rows=features.wide_rows,
            embedding_dimension=parameters.embedding_dimension,
            hidden_units=list(parameters.hidden_units),
            dropout=parameters.dropout,
            # The moments of the data are not private.
            mean=[0.0] * len(features.numeric) if self._private else self._data.mean,
            std=[1.0] * len(features.numeric) if self._private else self._data.std,
            dense_tables=self._private,
        )


def _privacy_issues(parameters: RecommendationParameters) -> list[Issue]:
    """What cannot be done privately."""
    issues = []
    for name, transform in parameters.numeric.items():
        if transform == "standardise":
            message = "standardise publishes the column's mean and deviation, which privacy does not cover; write log"
            issues.append(Issue(f"parameters.numeric.{name}", f"{message} or none"))
    rows = Features.of(parameters).wide_rows * (parameters.embedding_dimension + 1)
    memory = too_large(
        rows,
        batch_size=parameters.batch_size,
        accumulation_steps=parameters.accumulation_steps,
        gradient_for="bucket",
        instead="use fewer buckets",
    )
    if memory:
        issues.append(Issue("parameters.categorical", memory))
    return issues


class ServedRecommender:
    """Encoded columns -> the probability of a click."""

    def __init__(self, model: Recommender) -> None:
        self._model = model.eval()

    @torch.inference_mode()
    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"rows": (B, F + C) int32, "numbers": (B, D)} -> {"probability": (B,), "logit": (B,)}"""
        logits = self._model(inputs["rows"], inputs["numbers"])
        return {"probability": logits.sigmoid(), "logit": logits}


def input_specs(features: Features, integers: list[str]) -> list[TensorSpec]:
    """One input for each column, one value for each sample."""
    kinds = dict.fromkeys(features.numeric, "FP32")
    kinds |= {name: "INT64" if name in integers else "BYTES" for name in features.categorical}
    return [TensorSpec.model_validate({"name": name, "datatype": kind, "shape": [-1]}) for name, kind in kinds.items()]


def build_task(config: TrainingConfig) -> RecommendationTask:
    """The task of a configuration."""
    return RecommendationTask(config)


def build_served_model(artifact: Artifact) -> ServedRecommender:
    """Load the weights. Raises ArtifactInvalid when they do not fit the architecture."""
    return ServedRecommender(load_recommender(artifact))


def load_recommender(artifact: Artifact) -> Recommender:
    """The network, as `build_served_model` has it."""
    manifest = artifact.manifest
    try:
        architecture = RecommenderArchitecture(name=manifest.architecture.name, **manifest.architecture.config)
        return _load(architecture, artifact.weights)
    except (TypeError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactInvalid(
            f"{artifact.path}: the weights do not make a {manifest.architecture.name}: {error}"
        ) from None


def _load(architecture: RecommenderArchitecture, files: list[Path]) -> Recommender:
    weights: dict[str, Any] = {n: v for file in files for n, v in safetensors.torch.load_file(file).items()}
    if any(not math.isfinite(float(value.sum())) for value in weights.values()):
        raise ValueError("a weight is no number")
    return with_weights(lambda: Recommender(architecture), weights)
