"""Wrong settings of BERT's trainers: each is answered with the field, what was expected, and what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from modelyard_workloads.config import parse
from modelyard_workloads.exits import ConfigError, ExitError
from modelyard_workloads.tasks import build_task
from trainings.builtin import configuration, run
from trainings.texts import GIVEN

TUNING = ("text-classification", "token-classification", "question-answering")
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("bert-pretraining", {"architecture": "huge"}, "parameters.architecture: Input should be 'tiny', 'mini', 'small'"),
    ("bert-pretraining", {"maskProbability": 0}, "parameters.maskProbability: Input should be greater than 0, got 0"),
    ("bert-pretraining", {"maskProbability": 1.5}, "parameters.maskProbability: Input should be less than 1, got 1.5"),
    (
        "bert-pretraining",
        {"sequenceLength": 4},
        "parameters.sequenceLength: Input should be greater than or equal to 8",
    ),
    ("bert-pretraining", {"vocabularySize": 10}, "parameters.vocabularySize: Input should be greater than or equal to"),
    ("bert-pretraining", {"dropout": 1}, "parameters.dropout: Input should be less than 1, got 1"),
    (
        "bert-pretraining",
        {"attentionDropout": -1},
        "parameters.attentionDropout: Input should be greater than or equal",
    ),
    ("bert-pretraining", {"nextSentence": "perhaps"}, "parameters.nextSentence: Input should be a valid boolean"),
    ("bert-pretraining", {"textColumn": ""}, "parameters.textColumn: String should have at least 1 character"),
    ("bert-pretraining", {"maskProbabilty": 0.2}, "parameters.maskProbabilty: is not a known field; remove it"),
    ("bert-pretraining", {"evaluationFraction": 0}, "parameters.evaluationFraction: Input should be greater than 0"),
    ("bert-pretraining", {"onBadRow": "ignore"}, "parameters.onBadRow: Input should be 'fail' or 'skip'"),
    ("text-classification", {"labelColumn": "text"}, "textColumn, secondTextColumn and labelColumn must be different"),
    ("text-classification", {"labelSmoothing": 1}, "parameters.labelSmoothing: Input should be less than 1, got 1"),
    ("text-classification", {"labels": ["a"]}, "parameters.labels: is not a known field"),
    ("text-classification", {"learningRate": 0}, "parameters.learningRate: Input should be greater than 0"),
    ("token-classification", {"tagsColumn": "tokens"}, "wordsColumn and tagsColumn must be different columns"),
    ("token-classification", {"wordsColumn": ""}, "parameters.wordsColumn: String should have at least 1 character"),
    ("question-answering", {"stride": 200}, "stride (200) must be at most half of sequenceLength (384)"),
    ("question-answering", {"stride": -1}, "parameters.stride: Input should be greater than or equal to 0"),
    ("question-answering", {"answerLength": 0}, "parameters.answerLength: Input should be greater than or equal to 1"),
    (
        "question-answering",
        {"sequenceLength": 8},
        "parameters.sequenceLength: Input should be greater than or equal to",
    ),
]


@pytest.mark.parametrize(("task", "parameters", "message"), BAD)
def test_a_wrong_parameter_is_named(task: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(configuration(task, Path("out"), "example://python-docs", parameters))
    assert message in str(raised.value)


def test_fine_tuning_is_by_default_adam_with_1e_5_for_10_epochs() -> None:
    for task in TUNING:
        parameters = parse(configuration(task, Path("out"), "example://python-docs", {})).parameters
        assert (parameters.optimizer, parameters.learning_rate, parameters.epochs) == ("adamw", 1e-5, 10)


@pytest.mark.parametrize(
    ("parameters", "dataset", "message"),
    [
        ({"tokenizer": "file:///nowhere/vocab.txt"}, "", "parameters.tokenizer: file:///nowhere/vocab.txt"),
        ({"tokenizer": "{here}/vocab.txt"}, "", "has no [PAD], [UNK], [CLS], [SEP]"),
        ({"tokenizer": "{here}/broken.json"}, "", "is no tokenizer.json"),
        ({}, "example://python-dogs", "did you mean example://python-docs?"),
        ({}, "{here}/empty", "there is nothing there"),
        ({}, "{here}/broken.json", "no file of"),
    ],
)
def test_wrong_addresses_are_explained(
    tmp_path: Path, corpus: str, parameters: dict[str, Any], dataset: str, message: str
) -> None:
    (tmp_path / "vocab.txt").write_text("[MASK]\na\n")
    (tmp_path / "broken.json").write_text("{}")
    here = tmp_path.as_uri()
    given = {name: value.replace("{here}", here) for name, value in parameters.items()}
    address = dataset.replace("{here}", here) or corpus
    with pytest.raises(ExitError) as raised:
        run(configuration("bert-pretraining", tmp_path / "out", address, {**GIVEN, **given}))
    assert message in str(raised.value)


def test_initial_weights_set_the_limits(tmp_path: Path, corpus: str, trained: tuple[Path, dict[str, Any]]) -> None:
    def message(**parameters: Any) -> str:
        config = configuration("bert-pretraining", tmp_path, corpus, GIVEN | parameters, model=trained[0].as_uri())
        with pytest.raises(ExitError) as raised:
            run(config)
        return str(raised.value)

    assert "the initial weights know 32 positions; write at most that, got 64" in message(sequenceLength=64)


@pytest.mark.parametrize("task", ["bert-pretraining", *TUNING])
def test_what_initial_weights_or_a_tokenizer_bring_is_not_asked_for_in_vain(task: str) -> None:
    def refused(model: str, parameters: dict[str, Any]) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            build_task(parse(configuration(task, Path("out"), "file:///data", parameters, model=model)))
        return [f"{issue.field}: {issue.message}" for issue in raised.value.issues]

    asked = {"architecture": "base", "vocabularySize": 30_528, "lowercase": True, "tokenizer": "file:///x/vocab.txt"}
    assert refused("file:///weights", asked) == [
        f"parameters.{name}: is that of the initial weights, model.uri; remove it" for name in asked
    ]
    assert refused("", {"tokenizer": "file:///x/tokenizer.json", "vocabularySize": 512, "lowercase": False}) == [
        f"parameters.{name}: is that of the tokenizer; remove it" for name in ("vocabularySize", "lowercase")
    ]
    heard = {"architecture": "tiny", "tokenizer": "file:///x/vocab.txt", "lowercase": False}
    build_task(parse(configuration(task, Path("out"), "file:///data", heard)))
