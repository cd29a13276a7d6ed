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
    of ranks, batch normalisation apart.
    """

    epochs: int = Field(10, ge=1, le=100_000, description="How many times the training data is seen.")
    batch_size: int = Field(
        64,
        ge=1,
        le=1_048_576,
        description="Samples in one optimizer step, over all ranks together; at least one for each.",
    )
    max_steps: int | None = Field(
        None, ge=1, description="Optimizer steps after which training ends, however many epochs are left."
    )
    accumulation_steps: int = Field(
        1,
        ge=1,
        le=4096,
        description="Parts in which a batch is computed one after the other, to save memory; the result is the same.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: matrix products in bfloat16, weights in float32. auto: bf16 on a GPU that has it."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="Compile the model (torch.compile) before the first step; auto does on a GPU."
    )
    optimizer: Literal["sgd", "adamw", "muon"] = Field(
        "sgd",
        description="sgd (Nesterov momentum), adamw, or muon (orthogonal updates of hidden matrices, else adamw).",
    )
    learning_rate: float = Field(0.05, gt=0, le=100, description="Highest learning rate of the schedule.")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine",
        description="How the learning rate falls after the warm-up: to zero along a cosine or a line, not at all, or"
        " (wsd) along a line in the last fifth of the steps.",
    )
    warmup_epochs: float | None = Field(
        None, ge=0, description="Epochs in which the learning rate rises from zero; without it, an eighth of epochs."
    )
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="Momentum of sgd; first beta of adamw, and of what muon leaves to it (its own momentum is 0.95).",
    )
    beta2: float = Field(0.999, ge=0, lt=1, description="Second beta of adamw; without effect for sgd.")
    epsilon: float = Field(1e-8, gt=0, le=1, description="Epsilon of adamw; without effect for sgd.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay; biases and normalisation are exempt.")
    clip_gradient_norm: float | None = Field(None, gt=0, description="Gradients above this norm are scaled down to it.")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="When set, an exponential moving average of the weights is what is evaluated."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order and augmentation.")
    evaluate_every_epochs: int = Field(1, ge=1, description="Epochs between two evaluations; the last is always one.")
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between two evaluations; replaces evaluateEveryEpochs."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Training ends after this many evaluations in a row that were no better than the best."
    )
    log_every_steps: int = Field(10, ge=1, description="Optimizer steps between two lines of metrics.")

    @model_validator(mode="after")
    def _warmup_is_shorter_than_the_run(self) -> Parameters:
        if (self.warmup_epochs or 0) > self.epochs:
            raise ValueError(f"warmupEpochs ({self.warmup_epochs}) must not exceed epochs ({self.epochs})")
        return self
