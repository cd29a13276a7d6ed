"""Configurations of `causal-lm` that make no sense: each is refused with the field and what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelyard_operator.training.parameters import parameter_issues
from modelyard_workloads.config import check_batch_size, parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.exits import ConfigError, DataError
from modelyard_workloads.loop import Training
from modelyard_workloads.tasks import build_task
from trainings.language import GIVEN, documents, raw, run

SEEN_BY_THE_OPERATOR = [
    ({"size": "huge"}, "parameters.size: ", "is not one of nano, mini, small, medium, large, xl"),
    ({"architecture": "gpt3"}, "parameters.architecture: ", "is not one of gpt2, llama"),
    ({"dataFormat": "pair"}, "parameters.dataFormat: ", "did you mean `pairs`"),
    ({"vocabularySize": 100}, "parameters.vocabularySize: ", "must be at least 512"),
    ({"contextLength": 4}, "parameters.contextLength: ", "must be at least 8"),
    ({"evaluationFraction": 1}, "parameters.evaluationFraction: ", "must be less than 1"),
    ({"labelSmoothing": 1.0}, "parameters.labelSmoothing: ", "must be less than 1"),
    ({"dropout": -0.1}, "parameters.dropout: ", "must be at least 0"),
    ({"layers": 0}, "parameters.layers: ", "must be at least 1"),
    ({"contextLenght": 128}, "parameters.contextLenght: ", "unknown field; did you mean `contextLength`"),
    ({"lora": {"rank": 0}}, "parameters.lora.rank: ", "must be at least 1"),
    ({"lora": {"dims": 4}}, "parameters.lora.dims: ", "unknown field"),
    ({"lora": 8}, "parameters.lora: ", "expected"),
    ({"precision": "fp16"}, "parameters.precision: ", "is not one of auto, fp32, bf16"),
    ({"compile": True}, "parameters.compile: ", "expected string"),
    ({"optimizer": "lion"}, "parameters.optimizer: ", "is not one of sgd, adamw, muon"),
    ({"accumulationSteps": 0}, "parameters.accumulationSteps: ", "must be at least 1"),
    ({"maxSteps": "all"}, "parameters.maxSteps: ", "expected"),
    ({"earlyStoppingPatience": 0}, "parameters.earlyStoppingPatience: ", "must be at least 1"),
    ({"sharding": "fsdp"}, "parameters.sharding: ", "is not one of none, full"),
    ({"onBadRow": "ignore"}, "parameters.onBadRow: ", "is not one of fail, skip"),
]

SEEN_BY_THE_TRAINER = [
    ({"width": 100, "heads": 8}, "width (100) must be divisible by heads (8); write width: 96"),
    ({"architecture": "llama", "width": 36, "heads": 4}, "width / heads (9) must be even for rotary positions"),
    ({"keyValueHeads": 2}, "keyValueHeads is for architecture: llama"),
    ({"architecture": "llama", "keyValueHeads": 3}, "heads (4) must be divisible by keyValueHeads (3)"),
    ({"documentMask": True, "dataFormat": "pairs"}, "documentMask is for dataFormat: text"),
    ({"sharding": "full", "optimizer": "muon"}, "sharding: full works with optimizer: adamw alone, not with muon"),
    ({"sharding": "full", "emaDecay": 0.9}, "emaDecay keeps a second whole model"),
    ({"sharding": "full", "lora": {}}, "lora trains few weights"),
    ({"epochs": 2, "warmupEpochs": 3}, "warmupEpochs (3.0) must not exceed epochs (2)"),
    ({"tokenizer": "tokenizer.json"}, "parameters.tokenizer: "),
    ({"lora": {"rank": "eight"}}, "parameters.lora.rank: "),
]


@pytest.mark.parametrize(("parameters", "field", "message"), SEEN_BY_THE_OPERATOR, ids=lambda value: str(value)[:40])
def test_the_operator_and_the_trainer_refuse_it(parameters: dict[str, Any], field: str, message: str) -> None:
    (issue, *_) = [str(issue) for issue in parameter_issues("causal-lm", parameters, "parameters")]
    assert issue.startswith(field), issue
    assert message in issue
    with pytest.raises(ConfigError, match=field.strip(": ")):
        parse(raw(Path("/out"), "example://python-docs") | {"parameters": parameters})


@pytest.mark.parametrize(("parameters", "message"), SEEN_BY_THE_TRAINER, ids=lambda value: str(value)[:40])
def test_the_trainer_refuses_what_only_it_can_see(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(raw(Path("/out"), "example://python-docs", **parameters))
    assert message in str(caught.value)


def test_adapters_without_a_model_are_refused() -> None:
    config = parse(raw(Path("/out"), "example://python-docs", lora={}))
    with pytest.raises(ConfigError, match=r"parameters\.lora: fine-tunes the model of model\.uri, and there is none"):
        build_task(config)


def test_the_shape_of_a_given_model_is_no_parameter() -> None:
    config = parse(raw(Path("/out"), "example://python-docs", "file:///models/gpt2"))
    with pytest.raises(ConfigError) as caught:
        build_task(config)
    fields = {issue.field.removeprefix("parameters.") for issue in caught.value.issues}
    assert fields == {"layers", "width", "heads", "vocabularySize"}


def test_more_parts_than_rows_are_refused() -> None:
    config = parse(raw(Path("/out"), "example://python-docs", batchSize=8, accumulationSteps=8))
    with pytest.raises(ConfigError, match="write 4 or less"):
        check_batch_size(config, 2)


@pytest.mark.parametrize(
    ("files", "changes", "error", "message"),
    [
        ({}, {}, DataError, "model.uri"),
        ({"config.json": "{"}, {}, DataError, "JSONDecodeError"),
        ({"config.json": '{"model_type": "bert"}'}, {}, DataError, "model_type 'bert' is not supported"),
        ({"config.json": '{"model_type": "gpt2"}'}, {}, DataError, "is missing or wrong for model_type gpt2"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused(
    tmp_path: Path, files: dict[str, str], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / "model").mkdir()
    for name, content in files.items():
        (tmp_path / "model" / name).write_text(content)
    config = parse(
        raw(tmp_path / "out", documents(tmp_path / "data"), (tmp_path / "model").as_uri(), **GIVEN, **changes)
    )
    with pytest.raises(error, match=message):
        Training(build_task(config), config, Ranks(RankInfo()))


def test_rows_longer_than_the_given_model_can_read_are_refused_with_what_it_can(tmp_path: Path) -> None:
    dataset = documents(tmp_path / "data")
    _, directory = run(tmp_path / "base", dataset, maxSteps=1)
    config = parse(raw(tmp_path / "out", dataset, directory.as_uri(), **(GIVEN | {"contextLength": 64})))
    with pytest.raises(
        ConfigError, match=r"64 is more than the 32 tokens that the model of model\.uri can read; write"
    ):
        Training(build_task(config), config, Ranks(RankInfo()))


def test_a_model_without_a_tokenizer_asks_for_one(tmp_path: Path) -> None:
    dataset = documents(tmp_path / "data")
    _, directory = run(tmp_path / "base", dataset, maxSteps=1)
    for name in ("tokenizer.json", "modelyard.json"):
        (directory / name).unlink()
    config = parse(raw(tmp_path / "out", dataset, directory.as_uri(), **GIVEN))
    with pytest.raises(DataError, match=r"has no tokenizer\.json; name one by the parameter tokenizer"):
        Training(build_task(config), config, Ranks(RankInfo()))
