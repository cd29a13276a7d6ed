"""OpenAI's own client, unmodified, against a server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from modelyard_workloads.data.chat import DEFAULT_TEMPLATE, ChatTemplate
from modelyard_workloads.models.decoder import Decoder
from servers import language
from servers.process import ServerProcess, serve_config, serving

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return language.model()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    artifact = language.language_artifact(tmp_path_factory.mktemp("artifact"))
    config = serve_config(artifact, validation={"golden": "Required"}, generation={"kvCacheMemory": 4_000_000})
    with serving({**config, "model": {**config["model"], "name": "story"}}, tmp_path_factory.mktemp("s")) as process:
        process.wait_ready()
        yield process


@pytest.fixture(params=["/v1", "/openai/v1"])
def client(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with connect(server, request.param) as found:
        yield found


@pytest.fixture
def one(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with connect(server) as found:
        yield found


def connect(server: ServerProcess, prefix: str = "/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}{prefix}", api_key="none", max_retries=0, timeout=120)


def encode(text: str) -> list[int]:
    return language.codec().encode(text)


def greedy_text(decoder: Decoder, prompt: str, count: int) -> str:
    return language.codec().decode(language.plain(decoder, encode(prompt), count))


def scores(decoder: Decoder, tokens: list[int]) -> list[float]:
    """The log-likelihood of each token but the first, computed directly."""
    with torch.inference_mode():
        logits = decoder(torch.tensor([tokens]))[0]
    normalised = torch.log_softmax(logits[:-1], dim=-1)
    return [normalised[place, token].item() for place, token in enumerate(tokens[1:])]


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["story"]
    assert client.models.retrieve("story").owned_by == "modelyard"


def test_a_completion_is_the_models_most_probable_text(client: openai.OpenAI, decoder: Decoder) -> None:
    reply = client.completions.create(model="story", prompt=PROMPT, max_tokens=20, temperature=0)
    assert reply.choices[0].text == greedy_text(decoder, PROMPT, 20)
    assert reply.choices[0].finish_reason == "length"
    assert reply.object == "text_completion"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (16, 20, 36)


def test_a_stream_has_the_same_text_and_ends_with_the_usage(client: openai.OpenAI, decoder: Decoder) -> None:
    chunks = list(
        client.completions.create(
            model="story",
            prompt=PROMPT,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == greedy_text(decoder, PROMPT, 20)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_asynchronous_client_streams_several_at_a_time(server: ServerProcess, decoder: Decoder) -> None:
    url = f"http://127.0.0.1:{server.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:

        async def ask(prompt: str) -> str:
            stream = await client.completions.create(
                model="story", prompt=prompt, max_tokens=25, temperature=0, stream=True
            )
            return "".join([choice.text async for chunk in stream for choice in chunk.choices])

        prompts = [f"{number} little pigs" for number in range(24)]
        answers = await asyncio.gather(*map(ask, prompts))
    assert answers == [greedy_text(decoder, prompt, 25) for prompt in prompts]


def test_prompts_may_be_tokens_and_many(one: openai.OpenAI, decoder: Decoder) -> None:
    texts = ["first prompt", "second one"]
    tokens = [encode(text) for text in texts]
    for prompts in (texts, tokens):
        reply = one.completions.create(model="story", prompt=prompts, max_tokens=8, temperature=0)
        assert [choice.index for choice in reply.choices] == [0, 1]
        assert [choice.text for choice in reply.choices] == [greedy_text(decoder, text, 8) for text in texts]
    single = one.completions.create(model="story", prompt=tokens[0], max_tokens=8, temperature=0)
    assert single.choices[0].text == reply.choices[0].text


@pytest.mark.parametrize("extra", [0, 1])
def test_echoed_log_likelihoods_are_those_of_a_direct_computation(
    one: openai.OpenAI, decoder: Decoder, extra: int
) -> None:
    """What lm-eval's local-completions asks, and how it reads the answer."""
    texts = ["The context. The continuation", "Another, shorter one"]
    rows = [encode(text) for text in texts]
    reply = one.completions.create(
        model="story", prompt=rows, max_tokens=extra, temperature=0, logprobs=1, echo=True, seed=1234
    )
    for choice, tokens, text in zip(reply.choices, rows, texts, strict=True):
        found = choice.logprobs
        assert found is not None
        assert found.tokens is not None
        assert found.token_logprobs is not None
        assert found.top_logprobs is not None
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(tokens) + extra
        assert found.token_logprobs[0] is None
        expected = scores(decoder, tokens)
        context = 12
        mine = sum(found.token_logprobs[context : len(tokens)])
        assert math.isclose(mine, sum(expected[context - 1 :]), abs_tol=1e-4)
        with torch.inference_mode():
            best = decoder(torch.tensor([tokens]))[0].argmax(dim=-1).tolist()
        for place in range(1, len(tokens)):
            top: Any = found.top_logprobs[place]
            assert (found.token_logprobs[place] == max(top.values())) == (best[place - 1] == tokens[place])
        assert "".join(found.tokens[: len(tokens)]) == text
        assert choice.text.startswith(text)


