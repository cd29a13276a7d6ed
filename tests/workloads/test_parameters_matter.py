"""Every documented parameter of every builtin trainer changes something: one line in a table for each, and a parameter
without a line fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from modelyard_workloads.parameters import PARAMETERS
from modelyard_workloads.parameters.causal_lm import LoraParameters
from pydantic.alias_generators import to_camel
from trainings.observed import observe
from trainings.specimens import make

OF_THE_MODEL = ("layers", "width", "heads", "vocabularySize")
TESTS = Path(__file__).parent
Changes = dict[str, tuple[dict[str, Any], Any]]
"""Parameter -> what it is changed in beside the trainer's base, and its other value. `DATA` and `MODEL` among the
former are names of things that `things` makes."""

DATA, MODEL = "dataset", "model"
# What the loop alone does with a parameter, whatever the trainer, and what needs two ranks or a compiler, has a test of
# its own.
ELSEWHERE = {
    "compile": "test_steps.py: test_compile_on_compiles",
    "earlyStoppingPatience": "test_steps.py: test_early_stopping_ends_a_run_whose_evaluations_are_no_better",
    "evaluateEveryEpochs": "test_steps.py: test_evaluations_and_lines_come_when_they_are_asked_for",
    "evaluateEverySteps": "test_steps.py: test_evaluations_and_lines_come_when_they_are_asked_for",
    "logEverySteps": "test_steps.py: test_evaluations_and_lines_come_when_they_are_asked_for",
    "sharding": "causal_lm/test_ranks.py: test_ranks_that_share_out_the_model_learn_the_same_and_each_saves_its_part",
}
COMMON: Changes = {
    "epochs": ({}, 3),
    "batchSize": ({}, 5),
    "maxSteps": ({}, 1),
    "accumulationSteps": ({}, 2),
    "precision": ({}, "bf16"),
    "optimizer": ({}, "muon"),
    "learningRate": ({}, 2e-3),
    "schedule": ({}, "wsd"),
    "warmupEpochs": ({}, 0.5),
    "momentum": ({}, 0.5),
    "beta2": ({}, 0.5),
    "epsilon": ({}, 0.1),
    "weightDecay": ({}, 0.9),
    "clipGradientNorm": ({"optimizer": "sgd"}, 1e-4),
    "emaDecay": ({}, 0.9),
    "seed": ({}, 1),
    "evaluationFraction": ({}, 0.5),
    "onBadRow": ({DATA: "broken"}, "skip"),
    "maxBadRows": ({DATA: "broken", "onBadRow": "skip"}, 0),
}
ENCODER: Changes = {
    "architecture": ({}, "mini"),
    "sequenceLength": ({}, 24),
    "vocabularySize": ({}, 130),
    "lowercase": ({}, False),
    "tokenizer": ({"vocabularySize": None}, "vocabulary"),
    "dropout": ({}, 0.3),
    "attentionDropout": ({}, 0.3),
}
SMALL = {"batchSize": 4, "epochs": 2, "learningRate": 1e-3, "evaluationFraction": 0.25, "optimizer": "adamw"}
SMALL_ENCODER = {**SMALL, "architecture": "tiny", "sequenceLength": 32, "vocabularySize": 300}
COLUMNS = {"label": "label", "numeric": {"price": "log"}, "categorical": {"user": 20, "item": 30}}
BASES: dict[str, dict[str, Any]] = {
    "bert-pretraining": SMALL_ENCODER,
    "causal-lm": {**SMALL, "layers": 1, "width": 16, "heads": 2, "contextLength": 16, "vocabularySize": 600},
    "image-classification": {**SMALL, "architecture": "test_resnet", "imageSize": 16},
    "question-answering": {**SMALL_ENCODER, "stride": 8},
    "recommendation": {
        **SMALL,
        **COLUMNS,
        "crosses": [["user", "item"]],
        "hiddenUnits": [8],
        "embeddingDimension": 4,
        "crossBuckets": 100,
    },
    "text-classification": SMALL_ENCODER,
    "token-classification": SMALL_ENCODER,
}
OWN: dict[str, Changes] = {
    "bert-pretraining": {
        **ENCODER,
        "textColumn": ({}, "other"),
        "maskProbability": ({}, 0.4),
        "nextSentence": ({}, False),
    },
    "causal-lm": {
        "dataFormat": ({}, "pairs"),
        "textColumn": ({}, "other"),
        "promptColumn": ({"dataFormat": "pairs"}, "other"),
        "answerColumn": ({"dataFormat": "pairs"}, "other"),
        "messagesColumn": ({"dataFormat": "messages"}, "talk"),
        "evaluationTokens": ({}, 16),
        "tokenizer": ({"vocabularySize": None}, "tokens"),
        "vocabularySize": ({}, 700),
        "documentMask": ({DATA: "short"}, True),
        "architecture": ({}, "llama"),
        "size": ({"width": None}, "mini"),
        "layers": ({}, 2),
        "width": ({}, 32),
        "heads": ({}, 4),
        "keyValueHeads": ({"architecture": "llama"}, 1),
        "contextLength": ({}, 24),
        "dropout": ({}, 0.3),
        "labelSmoothing": ({}, 0.3),
        "lora": ({MODEL: "decoder"}, {"rank": 2}),
    },
    "image-classification": {
        "architecture": ({}, "test_vit2"),
        "imageSize": ({}, 24),
        "smallInputStem": ({"architecture": "resnet10"}, True),
        "dropout": ({}, 0.3),
        "labelSmoothing": ({}, 0.3),
        "augment": ({}, False),
        "horizontalFlip": ({}, True),
        "imageColumn": ({DATA: "parquet"}, "other"),
        "labelColumn": ({DATA: "parquet"}, "kind"),
    },
    "question-answering": {**ENCODER, "stride": ({}, 2), "answerLength": ({}, 1)},
    "recommendation": {
        "architecture": ({"crosses": []}, "deepfm"),
        "label": ({}, "other"),
        "numeric": ({}, {"price": "none"}),
        "categorical": ({}, {"user": 7, "item": 30}),
        "crosses": ({}, []),
        "crossBuckets": ({}, 7),
        "embeddingDimension": ({}, 5),
        "embeddingLearningRate": ({}, 0.03),
        "embeddingOptimizerEpsilon": ({}, 0.1),
        "hiddenUnits": ({}, [16]),
        "dropout": ({}, 0.3),
        "wideOptimizer": ({}, "adagrad"),
        "wideLearningRate": ({}, 0.3),
        "wideL1": ({}, 0.5),
        "wideL2": ({}, 5.0),
    },
    "text-classification": {
        **ENCODER,
        "textColumn": ({}, "other"),
        "secondTextColumn": ({}, "other"),
        "labelColumn": ({}, "kind"),
        "labelSmoothing": ({}, 0.3),
    },
    "token-classification": {**ENCODER, "wordsColumn": ({}, "words"), "tagsColumn": ({}, "kinds")},
}
LORA: Changes = {
    "rank": ({}, 3),
    "alpha": ({}, 4.0),
    "dropout": ({}, 0.3),
    "layers": ({}, "attention"),
}
ROWS = [(task, name) for task in PARAMETERS for name in (COMMON | OWN[task])]


def test_every_parameter_has_a_line_and_every_line_a_parameter() -> None:
    for task, parameters in PARAMETERS.items():
        documented = {to_camel(name) for name in parameters.model_fields}
        listed = set(COMMON) | set(OWN[task]) | {name for name in ELSEWHERE if name in documented}
        assert listed == documented, task
    assert set(LORA) == {to_camel(name) for name in LoraParameters.model_fields}


def test_what_has_a_test_of_its_own_has_one() -> None:
    for place in ELSEWHERE.values():
        file, name = place.split(": ")
        assert name in (TESTS / file).read_text(), place


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Makes what a name stands for to a trainer, once: its data, broken data, weights or a tokenizer."""
    root = tmp_path_factory.mktemp("things")
    addresses: dict[tuple[str, str], str] = {}

    def thing(task: str, name: str) -> str:
        if (task, name) not in addresses:
            directory = root / task / name
            directory.mkdir(parents=True)
            addresses[task, name] = make(task, name, directory)
        return addresses[task, name]

    return thing


