"""What a training pod is told: MODELYARD_CONFIG, typed, every issue reported at once. Imports no torch.

The `parameters` of each task are published as JSON schema, so that the operator can refuse a typo before any pod
starts:

    python -m modelyard_workloads.config --schemas DIR
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from modelyard_workloads.exits import ConfigError, Issue

VARIABLE = "MODELYARD_CONFIG"


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
        description="Samples in one optimizer step, over all ranks together; must be divisible by their number.",
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


class ImageClassificationParameters(Parameters):
    """Parameters of the builtin trainer `image-classification`."""

    architecture: str = Field(
        "resnet18",
        min_length=1,
        pattern=r"^[a-z0-9_.]+$",
        description="resnet10, resnet18, resnet34, resnet50, resnet101, resnet152, or any architecture of timm.",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Height and width in pixels that the network sees; without it, 24 for example://digits, else 224.",
    )
    small_input_stem: bool = Field(
        False,
        description="resnet* only: one 3x3 convolution instead of the 7x7 and the pooling; for up to 64 pixels.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the classifier.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Share of the target spread over all classes.")
    augment: bool = Field(True, description="Small random rotations, scalings and shifts of the training images.")
    horizontal_flip: bool = Field(False, description="Mirror half of the training images; wrong for digits and text.")
    evaluation_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of every class held out, where the data has no folder for it."
    )


# The builtin trainers; the key is `spec.trainer.builtin`.
PARAMETERS: dict[str, type[Parameters]] = {"image-classification": ImageClassificationParameters}


class TrainingIdentity(Section):
    """Which ModelTraining this is."""

    name: str = "training"
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class Location(Section):
    """A place as the pod sees it: `example://NAME`, `file:///path`, or empty."""

    uri: str = ""


class Output(Section):
    """Where checkpoints and artifacts go: the directory in this pod, and the address that others know it by."""

    path: Path
    uri: str = ""


class CheckpointPolicy(Section):
    """When to save, how many to keep, and whether to resume."""

    every_steps: int | None = Field(None, ge=1)
    every_seconds: float | None = Field(600, gt=0)
    keep_last: int = Field(2, ge=1)
    resume: Literal["Auto", "Never", "Required"] = "Auto"


class TrainingConfig(Section):
    """The whole of MODELYARD_CONFIG for a training."""

    task: str
    parameters: Parameters
    training: TrainingIdentity = TrainingIdentity()
    attempt: int = Field(1, ge=1)
    dataset: Location
    model: Location = Location()
    output: Output
    checkpoint: CheckpointPolicy = CheckpointPolicy()


def load(environment: Mapping[str, str] = os.environ) -> TrainingConfig:
    """Read MODELYARD_CONFIG. Raises ConfigError with all issues, each naming the field, what was found and what to
    write.
    """
    text = environment.get(VARIABLE, "")
    if not text:
        raise ConfigError([Issue(VARIABLE, "is not set; expected the training's configuration as JSON")])
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ConfigError([Issue(VARIABLE, f"is not JSON: {error}")]) from None
    if not isinstance(raw, dict):
        raise ConfigError([Issue(VARIABLE, f"must be a JSON object, not {type(raw).__name__}")])
    return parse(raw)


def parse(raw: Mapping[str, Any]) -> TrainingConfig:
    """Check a configuration as it came from JSON; issues of the parameters and of the rest come together."""
    issues: list[Issue] = []
    task = raw.get("task")
    parameters: Parameters | None = None
    if task not in PARAMETERS:
        issues.append(Issue("task", f"{task!r} is no builtin trainer; choose one of: {', '.join(sorted(PARAMETERS))}"))
    else:
        try:
            parameters = PARAMETERS[str(task)].model_validate(raw.get("parameters", {}))
        except ValidationError as error:
            issues += _issues(error, "parameters")
    try:
        # Where the parameters have issues, defaults stand in, so that the rest is checked too.
        config = TrainingConfig.model_validate({**raw, "task": str(task), "parameters": parameters or Parameters()})
    except ValidationError as error:
        issues += _issues(error, "")
    if issues:
        raise ConfigError(issues)
    return config


def check_batch_size(config: TrainingConfig, world_size: int) -> None:
    """Raise ConfigError unless every rank gets the same number of samples of each batch."""
    size = config.parameters.batch_size
    if size % world_size:
        near = max(world_size, round(size / world_size) * world_size)
        message = f"{size} cannot be divided by the {world_size} processes of this training; write {near}"
        raise ConfigError([Issue("parameters.batchSize", message)])


def _issues(error: ValidationError, prefix: str) -> list[Issue]:
    found = []
    for item in error.errors(include_url=False):
        field = ".".join([prefix, *map(str, item["loc"])]).strip(".")
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "is not a known field; remove it or correct its spelling"
        elif item["type"] == "missing":
            message = "is required"
        elif isinstance(item["input"], str | int | float | bool | None):
            message = f"{message}, got {json.dumps(item['input'])}"
        found.append(Issue(field, message))
    return found


def schema(task: str) -> dict[str, Any]:
    """The published JSON schema (2020-12) of a task's parameters."""
    body = PARAMETERS[task].model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body}


def main(arguments: list[str] | None = None) -> None:
    """Write `<task>.json` for every builtin trainer."""
    parser = argparse.ArgumentParser(prog="python -m modelyard_workloads.config", description=main.__doc__)
    parser.add_argument("--schemas", type=Path, required=True, metavar="DIR", help="directory to write the schemas to")
    directory: Path = parser.parse_args(arguments).schemas
    directory.mkdir(parents=True, exist_ok=True)
    for task in PARAMETERS:
        (directory / f"{task}.json").write_text(json.dumps(schema(task), indent=2, sort_keys=True) + "\n")
        sys.stdout.write(f"{directory / task}.json\n")


if __name__ == "__main__":
    main()
