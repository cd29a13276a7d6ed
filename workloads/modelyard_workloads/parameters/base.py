"""The parameters that every builtin trainer understands. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class Section(BaseModel):
    """Base of every part of the configuration: camelCase outside, unknown keys are errors, frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


class Parameters(Section):
    """What every builtin trainer understands. The batch is global, so that the result does not depend on the number
    of ranks.
    """

    epochs: int = Field(10, ge=1, le=100_000, description="How many times the training data is seen.")
    batch_size: int = Field(
        64,
        ge=1,
        le=1_048_576,
        description="Samples in one optimizer step, over all ranks together; at least one for each.",
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd (Nesterov momentum) or adamw.")
    learning_rate: float = Field(0.05, gt=0, le=100, description="Highest learning rate of the schedule.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up: to zero along a cosine or a line, or not."
    )
    warmup_epochs: float | None = Field(
        None, ge=0, description="Epochs in which the learning rate rises from zero; without it, an eighth of epochs."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd, first beta of adamw.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay; biases and normalisation are exempt.")
    clip_gradient_norm: float | None = Field(None, gt=0, description="Gradients above this norm are scaled down to it.")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="When set, an exponential moving average of the weights is what is evaluated."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order and augmentation.")
    evaluate_every_epochs: int = Field(1, ge=1, description="Epochs between two evaluations; the last is always one.")
    log_every_steps: int = Field(10, ge=1, description="Optimizer steps between two lines of metrics.")

    @model_validator(mode="after")
    def _warmup_is_shorter_than_the_run(self) -> Parameters:
        if (self.warmup_epochs or 0) > self.epochs:
            raise ValueError(f"warmupEpochs ({self.warmup_epochs}) must not exceed epochs ({self.epochs})")
        return self
