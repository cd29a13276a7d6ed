"""The parameters of the builtin trainer `recommendation`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from modelyard_workloads.parameters.rows import RowParameters

Buckets = Annotated[int, Field(ge=2, le=500_000_000)]
Vocabulary = Annotated[list[str], Field(min_length=1, max_length=1_000_000)]
Name = Annotated[str, Field(min_length=1)]
_MOST_ROWS = 2**31 - 1  # row numbers are 32 bits wide


class RecommendationParameters(RowParameters):
    """Parameters of the builtin trainer `recommendation`."""

    batch_size: int = Field(
        512, ge=1, le=1_048_576, description="Samples in one optimizer step, over all ranks; at least one for each."
    )
    optimizer: Literal["sgd", "adamw", "muon"] = Field("adamw", description="Optimizer of the layers of the deep part.")
    learning_rate: float = Field(
        3e-3, gt=0, le=100, description="Highest learning rate of the schedule, for the layers of the deep part."
    )
    weight_decay: float = Field(1e-5, ge=0, description="Weight decay of the deep part's layers; not of the tables.")
    epochs: int = Field(3, ge=1, le=100_000, description="How many times the training data is seen.")
    architecture: Literal["wide_deep", "deepfm"] = Field(
        "wide_deep",
        description="wide_deep: a linear part with crosses beside a network over embeddings (Cheng et al. 2016);"
        " deepfm: a factorisation machine beside a network, on the same embeddings (Guo et al. 2017).",
    )
    label: str = Field(min_length=1, description="The column to predict: 0 or 1, false or true.")
    numeric: dict[Name, Literal["standardise", "log", "none"]] = Field(
        {},
        description="Columns of numbers, and what is done to them: standardise (mean 0, deviation 1), log (sign and"
        " log(1 + |x|), then standardised), or none. A missing value counts as the mean.",
    )
    categorical: dict[Name, Buckets | Vocabulary] = Field(
        {},
        description="Columns of words or identifiers: the number of buckets that values are hashed into, or the list of"
        " the values (all others count as one more). A missing value is a value of its own.",
    )
    crosses: list[Annotated[list[str], Field(min_length=2, max_length=4)]] = Field(
        [], max_length=64, description="Combinations of 2 to 4 categorical columns, as features of the wide part."
    )
    cross_buckets: int = Field(100_000, ge=2, le=100_000_000, description="Buckets that a cross is hashed into.")
    embedding_dimension: int = Field(16, ge=1, le=1024, description="Numbers that stand for a categorical value.")
    embedding_learning_rate: float = Field(
        0.1, gt=0, le=100, description="Highest rate of the embeddings' row-wise Adagrad; follows the schedule."
    )
    embedding_optimizer_epsilon: float = Field(1e-8, gt=0, le=1, description="Epsilon of the row-wise Adagrad.")
    hidden_units: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        [128, 64], max_length=16, description="Widths of the deep part's hidden layers."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout after every hidden layer.")
    wide_optimizer: Literal["ftrl", "adagrad"] = Field(
        "ftrl", description="Optimizer of the wide part: FTRL-Proximal at a constant rate, or Adagrad."
    )
    wide_learning_rate: float = Field(0.05, gt=0, le=100, description="Learning rate of the wide part.")
    wide_l1: float = Field(0.0, ge=0, description="L1 of FTRL: weights below it are exactly zero.")
    wide_l2: float = Field(0.0, ge=0, description="L2 of FTRL.")
    evaluation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the rows held out, where the data has no folder test or val."
    )

    @model_validator(mode="after")
    def _columns_fit_together(self) -> RecommendationParameters:
        problems = []
        if not self.numeric and not self.categorical:
            problems.append("there are no features; name columns in numeric or categorical")
        if self.architecture == "deepfm" and not self.categorical:
            problems.append("deepfm needs at least one column in categorical")
        if self.architecture == "deepfm" and self.crosses:
            problems.append("crosses are for wide_deep; deepfm learns the products of its embeddings instead")
        problems += [
            f"{n!r} is both numeric and categorical; choose one" for n in self.numeric if n in self.categorical
        ]
        if self.label in self.numeric or self.label in self.categorical:
            problems.append(f"the label {self.label!r} is among the features: it would predict itself; remove it there")
        for cross in self.crosses:
            unknown = [name for name in cross if name not in self.categorical]
            if unknown:
                problems.append(f"crosses: {', '.join(map(repr, unknown))} is no column in categorical")
            if len(set(cross)) < len(cross):
                problems.append(f"crosses: {cross} names a column twice")
        for name, kind in self.categorical.items():
            if isinstance(kind, list) and len(set(kind)) < len(kind):
                problems.append(f"categorical.{name} lists a value twice")
        rows = sum(kind if isinstance(kind, int) else len(kind) + 1 for kind in self.categorical.values())
        if rows + len(self.crosses) * self.cross_buckets > _MOST_ROWS:
            problems.append(f"all buckets together are more than {_MOST_ROWS}; make them fewer")
        if problems:
            raise ValueError("; ".join(problems))
        return self