def test_log_probabilities_of_the_answer(one: openai.OpenAI, decoder: Decoder) -> None:
    prompt = encode(PROMPT)
    answer = language.plain(decoder, prompt, 6)
    expected = scores(decoder, prompt + answer)[len(prompt) - 1 :]
    reply = one.completions.create(model="story", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3)
    found = reply.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs == pytest.approx(expected, abs=1e-4)
    assert all(len(top) == 3 for top in found.top_logprobs or ())
    chat = one.chat.completions.create(
        model="story",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=5,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in logprobs.content)


def test_a_chat_is_the_template_and_its_continuation(client: openai.OpenAI, decoder: Decoder) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]},
    ]
    plain_messages = [messages[0], {"role": "user", "content": "Who are you?"}]
    prompt = ChatTemplate(DEFAULT_TEMPLATE, end_token=language.END).render(plain_messages, answer_follows=True)
    expected = greedy_text(decoder, prompt, 15)
    reply = client.chat.completions.create(model="story", messages=messages, max_completion_tokens=15, temperature=0)
    assert reply.choices[0].message.content == expected
    assert reply.choices[0].message.role == "assistant"
    chunks = list(
        client.chat.completions.create(model="story", messages=messages, max_tokens=15, temperature=0, stream=True)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "length"


def test_choices_differ_and_a_seed_repeats_them(one: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str]:
        reply = one.completions.create(
            model="story", prompt=PROMPT, max_tokens=12, n=3, seed=seed, temperature=1.0, top_p=0.95
        )
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == 16
        return [choice.text for choice in reply.choices]

    first = ask(7)
    assert len(set(first)) == 3
    assert ask(7) == first
    assert ask(8) != first


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI, decoder: Decoder) -> None:
    text = greedy_text(decoder, PROMPT, 30)
    stop = text[10:13]
    reply = client.completions.create(model="story", prompt=PROMPT, max_tokens=30, temperature=0, stop=[stop])
    assert reply.choices[0].text == text[: text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    stream = client.completions.create(
        model="story", prompt=PROMPT, max_tokens=30, temperature=0, stop=stop, stream=True
    )
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == text[: text.index(stop)]


def test_vllms_additions_work(one: openai.OpenAI, decoder: Decoder) -> None:
    first = language.plain(decoder, encode(PROMPT), 1)[0]

    def ask(**extra: Any) -> Any:
        return one.completions.create(model="story", prompt=PROMPT, max_tokens=10, temperature=0, extra_body=extra)

    assert ask(stop_token_ids=[first]).choices[0].text == ""
    assert ask(stop_token_ids=[first], min_tokens=4).usage.completion_tokens >= 4
    assert ask(ignore_eos=True).usage.completion_tokens == 10
    assert ask(top_k=1).choices[0].text == greedy_text(decoder, PROMPT, 10)


@pytest.mark.parametrize(
    ("fields", "status", "words", "param"),
    [
        ({"model": "nobody"}, 404, "this server has 'story'", None),
        ({"max_tokens": 500}, 400, "together the model takes at most 128", None),
        ({"temperature": -1}, 400, "temperature: Input should be greater than or equal to 0", "temperature"),
        ({"n": 0, "top_p": 3}, 400, "top_p: Input should be less than or equal to 1", "top_p"),
        ({"colour": "red"}, 400, "unrecognized request argument: 'colour'", "colour"),
        ({"suffix": "end"}, 400, "suffix is not supported", "suffix"),
        ({"best_of": 3}, 400, "best_of is not supported", None),
        ({"logit_bias": {"999": 1}}, 400, "999 is no token of this model", "logit_bias"),
        ({"prompt": []}, 400, "prompt: write a text", "prompt"),
        ({"prompt": ""}, 400, "the prompt is empty", None),
        ({"prompt": [1, 2, 999]}, 400, "999 is no token of this model", None),
        ({"prompt": 7}, 400, "prompt", "prompt"),
        ({"stop": [""]}, 400, "none of them empty", "stop"),
        ({"stream_options": {"include_usage": True}}, 400, "only for stream: true", None),
    ],
)
def test_errors_are_openais_and_say_what_to_write(
    server: ServerProcess, fields: dict[str, Any], status: int, words: str, param: str | None
) -> None:
    body = {"model": "story", "prompt": "hello", "max_tokens": 3} | fields
    got, reply = server.post("/v1/completions", body)
    assert got == status, reply
    assert set(reply) == {"error"}
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert words in reply["error"]["message"]
    assert reply["error"]["type"] == "invalid_request_error"
    assert reply["error"]["param"] == param


def test_fields_about_the_caller_are_accepted(one: openai.OpenAI) -> None:
    one.completions.create(model="story", prompt="x", max_tokens=1, user="me", extra_body={"metadata": {"a": "b"}})


def test_the_client_raises_its_own_errors(one: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        one.completions.create(model="nobody", prompt="x")
    with pytest.raises(openai.BadRequestError, match="gives no embeddings"):
        one.embeddings.create(model="story", input="text")
    with pytest.raises(openai.BadRequestError, match="not supported"):
        one.chat.completions.create(
            model="story",
            messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )


def test_generate_and_generate_stream_are_tritons(server: ServerProcess, decoder: Decoder) -> None:
    expected = greedy_text(decoder, PROMPT, 14)
    parameters = {"max_tokens": 14, "temperature": 0}
    path = "/v2/models/story/generate"
    status, reply = server.post(path, {"text_input": PROMPT, "parameters": parameters})
    assert (status, reply) == (200, {"model_name": "story", "model_version": "r1", "text_output": expected})
    status, reply = server.post(path, {"text_input": PROMPT, "exclude_input_in_output": False, **parameters})
    assert reply["text_output"] == PROMPT + expected
    body = server.text("/v2/models/story/versions/r1/generate_stream", {"text_input": PROMPT, **parameters})
    events = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line]
    assert "".join(event["text_output"] for event in events) == expected
    assert len(events) > 1
    status, reply = server.post(path, {"text_input": 5})
    assert (status, list(reply)) == (400, ["error"])
    status, reply = server.post(path, {"text_input": "x", "parameters": {"max_tokens": -1}})
    assert status == 400
    assert "max_tokens" in reply["error"]


def test_tensors_are_answered_too(server: ServerProcess, decoder: Decoder) -> None:
    texts = [PROMPT, "Other"]
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [2], "data": texts}
    status, reply = server.post("/v2/models/story/infer", {"inputs": [tensor]})
    assert status == 200
    assert reply["outputs"][0]["data"] == [greedy_text(decoder, text, 16) for text in texts]


