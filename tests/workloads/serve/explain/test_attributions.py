"""Explanations of every task, on small models: they account for the whole score, and find what decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import torch
from modelyard_workloads.data.features import Features
from modelyard_workloads.data.wordpiece import SPECIAL, vocabulary_tokenizer
from modelyard_workloads.models.bert import BertClassifier, BertConfig, BertPretraining, BertTagger
from modelyard_workloads.models.image_classifier import ImageClassifier
from modelyard_workloads.models.recommender import Recommender, RecommenderArchitecture
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.explain import entities, language, pretraining, questions
from modelyard_workloads.serve.explain.explainers import Explainer, build_explainer
from modelyard_workloads.serve.explain.explanation import Explanation, as_rows, as_tensors
from modelyard_workloads.serve.explain.gradients import MOST_STEPS, Effort, integrate
from modelyard_workloads.serve.explain.images import ImageExplainer
from modelyard_workloads.serve.explain.recommendation import RecommendationExplainer
from modelyard_workloads.serve.explain.text_classes import TextClassExplainer
from modelyard_workloads.serve.generation.runtime import load_decoder
from modelyard_workloads.tasks.bert_inference import as_bytes, pack_encodings
from servers.artifacts import image_artifact, lively
from servers.language import language_artifact
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = "the film was wonderful and so were all of its actors in Paris said Ada".lower().split()
LINES = [*SPECIAL, *WORDS]
TOKENIZER = vocabulary_tokenizer(LINES, "words", lowercase=True)
BERT = BertConfig(vocabulary=len(LINES), context=32, layers=2, width=32, heads=2, inner=64)
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
LENGTHS = {"length": 16, "stride": 4, "answerLength": 4, "mayBeNone": False}
TEXT = "the film was wonderful and so were its actors"


def explain(explainer: Explainer, row: int = 0, steps: int = 50, **arrays: Any) -> Explanation:
    given = {name: as_bytes(values) if isinstance(values, list) else values for name, values in arrays.items()}
    return explainer.explain(given, row, Effort(steps, monotonic() + 60))


def total(one: Explanation) -> float:
    return float(one.attributions.sum(dtype=np.float64))


def check_complete(one: Explanation) -> None:
    difference = one.output - one.baseline
    assert abs(difference) > 1e-3, "a test of nothing"
    assert abs(total(one) - difference) <= 0.01 * abs(difference)
    assert total(one) - difference == pytest.approx(one.delta, abs=1e-4)
    assert one.complete


def classifier() -> TextClassExplainer:
    return TextClassExplainer(lively(BertClassifier(BERT, 3)), TOKENIZER, ["bad", "fair", "good"], 32, pairs=False)


def of_pairs() -> Explanation:
    network = lively(BertClassifier(BERT, 2))
    explainer = TextClassExplainer(network, TOKENIZER, ["no", "yes"], 32, pairs=True)
    return explain(explainer, text=["the film was"], second_text=["wonderful"])


def of_masks() -> Explanation:
    network = lively(BertPretraining(BERT, next_sentence=True))
    return explain(pretraining.PretrainedExplainer(network, TOKENIZER), text=["the [MASK] was so"], next_text=[""])


def of_next_texts() -> Explanation:
    network = lively(BertPretraining(BERT, next_sentence=True))
    return explain(pretraining.PretrainedExplainer(network, TOKENIZER), text=["the film"], next_text=["was so"])


def of_entities() -> Explanation:
    return explain(entities.EntityExplainer(lively(BertTagger(BERT, 5)), TOKENIZER, TAGS, 16), text=[TEXT])


def of_entities_in_long_texts() -> Explanation:
    return explain(entities.EntityExplainer(lively(BertTagger(BERT, 5)), TOKENIZER, TAGS, 8), text=[" ".join(WORDS)])


def of_answers() -> Explanation:
    explainer = questions.AnswerExplainer(lively(BertTagger(BERT, 2)), TOKENIZER, LENGTHS)
    return explain(explainer, question=["was its film so"], context=[" ".join(WORDS)])


def of_clicks() -> Explanation:
    columns: dict[str, Any] = {"price": np.array([3.5], dtype=np.float32), "user": ["ada"], "country": ["fr"]}
    return explain(RecommendationExplainer(recommender(), FEATURES), **columns)


@pytest.mark.parametrize(
    "make",
    [
        lambda: explain(classifier(), text=[TEXT]),
        of_pairs,
        of_masks,
        of_next_texts,
        of_entities,
        of_entities_in_long_texts,
        of_answers,
        of_clicks,
    ],
    ids=["text", "pairs", "mask", "next text", "entity", "entity in windows", "answer", "click"],
)
def test_attributions_account_for_the_whole_difference(make: Callable[[], Explanation]) -> None:
    check_complete(make())


def test_those_of_pictures_do(tmp_path: Path) -> None:
    explainer = build_explainer(image_artifact(tmp_path))
    image = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)
    one = explain(explainer, image=image)
    check_complete(one)
    assert one.attributions.shape == (1, 8, 8)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_those_of_prompts_do(tmp_path: Path, family: Any) -> None:
    explainer = build_explainer(language_artifact(tmp_path, family=family))
    one = explain(explainer, text_input=["Once upon a time"])
    check_complete(one)
    assert one.features["token"] == list("Once upon a time")
    assert one.output < 0, "a log-likelihood"


FEATURES = Features(
    numeric={"price": "log"},
    categorical={"user": 50, "country": ["fr", "de"]},
    crosses=[["user", "country"]],
    cross_buckets=20,
)


def recommender(name: str = "deepfm") -> Recommender:
    torch.manual_seed(1)
    architecture = RecommenderArchitecture(
        name=name,
        categorical=2,
        numeric=1,
        deep_rows=FEATURES.deep_rows,
        wide_rows=FEATURES.wide_rows,
        embedding_dimension=4,
        hidden_units=[16],
        mean=[0.5],
        std=[2.0],
    )
    network = Recommender(architecture)
    for table in network.tables().values():
        nn.init.normal_(table.weight)
    return network.eval()


# What decides is planted: it must be found.


def test_the_pixel_that_decides_is_found() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2, bias=False))
    weight = torch.zeros(2, 3, 4, 4)
    weight[1, 2, 1, 3] = 5.0
    with torch.no_grad():
        network[1].weight.copy_(weight.flatten(1))  # type: ignore[operator]
    model = ImageClassifier(network, image_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    one = explain(ImageExplainer(model, ["no", "yes"]), image=np.full((1, 3, 4, 4), 0.9, dtype=np.float32))
    assert one.target == "yes"
    assert np.argwhere(np.abs(one.attributions) > 1e-6).tolist() == [[2, 1, 3]]
    assert one.attributions[2, 1, 3] == pytest.approx(5 * (0.9 - 0.5) / 0.25, rel=1e-4)


def test_the_token_that_decides_is_found() -> None:
    """A model that learned to tell texts with one word from those without it, and, as in pretraining, [MASK]."""
    network = BertClassifier(dataclasses.replace(BERT, layers=1, width=16, inner=16), 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    others = [word for word in WORDS if word != "wonderful"] + ["[MASK]"] * 10
    for _ in range(60):
        labels = torch.from_numpy(random.integers(0, 2, 32))
        texts = [[*random.choice(others, 6), *["wonderful"] * int(label)] for label in labels]
        rows = pack_encodings(TOKENIZER.encode_batch([" ".join(random.permutation(words)) for words in texts]))
        loss = nn.functional.cross_entropy(network(rows), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 0.05, "the model did not learn it"
    one = explain(TextClassExplainer(network, TOKENIZER, ["no", "yes"], 32, pairs=False), text=[TEXT])
    check_complete(one)
    assert one.target == "yes"
    tokens = list(one.features["token"])
    assert tokens[int(np.abs(one.attributions).argmax())] == "wonderful"
    start, end = (one.features[name][tokens.index("wonderful")] for name in ("start", "end"))
    assert TEXT[int(start) : int(end)] == "wonderful"


def test_the_column_that_decides_is_found() -> None:
    network = recommender("wide_deep")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        assert network.wide is not None
        network.wide.weight[50 + 2] = 2.0  # type: ignore[operator]  # behind the users and the unknown country: fr, de
    columns: dict[str, Any] = {
        "price": np.array([3.5] * 2, dtype=np.float32),
        "user": ["ada", "bob"],
        "country": ["fr", "de"],
    }
    one = explain(RecommendationExplainer(network, FEATURES), row=1, **columns)
    found = dict(zip(one.features["column"], one.attributions.tolist(), strict=True))
    assert found == {"price": 0, "user": 0, "country": pytest.approx(2), "user x country": 0}
    assert one.features["value"][2] == "de"


def test_the_token_of_a_prompt_that_decides_is_found(tmp_path: Path) -> None:
    """All letters are nearly what the baseline has, the token that ends a text; one is not."""
    decoder, spoken = load_decoder(language_artifact(tmp_path))
    with torch.no_grad():
        letters = decoder.embedding.weight[spoken.codec.encode("abcdefgh")]
        decoder.embedding.weight[spoken.codec.encode("abcdefgh")] = decoder.embedding.weight[256] + 0.01 * letters
    one = explain(language.LanguageExplainer(decoder, spoken, 256), text_input=["abcd!efgh"])
    check_complete(one)
    assert one.features["token"][int(np.abs(one.attributions).argmax())] == "!"
    assert abs(one.attributions[4]) > 0.8 * np.abs(one.attributions).sum()


def test_a_mask_stays_a_mask_and_adds_nothing() -> None:
    one = of_masks()
    place = list(one.features["token"]).index("[MASK]")
    assert one.attributions[place] == 0
    assert "[CLS]" not in one.features["token"]


def test_an_answer_is_the_one_that_serving_gives() -> None:
    from modelyard_workloads.tasks.bert_questions import Answerer

    network = lively(BertTagger(BERT, 2))
    asked: dict[str, Any] = {"question": as_bytes(["was its film so"]), "context": as_bytes([" ".join(WORDS)])}
    served = Answerer(network, TOKENIZER, LENGTHS)(asked)["answer"][0].decode()
    one = explain(questions.AnswerExplainer(network, TOKENIZER, LENGTHS), **asked)
    assert served and one.target == served
    assert set(one.features["input"]) == {"question", "context"}


def test_where_there_is_nothing_to_explain_the_message_says_what_to_write() -> None:
    explainer = pretraining.PretrainedExplainer(lively(BertPretraining(BERT, next_sentence=True)), TOKENIZER)
    with pytest.raises(InvalidInput, match=r"write \[MASK\] for a word, or send next_text"):
        explain(explainer, text=["the film"], next_text=[""])


def test_a_text_without_entities_shows_what_came_nearest() -> None:
    network = lively(BertTagger(BERT, 5))
    with torch.no_grad():
        network.classifier.bias[0] = 100
    one = explain(entities.EntityExplainer(network, TOKENIZER, TAGS, 16), text=[TEXT])
    assert one.target.startswith("no entity; nearest ")
    check_complete(one)


def test_points_are_added_until_the_sum_is_right_and_no_further() -> None:
    def steep(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(200 * (x.sum(dim=1) - 0.77))

    few = integrate(steep, (torch.ones(1, 2) / 2,), (torch.zeros(1, 2),), Effort(2, monotonic() + 60), together=64)
    assert few.steps > 2
    assert abs(few.delta) <= 0.01 * abs(few.output - few.baseline)

    def jump(x: torch.Tensor) -> torch.Tensor:
        return (x.sum(dim=1) > 0.77).float() + 0 * x.sum(dim=1)

    never = integrate(jump, (torch.ones(1, 2) / 2,), (torch.zeros(1, 2),), Effort(50, monotonic() + 60), together=999)
    assert MOST_STEPS / 2 < never.steps <= MOST_STEPS
    late = integrate(jump, (torch.ones(1, 2) / 2,), (torch.zeros(1, 2),), Effort(50, monotonic()), together=999)
    assert late.steps == 50


def test_rows_of_different_lengths_become_tensors_and_objects() -> None:
    explainer = classifier()
    rows = [explain(explainer, row=row, text=["the film", TEXT]) for row in range(2)]
    tensors = {tensor.name: tensor for tensor in as_tensors(rows)}
    assert {name: tensor.array.shape for name, tensor in tensors.items() if tensor.array.ndim > 1} == dict.fromkeys(
        ("attributions", "inputs", "tokens", "starts", "ends"), (2, 9)
    )
    assert tensors["tokens"].array[0, 2] == b"" and tensors["starts"].array[0, 2] == -1
    assert tensors["complete"].array.tolist() == [True, True]
    objects = as_rows(rows)
    assert [len(one["attributions"]) for one in objects] == [2, 9]
    assert set(objects[0]["attributions"][0]) == {"input", "token", "start", "end", "attribution"}
