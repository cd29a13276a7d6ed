"""token-classification: entities as seqeval counts them, files that are read, ranks, and the served answer."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.data.entities import as_bio, entities, parts_of
from modelyard_workloads.exits import DataError
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.golden import check_golden
from modelyard_workloads.serve.runtimes import build_runtime
from modelyard_workloads.tasks.bert_inference import as_bytes
from trainings.builtin import artifact, configuration, run
from trainings.texts import GIVEN, SMALL, conll

seqeval: Any = import_module("seqeval.metrics")
sequence_labeling: Any = import_module("seqeval.metrics.sequence_labeling")

TAGS = st.lists(st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("x", "y"))]), max_size=12)


@given(TAGS)
@settings(max_examples=300, deadline=None)
def test_entities_are_those_that_seqeval_finds(tags: list[str]) -> None:
    assert list(entities(tags)) == [tuple(entity) for entity in sequence_labeling.get_entities(tags)]
    assert list(entities(as_bio(tags))) == list(entities(tags))


def test_what_is_a_tag() -> None:
    assert parts_of("L-person") == ("E", "person")
    assert [parts_of(tag) for tag in ("B", "B-", "X-person", "", "person")] == [None] * 5


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("people")
    (directory / "train.conll").write_text(conll(range(96)))
    (directory / "dev.conll").write_text(conll(range(96, 144)))
    return directory.as_uri()


PARAMETERS = {**SMALL, "vocabularySize": 256, "batchSize": 16, "maxSteps": None, "epochs": 10, "learningRate": 2e-3}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, people: str) -> tuple[Path, dict[str, Any]]:
    config = configuration("token-classification", tmp_path_factory.mktemp("tuned"), people, PARAMETERS)
    result = run(config)
    return artifact(result, config, "best"), result


def test_entities_are_learned_from_the_words_around_them(tuned: tuple[Path, dict[str, Any]]) -> None:
    metrics = {name: float(value) for name, value in tuned[1]["metrics"].items()}
    assert metrics["f1"] > 0.95
    assert 0.95 < metrics["precision"] <= 1
    assert metrics["accuracy"] > 0.97


def test_the_served_model_names_entities_and_where_they_are_also_in_long_texts(
    tuned: tuple[Path, dict[str, Any]],
) -> None:
    loaded = read_artifact(tuned[0])
    runtime = build_runtime(loaded)
    assert check_golden(runtime, loaded.manifest.golden, ValidationSection(golden="Required")) < 1e-5
    text = "Grace Hopper lives in New York. No7"
    long = f"{text} " * 12
    answers = runtime.predict({"text": as_bytes([text, long, "lives"])})
    found = [json.loads(value) for value in answers["entities"]]
    short = [(e["entity"], e["text"], e["start"], e["end"]) for e in found[0]]
    assert short == [("PER", "Grace Hopper", 0, 12), ("LOC", "New York", 22, 30)]
    assert all(0.3 < e["score"] <= 1 for e in found[0])
    assert answers["count"].tolist() == [2, len(found[1]), len(found[2])]
    assert all(long[e["start"] : e["end"]] == e["text"] for e in found[1])
    assert len({e["start"] for e in found[1]}) == len(found[1]) >= 20
    alone = runtime.predict({"text": as_bytes([long])})
    assert json.loads(alone["entities"][0])[-1]["start"] > 300


def test_evaluation_counts_what_seqeval_counts(tuned: tuple[Path, dict[str, Any]], people: str, tmp_path: Path) -> None:
    from modelyard_workloads.config import parse
    from modelyard_workloads.data.order import Shard
    from modelyard_workloads.tasks.token_classification import TokenClassificationTask

    parameters = GIVEN | {"sequenceLength": 10}  # sentences are parted
    config = configuration("token-classification", tmp_path, people, parameters, model=tuned[0].as_uri())
    task = TokenClassificationTask(parse(config))
    task.build_data(Shard(rank=0, world_size=1), torch.device("cpu"))
    model = task.build_model().eval()
    with torch.no_grad():
        batches = list(task.evaluation())
        sums = torch.stack([task.measure(model, batch) for batch in batches]).sum(dim=0)
        truth: list[list[str]] = []
        guesses: list[list[str]] = []
        for batch in batches:
            predicted = model(batch.rows).argmax(dim=1)
            heads = task.held_out.of_tokens("head", batch.indices).bool()
            for tags, all_tags in ((batch.targets, truth), (predicted, guesses)):
                lengths = list(batch.rows.lengths)
                rows = zip(torch.split(tags, lengths), torch.split(heads, lengths), strict=True)
                all_tags += [[task.labels[i] for i in row[words].tolist()] for row, words in rows]
    metrics = task.summarise(sums)
    assert metrics["f1"] == pytest.approx(seqeval.f1_score(truth, guesses))
    assert metrics["precision"] == pytest.approx(seqeval.precision_score(truth, guesses))
    assert metrics["accuracy"] == pytest.approx(seqeval.accuracy_score(truth, guesses))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "word\n", r"a\.conll:1: has one column, 'word'; expected a word and its tag"),
        ("a.conll", "the O\nword person\n", r"a\.conll:2: 'person' is no tag; write O, or B-TYPE and I-TYPE"),
        ("a.conll", "the O\n\nword O\n", "no sentence of the training data has an entity"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n', r"a\.jsonl:1: has 2 words and 1 tags"),
        ("a.jsonl", '{"tokens": "a b", "tags": ["O"]}\n', r"a\.jsonl:1: column 'tokens' must be a list"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [1]}\n', r"a\.jsonl:1: 1 is no tag"),
        ("a.conll", "Ada B-PER\n", "no sentence is left to evaluate with"),
    ],
)
def test_unusable_sentences_are_explained(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    config = configuration("token-classification", tmp_path / "out", (tmp_path / name).as_uri(), SMALL)
    with pytest.raises(DataError, match=message):
        run(config)