def test_metrics_have_vllms_names_and_no_texts(server: ServerProcess, one: openai.OpenAI) -> None:
    one.completions.create(model="story", prompt="a secret prompt", max_tokens=3)
    text = server.text("/metrics")
    for name in (
        'num_requests_running{engine="0",model_name="story"} 0.0',
        'num_requests_waiting{engine="0",model_name="story"} 0.0',
        'kv_cache_usage_perc{engine="0",model_name="story"} 0.0',
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket",
        "time_per_output_token_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
        "prompt_tokens_total",
        "generation_tokens_total",
        'request_success_total{engine="0",finished_reason="length",model_name="story"}',
        "num_preemptions_total",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        'block_size="16"',
    ):
        assert name in text, name
    assert "secret" not in text
    assert 'modelyard_requests_total{code="200",model="story",protocol="openai",route="completions"}' in text


def test_the_metrics_of_all_servers_and_the_statistics_count_its_steps(
    server: ServerProcess, one: openai.OpenAI
) -> None:
    def counted() -> tuple[int, int, int, float]:
        stats = json.loads(server.text("/v2/models/story/stats"))["model_stats"][0]
        lines = dict(line.rsplit(" ", 1) for line in server.text("/metrics").splitlines() if line[0] != "#")
        assert float(lines['modelyard_inference_seconds_count{model="story"}']) == stats["execution_count"]
        assert sum(b["compute_infer"]["count"] for b in stats["batch_stats"]) == stats["execution_count"]
        waited = float(lines['modelyard_queue_seconds_count{model="story"}'])
        queued = stats["inference_stats"]["queue"]["count"]
        return stats["inference_count"], stats["execution_count"], queued, waited

    before = counted()
    one.completions.create(
        model="story", prompt=["a", "b"], max_tokens=5, temperature=0, extra_body={"ignore_eos": True}
    )
    inferences, steps, queued, waited = (after - old for after, old in zip(counted(), before, strict=True))
    assert (inferences, queued, waited) == (2, 2, 2)
    assert 5 <= steps <= 10  # both at a time, but for where one came first
