"""question-answering: SQuAD's files and scores, windows, and the served answer with its place."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.data.questions import exact_match, overlap_f1, read, reading_windows, text_tokens
from modelyard_workloads.data.wordpiece import train_wordpiece
from modelyard_workloads.exits import DataError
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.golden import check_golden
from modelyard_workloads.serve.runtimes import build_runtime
from modelyard_workloads.tasks.bert_inference import as_bytes
from modelyard_workloads.tasks.bert_questions import Window, best_answer
from servers.explained import check_sum, explained
from trainings.builtin import artifact, configuration, run
from trainings.texts import SMALL, squad

transformers: Any = import_module("transformers")

PARAMETERS = {**SMALL, "vocabularySize": 256, "sequenceLength": 32, "stride": 8, "maxSteps": None}


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("owners")
    (directory / "train-v1.1.json").write_text(json.dumps(squad(range(72))))
    (directory / "dev-v1.1.json").write_text(json.dumps(squad(range(72, 96))))
    return directory.as_uri()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, owners: str) -> tuple[Path, dict[str, Any]]:
    parameters = {**PARAMETERS, "epochs": 30, "batchSize": 12, "learningRate": 2e-3}
    config = configuration("question-answering", tmp_path_factory.mktemp("tuned"), owners, parameters)
    result = run(config)
    return artifact(result, config, "best"), result


def test_answers_are_learned(tuned: tuple[Path, dict[str, Any]]) -> None:
    entry = next(a for a in tuned[1]["artifacts"] if a["name"] == "best")
    assert float(entry["metrics"]["exactMatch"]) > 0.8
    assert float(entry["metrics"]["f1"]) >= float(entry["metrics"]["exactMatch"])


def test_the_served_model_answers_with_a_place_also_from_long_texts(tuned: tuple[Path, dict[str, Any]]) -> None:
    loaded = read_artifact(tuned[0])
    runtime = build_runtime(loaded)
    assert check_golden(runtime, loaded.manifest.golden, ValidationSection(golden="Required")) < 1e-5
    short = "In the year 1999 there was news. Grace Hopper owns the boat. It is well known."
    long = "It is well known. " * 20 + short + " There was news." * 20
    asked = {"question": as_bytes(["Who owns the boat?"] * 2), "context": as_bytes([short, long])}
    answers = runtime.predict(asked)
    assert answers["answer"][0] == b"Grace Hopper"
    for text, answer, start, end in zip([short, long], *(answers[n] for n in ("answer", "start", "end")), strict=True):
        assert text[start:end].encode() == answer
    assert 0 < answers["score"][1] <= 1
    alone = runtime.predict({name: values[1:] for name, values in asked.items()})
    np.testing.assert_allclose(alone["score"][0], answers["score"][1], rtol=1e-4)


def test_the_process_beside_the_server_explains_an_answer(tuned: tuple[Path, dict[str, Any]]) -> None:
    context = "In the year 1999 there was news. Grace Hopper owns the boat. It is well known."
    asked = {"question": "Who owns the boat?", "context": context}
    row = explained(read_artifact(tuned[0]), asked)
    assert row["target"] == "Grace Hopper"
    assert {piece["input"] for piece in row["attributions"]} == {"question", "context"}
    check_sum(row, [piece["attribution"] for piece in row["attributions"]])


def test_transformers_reads_the_artifact_and_answers_alike(tuned: tuple[Path, dict[str, Any]]) -> None:
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tuned[0]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned[0])
    question, context = "Who owns the boat?", "Alan owns the boat."
    inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    places = [place for place, sequence in enumerate(inputs.sequence_ids()) if sequence == 1]
    offsets = inputs.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = theirs(**inputs)
    begin, end = output.start_logits[0].log_softmax(dim=0), output.end_logits[0].log_softmax(dim=0)
    spans = {(a, b): float(begin[a] + end[b]) for a in places for b in places if a <= b}
    first, last = max(spans, key=lambda span: spans[span])
    answers = build_runtime(read_artifact(tuned[0])).predict(
        {"question": as_bytes([question]), "context": as_bytes([context])}
    )
    assert answers["answer"][0].decode() == context[offsets[first][0] : offsets[last][1]]
    assert float(answers["score"][0]) == pytest.approx(float(np.exp(spans[first, last])), rel=1e-4)


# The examples of SQuAD's own evaluation script and of transformers' documentation.
@pytest.mark.parametrize(
    ("answer", "truths", "exact", "f1"),
    [
        ("The Denver Broncos!", ["denver broncos"], 1, 1),
        ("Denver", ["Denver Broncos", "Broncos"], 0, 2 / 3),
        ("an apple a day", ["apple day keeps"], 0, 0.8),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
    ],
)
def test_scores_are_those_of_squad(answer: str, truths: list[str], exact: float, f1: float) -> None:
    assert exact_match(answer, truths) == exact
    assert overlap_f1(answer, truths) == pytest.approx(f1)


def test_windows_overlap_and_have_every_token_of_the_text() -> None:
    words = [f"word{n}" for n in range(60)]
    tokenizer = train_wordpiece(lambda: [" ".join(words)], 300, lowercase=True)
    context = " ".join(words)
    windows = read(reading_windows(tokenizer, 24, 6), "what is this " * 30, context)
    seen = {window.offsets[place] for window in windows for place in text_tokens(window)}
    assert all(len(window.ids) <= 24 for window in windows)
    assert {context[a:b] for a, b in seen} >= {"word"} or len(seen) >= 60
    starts = [window.offsets[text_tokens(window)[0]][0] for window in windows]
    assert starts == sorted(set(starts))


def test_the_best_span_is_ordered_short_enough_and_in_the_text() -> None:
    logits = np.zeros((6, 2), dtype=np.float32)
    logits[0] = 9  # the first token: no answer
    logits[4, 0], logits[2, 1], logits[5, 1], logits[2, 0] = 5, 5, 4, 4.5
    begins, ends = np.array([-1, 0, 3, 6, 9, 12]), np.array([-1, 2, 5, 8, 11, 14])
    window = Window(logits=logits, begins=begins, ends=ends)
    assert best_answer([window], 30, may_be_none=False).start == 3  # 4.5 + 5 at token 2 beats 5 + 4
    answer = best_answer([window], 30, may_be_none=True)
    assert (answer.start, answer.end) == (0, 0)
    logits[2, 1] = 0
    assert best_answer([window], 30, may_be_none=False).end == 14
    one = best_answer([window], 1, may_be_none=False)
    assert one.end - one.start == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", r"a\.json: is no SQuAD JSON \(data, paragraphs, qas, answers\): KeyError: 'data'"),
        ("a.json", "no json", r"a\.json: is no SQuAD JSON"),
        ("a.jsonl", '{"question": "q", "context": "c", "answers": []}', r"a\.jsonl:1: answers must be an object"),
        (
            "a.jsonl",
            '{"question": "q", "context": "Ada", "answers": {"text": ["Ada"], "answer_start": [1]}}',
            r"a\.jsonl:1: the answer 'Ada' is not at answer_start 1; there is 'da'",
        ),
        (
            "a.jsonl",
            '{"question": "q", "context": "Ada", "answers": {"text": ["Ada"], "answer_start": ["x"]}}',
            r"a\.jsonl:1: an answer must have a text and a whole number",
        ),
        (
            "a.jsonl",
            '{"question": " ", "context": "c", "answers": {"text": [], "answer_start": []}}',
            "question must be",
        ),
        ("a.json", json.dumps(squad(range(1))), "no question is left to"),
    ],
)
def test_unusable_questions_are_explained(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    config = configuration("question-answering", tmp_path / "out", (tmp_path / name).as_uri(), PARAMETERS)
    with pytest.raises(DataError, match=message):
        run(config)
