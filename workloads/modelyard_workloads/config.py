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

from pydantic import Field, ValidationError

from modelyard_workloads.exits import ConfigError, Issue
from modelyard_workloads.parameters import PARAMETERS, Parameters, Section

VARIABLE = "MODELYARD_CONFIG"
PRIVATE_TASKS = ("image-classification", "recommendation", "text-classification")  # those whose trainers know DP-SGD


class TrainingIdentity(Section):
    """Which ModelTraining this is."""

    name: str = "training"
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class Location(Section):
    """A place as the pod sees it: `example://NAME`, `file:///path`, or empty."""

    uri: str = ""


class Weights(Location):
    """The weights to begin from; with a digest, an artifact of ours that must be that very one."""

    digest: str = ""


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


class DifferentialPrivacy(Section):
    """The budget of DP-SGD, and the norm to which each sample's gradient is clipped."""

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)


class Privacy(Section):
    """What may be learned about single samples."""

    differential_privacy: DifferentialPrivacy | None = None


class TrainingConfig(Section):
    """The whole of MODELYARD_CONFIG for a training."""

    task: str
    parameters: Parameters
    defaults: dict[str, Any] = Field(default_factory=dict)
    """What the first attempt was not given: a newer image with other defaults goes on with these."""
    training: TrainingIdentity = TrainingIdentity()
    attempt: int = Field(1, ge=1)
    dataset: Location
    model: Weights = Weights()
    output: Output
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    privacy: Privacy | None = None
    memory_grows: bool = False
    """A pod that runs out of memory is started again with more: then nothing is refused for the want of it."""

    @property
    def private(self) -> DifferentialPrivacy | None:
        """The budget, when there is one."""
        return self.privacy.differential_privacy if self.privacy else None


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
            parameters = _parameters(PARAMETERS[str(task)], raw.get("parameters", {}), raw.get("defaults") or {})
        except ValidationError as error:
            issues += _issues(error, "parameters")
    try:
        # Where the parameters have issues, defaults stand in, so that the rest is checked too.
        config = TrainingConfig.model_validate({**raw, "task": str(task), "parameters": parameters or Parameters()})
    except ValidationError as error:
        issues += _issues(error, "")
    if not issues and config.private and task not in PRIVATE_TASKS:
        known = ", ".join(PRIVATE_TASKS)
        issues.append(Issue("privacy.differentialPrivacy", f"{task} cannot be trained privately; {known} can"))
    if parameters and raw.get("privacy") and parameters.compile == "on":
        issues.append(Issue("parameters.compile", "gradients of single samples are not compiled; write auto or off"))
    if issues:
        raise ConfigError(issues)
    return config


def _parameters(model: type[Parameters], written: Any, defaults: Mapping[str, Any]) -> Parameters:
    """What the user wrote, on top of the defaults to go on with; the latter do not count as set."""
    parameters = model.model_validate(written)
    names = {field.alias or name: name for name, field in model.model_fields.items()}
    known = {alias: value for alias, value in defaults.items() if alias in names and alias not in written}
    if not known:
        return parameters
    whole = model.model_validate({**known, **written})
    whole.model_fields_set.difference_update(names[alias] for alias in known)
    return whole


def check_batch_size(config: TrainingConfig, world_size: int) -> None:
    """Raise ConfigError unless every rank gets a sample of each part of a batch."""
    size = config.parameters.batch_size
    if size < world_size:
        message = f"{size} samples are too few for the {world_size} processes of this training; write {world_size}"
        raise ConfigError([Issue("parameters.batchSize", f"{message} or more")])
    parts = config.parameters.accumulation_steps
    if size < world_size * parts:
        message = f"{size} samples on {world_size} processes cannot be computed in {parts} parts each; write"
        raise ConfigError([Issue("parameters.accumulationSteps", f"{message} {size // world_size} or less")])


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
