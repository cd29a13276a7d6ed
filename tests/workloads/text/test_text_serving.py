"""Text models behind the server: the training's answers, one row like another, unusable texts refused in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.data.wordpiece import read_tokenizer
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.golden import check_golden
from modelyard_workloads.serve.runtimes import Runtime, build_runtime
from modelyard_workloads.tasks.bert_inference import as_bytes
from servers.explained import check_sum, explained
from servers.inprocess import MODEL, Running, configure, running


@pytest.fixture(scope="module")
def pretrained(trained: tuple[Path, dict[str, Any]]) -> Runtime:
    return build_runtime(read_artifact(trained[0]))


@pytest.fixture(scope="module")
def server(pretrained: Runtime) -> Iterator[Running]:
    with running(pretrained, configure()) as running_server:
        yield running_server


def test_the_golden_answers_are_reproduced(trained: tuple[Path, dict[str, Any]], pretrained: Runtime) -> None:
    golden = read_artifact(trained[0]).manifest.golden
    names = {value.name for value in golden[0].outputs}
    assert names == {"scores", "next_probability", "embedding"}
    assert check_golden(pretrained, golden, ValidationSection(golden="Required")) < 1e-5


def test_every_text_is_answered_alike_alone_and_among_others(pretrained: Runtime) -> None:
    texts = ["The [MASK] statement", "one", "Names [MASK] to objects, [MASK] of the two are not", "a b c d e f g " * 3]
    following = ["is used", "", "and it goes on", "x"]
    together = pretrained.predict({"text": as_bytes(texts), "next_text": as_bytes(following)})
    for index, (text, after) in enumerate(zip(texts, following, strict=True)):
        alone = pretrained.predict({"text": as_bytes([text]), "next_text": as_bytes([after])})
        for name in ("scores", "embedding", "next_probability"):
            np.testing.assert_allclose(alone[name][0], together[name][index], rtol=1e-5, atol=1e-5)
    assert [len(json.loads(text)) for text in together["masks"]] == [1, 0, 2, 0]
    assert together["next_probability"][1] == 0
    assert b"[MASK]" not in together["filled"][2]


def infer(server: Running, **texts: list[str]) -> Any:
    inputs = [{"name": n, "datatype": "BYTES", "shape": [len(v)], "data": v} for n, v in texts.items()]
    return server.infer({"inputs": inputs})


def test_masks_are_filled_over_http_and_the_next_text_may_be_left_out(server: Running) -> None:
    answer = infer(server, text=["The [MASK] statement"]).json()
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert len(outputs["tokens"]) == len(outputs["scores"]) == 5
    assert outputs["scores"] == sorted(outputs["scores"], reverse=True)
    assert outputs["filled"][0] == f"the {outputs['tokens'][0].removeprefix('##')} statement".replace("  ", " ")
    assert json.loads(outputs["masks"][0])[0][0]["token"] == outputs["tokens"][0]
    assert len(outputs["embedding"]) == 128
    reply = server.call("POST", f"/v1/models/{MODEL}:predict", b'{"instances": ["The [MASK] statement"]}')
    assert reply.json()["predictions"][0]["tokens"] == outputs["tokens"]


def test_openais_client_gets_the_embeddings(server: Running, pretrained: Runtime) -> None:
    texts = ["The statement", "another one"]
    expected = pretrained.predict({"text": as_bytes(texts), "next_text": as_bytes(["", ""])})["embedding"]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        for asked in ({}, {"encoding_format": "float"}):
            reply = client.embeddings.create(model=MODEL, input=texts, **asked)  # type: ignore[arg-type]
            got = np.array([entry.embedding for entry in reply.data])
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(openai.BadRequestError, match="does not generate text"):
            client.completions.create(model=MODEL, prompt="x")


def test_embeddings_of_tokens_are_those_of_their_text_and_tokens_are_counted(
    server: Running, trained: tuple[Path, dict[str, Any]]
) -> None:
    tokenizer = read_tokenizer(trained[0])
    texts = ["The statement isn't (quite) done", "another one"]
    bare, whole = ([tokenizer.encode(t, add_special_tokens=special).ids for t in texts] for special in (False, True))
    unknown = tokenizer.get_vocab_size(with_added_tokens=True)
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:

        def embedded(given: Any) -> Any:
            return client.embeddings.create(model=MODEL, input=given)

        by_text = embedded(texts)
        for tokens in (bare, whole):
            by_tokens = embedded(tokens)
            assert by_tokens.usage == by_text.usage
            assert [e.embedding for e in by_tokens.data] == [e.embedding for e in by_text.data]
        assert embedded(bare[1]).data[0].embedding == embedded(texts[1]).data[0].embedding
        assert by_text.usage.prompt_tokens == by_text.usage.total_tokens == sum(map(len, whole))
        refused = {
            f"input 1: {unknown} is no token of this model; they are 0 to {unknown - 1}": [bare[0], [unknown]],
            "input 0: this model's tokenizer makes these tokens of no text": [tokenizer.token_to_id("##a")],
            "input: write a text, a list of texts": [],
        }
        for message, given in refused.items():
            with pytest.raises(openai.BadRequestError, match=re.escape(message)):
                embedded(given)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"text": [""]}, "input 'text': a text is empty; send at least one word"),
        ({"text": ["good", " \n"]}, "input 'text': a text is empty"),
        ({"text": ["word " * 200]}, "tokens with next_text, the model reads 32; send a shorter text"),
        ({"text": ["x" * 70_000]}, "a text has 70000 bytes, at most 65536 are read"),
        ({"text": ["a"], "next_text": ["b", "c"]}, "the first dimension is the batch"),
        ({"next_text": ["b"]}, "input 'text' is missing; the model takes BYTES [-1]"),
    ],
)
def test_unusable_texts_are_refused(server: Running, texts: dict[str, list[str]], message: str) -> None:
    reply = infer(server, **texts)
    assert reply.status == 400
    assert message in reply.error


def test_bytes_that_are_no_text_are_refused(server: Running) -> None:
    raw = b"\x02\x00\x00\x00\xff\xfe"
    head = json.dumps(
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}]}
    ).encode()
    reply = server.call(
        "POST", f"/v2/models/{MODEL}/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))}
    )
    assert reply.status == 400
    assert "a text is not UTF-8 (byte 0)" in reply.error


def test_the_process_beside_the_server_explains_a_mask(trained: tuple[Path, dict[str, Any]]) -> None:
    row = explained(read_artifact(trained[0]), "the [MASK] statement")
    check_sum(row, [piece["attribution"] for piece in row["attributions"]])
    assert "[MASK]" in [piece["token"] for piece in row["attributions"]]