@pytest.fixture(scope="module")
def seen(things: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Observes a trainer, each configuration once; what it prepares of its data is shared."""
    output = tmp_path_factory.mktemp("output")
    known: dict[str, dict[str, Any]] = {}

    def see(task: str, changes: dict[str, Any]) -> dict[str, Any]:
        parameters = {name: value for name, value in (BASES[task] | changes).items() if value is not None}
        dataset = things(task, parameters.pop(DATA, "rows"))
        model = things(task, parameters.pop(MODEL)) if MODEL in parameters else ""
        if model:
            parameters = {
                n: v for n, v in parameters.items() if n not in ("layers", "width", "heads", "vocabularySize")
            }
        if "tokenizer" in parameters:
            parameters["tokenizer"] = things(task, parameters["tokenizer"])
        key = json.dumps([task, parameters, dataset, model])
        if key not in known:
            known[key] = observe(task, output / task, dataset, parameters, model)
        return known[key]

    return see


@pytest.mark.parametrize(("task", "name"), ROWS, ids=lambda value: str(value))
def test_it_changes_something(seen: Callable[..., dict[str, Any]], task: str, name: str) -> None:
    beside, value = (COMMON | OWN[task])[name]
    before, after = seen(task, beside), seen(task, beside | {name: value})
    assert before != after
    if name not in ("onBadRow", "maxBadRows"):
        assert "error" not in before | after, (before.get("error"), after.get("error"))


@pytest.mark.parametrize("name", LORA)
def test_of_lora_too(seen: Callable[..., dict[str, Any]], name: str) -> None:
    before = seen("causal-lm", {MODEL: "decoder", "lora": {"rank": 2}})
    after = seen("causal-lm", {MODEL: "decoder", "lora": {"rank": 2, name: LORA[name][1]}})
    assert before != after
    assert "error" not in before | after, (before.get("error"), after.get("error"))
