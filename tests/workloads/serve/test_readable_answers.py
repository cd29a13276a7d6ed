"""Every bundled task over KServe's v1 protocol, as docs/serving/json.md describes it: plain JSON in, plain JSON out."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelyard_workloads.data.wordpiece import SPECIAL, vocabulary_tokenizer
from modelyard_workloads.models.bert import BertClassifier, BertConfig, BertPretraining, BertTagger
from modelyard_workloads.serve.image_classification import ImageClassification
from modelyard_workloads.serve.runtimes import Runtime
from modelyard_workloads.serve.text import TextRuntime
from modelyard_workloads.tasks.bert_answers import TextClassifier
from modelyard_workloads.tasks.bert_inference import PretrainedBert
from modelyard_workloads.tasks.bert_questions import Answerer
from modelyard_workloads.tasks.bert_spans import Tagger
from PIL import Image
from servers.artifacts import LABELS, image_artifact, lively
from servers.inprocess import MODEL, Running, running

PAGE = (Path(__file__).parents[3] / "docs/serving/json.md").read_text()
WORDS = "the film was wonderful and so were all of its actors in paris said ada who ?"
LINES = [*SPECIAL, *WORDS.split()]
TOKENIZER = vocabulary_tokenizer(LINES, "words", lowercase=True)
BERT = BertConfig(vocabulary=len(LINES), context=32, layers=2, width=32, heads=2, inner=64)
READING = {"length": 16, "stride": 4, "answerLength": 4, "mayBeNone": False}


def classes() -> Runtime:
    model = TextClassifier(lively(BertClassifier(BERT, 2)), TOKENIZER, ["bad", "good"], 32, pairs=False)
    return TextRuntime("text-classification", model)


def tags() -> Runtime:
    model = Tagger(lively(BertTagger(BERT, 3)), TOKENIZER, ["O", "B-PER", "B-LOC"], 16)
    return TextRuntime("token-classification", model)


def answers() -> Runtime:
    return TextRuntime("question-answering", Answerer(lively(BertTagger(BERT, 2)), TOKENIZER, READING))


def masks() -> Runtime:
    model = PretrainedBert(lively(BertPretraining(BERT, next_sentence=True)), TOKENIZER)
    return TextRuntime("bert-pretraining", model)


def predict(server: Running, *instances: Any) -> list[Any]:
    reply = server.infer({"instances": instances}, path=f"/v1/models/{MODEL}:predict")
    assert reply.status == 200, reply.body
    found: list[Any] = reply.json()["predictions"]
    assert len(found) == len(instances)
    return found


def kinds(value: Any) -> Any:
    """What a reader of JSON can rely on: names, nesting and types."""
    if isinstance(value, dict):
        return {name: kinds(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return type(value)


def documented(task: str) -> tuple[Any, Any]:
    """The instance and the prediction that the page shows for a task."""
    found = re.search(rf"## {task}\n.*?```json\n(.*?)```", PAGE, re.DOTALL)
    assert found, task
    instance, prediction = found[1].split("\n->")
    return json.loads(instance), json.loads(prediction)


@pytest.mark.parametrize("make", [classes, tags, answers, masks])
def test_the_answer_has_the_form_that_the_page_shows(make: Callable[[], Runtime]) -> None:
    runtime = make()
    instance, prediction = documented(runtime.task)
    with running(runtime) as server:
        (found,) = predict(server, instance)
    assert kinds(found) == kinds(prediction)


def test_a_text_may_stand_for_its_object() -> None:
    with running(classes()) as server:
        assert predict(server, "the film was wonderful") == predict(server, {"text": "the film was wonderful"})


def test_tensors_keep_the_text_of_what_is_json() -> None:
    with running(tags()) as server:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["ada in paris"]}
        outputs = server.infer({"inputs": [tensor]}).json()["outputs"]
        (row,) = predict(server, "ada in paris")
    (text,) = next(output["data"] for output in outputs if output["name"] == "entities")
    assert json.loads(text) == row["entities"]


def test_the_best_classes_are_named_for_whoever_asks(tmp_path: Path) -> None:
    runtime = ImageClassification(image_artifact(tmp_path))
    with running(runtime) as server:
        pixels = np.random.default_rng(6).random((2, *runtime.inputs[0].shape[1:])).astype(np.float32).tolist()
        plain = predict(server, *pixels)
        asked = {"instances": pixels, "parameters": {"top_k": 2}}
        rows = server.infer(asked, path=f"/v1/models/{MODEL}:predict").json()["predictions"]
        every = server.infer({**asked, "parameters": {"top_k": 999}}, path=f"/v1/models/{MODEL}:predict").json()
    for row, before in zip(rows, plain, strict=True):
        first, second = row.pop("classes")
        assert row == before, "nothing else changes"
        assert (first["label"], first["score"]) == (row["label"], max(row["probabilities"]))
        assert second["score"] == sorted(row["probabilities"])[-2]
    assert {entry["label"] for entry in every["predictions"][0]["classes"]} == set(LABELS)


@pytest.mark.parametrize(
    ("make", "parameters", "message"),
    [
        (classes, {"top_k": 0}, "parameters.top_k must be a number of classes, 1 to 2, got 0"),
        (classes, {"top_k": "3"}, "parameters.top_k must be a number of classes, 1 to 2"),
        (classes, {"topk": 3}, "is unknown; there is top_k"),
        (classes, [3], "parameters must be an object"),
        (masks, {"top_k": 3}, "the model's answers are no classes with names; leave it out"),
        (tags, {"top_k": 3}, "the model's answers are no classes with names; leave it out"),
    ],
)
def test_best_classes_that_cannot_be_named_are_refused(
    make: Callable[[], Runtime], parameters: Any, message: str
) -> None:
    with running(make()) as server:
        asked = {"instances": ["the film"], "parameters": parameters}
        reply = server.infer(asked, path=f"/v1/models/{MODEL}:predict")
    assert reply.status == 400 and message in reply.error


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_file_of_a_picture_is_classified_in_both_protocols(tmp_path: Path, form: str) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8)).save(out, form)
    with Image.open(io.BytesIO(out.getvalue())) as picture:
        pixels = (np.asarray(picture, dtype=np.float32) / 255)[None]
    file = {"b64": base64.b64encode(out.getvalue()).decode()}
    with running(ImageClassification(image_artifact(tmp_path))) as server:
        numbers, named = predict(server, pixels.tolist())[0], predict(server, {"image": file}, file)
        for row in named:
            assert row["label"] == numbers["label"] == LABELS[int(np.argmax(row["probabilities"]))]
            np.testing.assert_allclose(row["probabilities"], numbers["probabilities"], rtol=1e-4, atol=1e-6)
        size = len(out.getvalue())
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size + 4}}
        head = json.dumps({"inputs": [tensor]}).encode()
        body = head + size.to_bytes(4, "little") + out.getvalue()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        reply = server.call("POST", f"/v2/models/{MODEL}/infer", body, headers)
    assert reply.status == 200, reply.body
    outputs = {output["name"]: output["data"] for output in reply.json()["outputs"]}
    np.testing.assert_allclose(outputs["probabilities"], numbers["probabilities"], rtol=1e-4, atol=1e-6)
    assert kinds(numbers) == kinds(documented("image-classification")[1])
