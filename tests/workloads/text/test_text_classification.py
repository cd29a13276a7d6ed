"""text-classification: from tables to classes, on any number of ranks, from initial weights, and served."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.exits import DataError
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.golden import check_golden
from modelyard_workloads.serve.runtimes import build_runtime
from modelyard_workloads.tasks.bert_inference import as_bytes
from trainings.builtin import artifact, configuration, run
from trainings.texts import SMALL

transformers: Any = import_module("transformers")

_SUBJECTS = ["the loop", "a name", "this module", "the value", "an object", "the file"]
_GOOD = ["works well", "is a pleasure", "is fast and safe", "never fails", "is nice to read"]
_BAD = ["is broken", "fails often", "is slow and wrong", "hurts", "is hard to read"]


def write_reviews(directory: Path) -> str:
    """CSV with a class that the words decide; a folder for each part."""
    rows = [
        f'"{start}, {subject} {ending}",{label}'
        for subject in _SUBJECTS
        for start in ("I think", "indeed", "well", "today")
        for label, endings in (("good", _GOOD), ("bad", _BAD))
        for ending in endings
    ]
    for part, every in (("train", (0, 1)), ("test", (2,))):
        (directory / part).mkdir(parents=True)
        lines = [row for number, row in enumerate(rows) if number % 3 in every]
        (directory / part / "reviews.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return directory.as_uri()


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_reviews(tmp_path_factory.mktemp("reviews"))


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory, reviews: str, trained: tuple[Path, dict[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """A classifier that began with the pretrained encoder."""
    parameters = {"epochs": 6, "batchSize": 16, "learningRate": 2e-3, "sequenceLength": 24}
    output = tmp_path_factory.mktemp("tuned")
    config = configuration("text-classification", output, reviews, parameters, model=trained[0].as_uri())
    result = run(config)
    return artifact(result, config, "best"), result


def test_classes_are_learned_from_initial_weights(tuned: tuple[Path, dict[str, Any]]) -> None:
    metrics = {name: float(value) for name, value in tuned[1]["metrics"].items()}
    assert metrics["majorityAccuracy"] < 0.6
    assert metrics["accuracy"] > 0.95
    assert metrics["macroF1"] > 0.95
    assert read_artifact(tuned[0]).manifest.labels == ["good", "bad"]  # in the order of the data


def test_transformers_reads_the_artifact_with_equal_logits(tuned: tuple[Path, dict[str, Any]]) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tuned[0]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned[0])
    texts = ["today, the loop is broken", "well, a name works well and it is a pleasure to use"]
    with torch.no_grad():
        expected = theirs(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    runtime = build_runtime(read_artifact(tuned[0]))
    found = runtime.predict({"text": as_bytes(texts)})
    torch.testing.assert_close(torch.from_numpy(found["logits"]), expected, rtol=1e-5, atol=1e-5)
    names = [theirs.config.id2label[int(i)] for i in expected.argmax(dim=1)]
    assert [label.decode() for label in found["label"]] == names == ["bad", "good"]


def test_the_served_model_reproduces_the_golden_answers_and_cuts_long_texts(tuned: tuple[Path, dict[str, Any]]) -> None:
    loaded = read_artifact(tuned[0])
    runtime = build_runtime(loaded)
    assert check_golden(runtime, loaded.manifest.golden, ValidationSection(golden="Required")) < 1e-5
    start = "well, a name works well and is nice to read " * 3
    answers = runtime.predict({"text": as_bytes([start + "today " * n for n in (5, 50)])})
    np.testing.assert_allclose(answers["logits"][0], answers["logits"][1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "parameters", "message"),
    [
        ("text,label\na,x\n", {}, "no row is left to evaluate with"),
        ("text,label\n" + "".join(f"word {n},x\n" for n in range(40)), {}, "has one class, 'x'"),
        ("text,tag\na,x\n", {}, "has no column 'label'; it has 'text', 'tag'"),
        ("text,label\na,\n", {}, "rows.csv:2: text and label must not be empty"),
        ("text,label\na,x\nb\n", {}, "rows.csv:3: has 1 fields, expected 2"),
        ("text,label\na,x\n,y\n,z\n", {"onBadRow": "skip", "maxBadRows": 1}, r"more than maxBadRows \(1\)"),
    ],
)
def test_unusable_rows_are_explained(tmp_path: Path, content: str, parameters: dict[str, Any], message: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    config = configuration(
        "text-classification", tmp_path / "out", (tmp_path / "rows.csv").as_uri(), SMALL | parameters
    )
    with pytest.raises(DataError, match=message):
        run(config)


def test_a_class_that_only_the_evaluation_has_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "test.csv").write_text("text,label\na,x\nb,z\n")
    with pytest.raises(DataError, match=r"test\.csv:3: the class 'z' is in no row of the training data"):
        run(configuration("text-classification", tmp_path / "out", tmp_path.as_uri(), SMALL))
