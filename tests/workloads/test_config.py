"""What a training pod is told: every mistake named at once, with what to write instead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from modelyard_workloads import config
from modelyard_workloads.exits import ConfigError
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters
from trainings.pods import ROOT, configuration


def issues(raw: dict[str, Any]) -> list[str]:
    """The issues that `parse` finds, as text."""
    with pytest.raises(ConfigError) as caught:
        config.parse(raw)
    assert caught.value.code == 64
    return [str(issue) for issue in caught.value.issues]


def test_an_empty_parameters_object_is_a_complete_training() -> None:
    parsed = config.parse(configuration(Path("/out"), {}))
    assert isinstance(parsed.parameters, ImageClassificationParameters)
    assert parsed.parameters.architecture == "resnet18"
    assert parsed.checkpoint.resume == "Auto"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"epoch": 3}, ["parameters.epoch: is not a known field; remove it or correct its spelling"]),
        ({"epochs": 0}, ["parameters.epochs: Input should be greater than or equal to 1, got 0"]),
        (
            {"epochs": "many"},
            ['parameters.epochs: Input should be a valid integer, unable to parse string as an integer, got "many"'],
        ),
        ({"learningRate": -1}, ["parameters.learningRate: Input should be greater than 0, got -1"]),
        ({"optimizer": "sgdw"}, ["parameters.optimizer: Input should be 'sgd', 'adamw' or 'muon', got \"sgdw\""]),
        ({"dropout": 1}, ["parameters.dropout: Input should be less than 1, got 1"]),
        ({"epochs": 2, "warmupEpochs": 3}, ["parameters: warmupEpochs (3.0) must not exceed epochs (2)"]),
        ({"imageSize": 4, "seed": -1}, ["parameters.seed:", "parameters.imageSize:"]),
    ],
)
def test_a_wrong_parameter_is_named_with_what_was_found(parameters: dict[str, Any], expected: list[str]) -> None:
    found = issues(configuration(Path("/out"), parameters))
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True)), found


def test_issues_of_the_parameters_and_of_the_rest_are_reported_together() -> None:
    raw = configuration(Path("/out"), {"epoch": 1, "batchSize": 0}, attempt=0, extra=1)
    del raw["dataset"]
    raw["checkpoint"] = {"resume": "Sometimes"}
    fields = {issue.split(":")[0] for issue in issues(raw)}
    assert fields == {"parameters.epoch", "parameters.batchSize", "attempt", "extra", "dataset", "checkpoint.resume"}


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    (issue,) = issues(configuration(Path("/out"), {}, task="image-clasification"))
    assert issue.startswith("task: 'image-clasification' is no builtin trainer; choose one of: ")
    assert "image-classification" in issue


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "is not set"),
        ({"MODELYARD_CONFIG": "{"}, "is not JSON"),
        ({"MODELYARD_CONFIG": "[]"}, "must be a JSON object"),
    ],
)
def test_a_configuration_that_is_no_object_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(environment)


def test_a_batch_with_less_than_a_sample_for_each_rank_is_refused_with_the_smallest_that_will_do() -> None:
    parsed = config.parse(configuration(Path("/out"), {"batchSize": 4}))
    config.check_batch_size(parsed, 3)
    config.check_batch_size(parsed, 4)
    with pytest.raises(ConfigError, match="4 samples are too few for the 5 processes of this training; write 5"):
        config.check_batch_size(parsed, 5)


def test_the_published_schema_accepts_the_defaults_and_refuses_what_the_trainer_refuses() -> None:
    validator = Draft202012Validator(config.schema("image-classification"))
    validator.check_schema(validator.schema)
    assert validator.is_valid({})
    assert validator.is_valid(json.loads(ImageClassificationParameters().model_dump_json(by_alias=True)))
    for wrong in ({"epoch": 1}, {"epochs": 0}, {"optimizer": "sgdw"}, {"learningRate": "fast"}, {"dropout": 1}):
        assert not validator.is_valid(wrong), wrong


def test_every_parameter_has_a_description_for_its_user() -> None:
    for name, field in config.schema("image-classification")["properties"].items():
        assert field.get("description", "").endswith("."), name


@pytest.mark.parametrize("module", ["config", "launch", "artifact"])
def test_what_must_be_quick_imports_no_torch(module: str) -> None:
    code = f"import modelyard_workloads.{module}, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workloads", timeout=180, check=False)
    assert done.returncode == 0
