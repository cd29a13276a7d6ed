"""Estimates of Wide & Deep and DeepFM: the tables are what takes memory."""

from __future__ import annotations

from itertools import pairwise

from modelyard_workloads.estimates.demand import NUMBER, Demand, State, trained
from modelyard_workloads.models.recommender import RecommenderArchitecture
from modelyard_workloads.parameters.recommendation import RecommendationParameters

_INDEX = 8


def recommender_parameters(a: RecommenderArchitecture) -> tuple[int, int]:
    """Parameters of the tables, and of the layers."""
    tables = a.wide_rows + a.deep_rows * a.embedding_dimension * bool(a.categorical)
    widths = [a.numeric + a.categorical * a.embedding_dimension, *a.hidden_units, 1]
    layers = sum((before + 1) * after for before, after in pairwise(widths))
    return tables, layers + a.numeric


def recommender_demand(a: RecommenderArchitecture, parameters: RecommendationParameters) -> Demand:
    """Tables have no gradient and a small state of their own (row-wise Adagrad: a number a row; FTRL: two)."""
    tables, layers = recommender_parameters(a)
    average = parameters.ema_decay is not None
    count = tables + layers
    if a.dense_tables:  # privacy: trained like the layers, and each sample has a gradient for all of them
        state, own = trained(count, parameters), NUMBER * count
    else:
        rules = a.deep_rows * bool(a.categorical) + a.wide_rows * (2 if parameters.wide_optimizer == "ftrl" else 1)
        dense = trained(layers, parameters)
        own = 0
        state = State(
            device_bytes=dense.device_bytes + NUMBER * (tables * (1 + average) + rules),
            copy_bytes=dense.copy_bytes + NUMBER * (tables * (2 + average) + rules),
        )
    looked_up = a.categorical * a.embedding_dimension
    columns = 2 * a.categorical + len(parameters.crosses)
    width = a.numeric + looked_up
    # Values looked up and their gradients; what the layers are given, and the gradient of one; which rows they are.
    layers_given = width + sum(a.hidden_units) + max(a.hidden_units, default=0)
    row = NUMBER * (2 * looked_up + layers_given) + 3 * _INDEX * columns
    return Demand(
        parameters=count,
        state=state,
        row_bytes=row + own,
        flops=6.0 * layers,
        smaller="smaller embeddingDimension, fewer buckets in categorical, or a smaller crossBuckets",
    )
