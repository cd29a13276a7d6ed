"""Clients that leave, queues that are full, time that is over, steps that fail: nobody else notices, nothing leaks."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from modelyard_workloads.serve.errors import InvalidInput, Saturated
from modelyard_workloads.serve.generation.admission import Admission
from modelyard_workloads.serve.generation.sequences import Piece
from servers import language
from servers.inprocess import MODEL, Running, configure, eventually, running

LONG = {"model": MODEL, "prompt": "once", "max_tokens": 100, "temperature": 0, "ignore_eos": True}


@contextmanager
def serving(decoder: language.GatedDecoder, limits: dict[str, Any] | None = None, **engine: int) -> Iterator[Running]:
    runtime = language.runtime(decoder, **engine)
    with running(runtime, configure(limits=limits or {})) as server:
        yield server
        assert runtime.engine.idle
        runtime.engine.pool.check([])


def post(server: Running, body: dict[str, Any], path: str = "/v1/completions") -> Any:
    return server.call("POST", path, json.dumps(body).encode())


def metric(server: Running, name: str) -> float:
    lines = server.call("GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_gives_its_blocks_back(stream: bool) -> None:
    decoder = language.gated()
    with serving(decoder) as server:
        decoder.gate.clear()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps({**LONG, "stream": stream}))
        eventually(lambda: metric(server, "vllm:num_requests_running") == 1)
        steps = decoder.steps
        assert connection.sock is not None
        connection.sock.close()
        connection.close()
        eventually(lambda: metric(server, 'vllm:request_success_total{engine="0",finished_reason="abort"') == 1)
        decoder.gate.set()
        eventually(lambda: metric(server, "vllm:num_requests_running") == 0)
        eventually(lambda: metric(server, "vllm:kv_cache_usage_perc") == 0)
        assert decoder.steps <= steps + 3  # not the hundred that were asked for
        assert post(server, {**LONG, "max_tokens": 3}).status == 200


def test_a_full_queue_says_when_to_come_again() -> None:
    decoder = language.gated()
    with serving(decoder, {"maxQueue": 2}, max_sequences=1) as server:
        decoder.gate.clear()
        answers: list[Any] = []
        clients = [threading.Thread(target=lambda: answers.append(post(server, LONG))) for _ in range(3)]
        for number, client in enumerate(clients):
            client.start()
            eventually(lambda number=number: server.plane.queue_depth == number and server.traffic.in_flight > number)
        refused = post(server, LONG)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        other = post(server, {"text_input": "x"}, f"/v2/models/{MODEL}/generate")
        assert (other.status, other.headers["retry-after"]) == (503, "1")
        decoder.gate.set()
        for client in clients:
            client.join(120)
        assert [answer.status for answer in answers] == [200] * 3
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1


def test_a_prompt_that_would_wait_too_long_is_told_to_come_again() -> None:
    decoder = language.gated()
    with serving(decoder, {"maxWaitSeconds": 1e-6}, max_sequences=1) as server:
        assert post(server, LONG).status == 200, "nothing is known yet of how long an answer takes"
        decoder.gate.clear()
        answers: list[Any] = []
        clients = [threading.Thread(target=lambda: answers.append(post(server, LONG))) for _ in range(2)]
        for number, client in enumerate(clients):  # one computes, one waits behind nobody
            client.start()
            eventually(
                lambda number=number: server.plane.queue_depth == number and server.traffic.in_flight > number, 120
            )
        refused = post(server, LONG)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1"), refused.body
        assert "too long" in refused.json()["error"]["message"]
        decoder.gate.set()
        for client in clients:
            client.join(120)
        assert [answer.status for answer in answers] == [200] * 2
        assert post(server, LONG).status == 200


def test_the_expected_wait_is_the_time_until_places_come_free() -> None:
    admission = Admission(max_queue=10, max_wait=3)
    assert admission.expected_wait(5, 2, 2, left_waiting=True) == 0, "nothing has ended yet"
    for seconds in (1, 3):
        admission.ended(seconds)
    assert admission.expected_wait(0, 4, 4, left_waiting=False) == 0
    assert admission.expected_wait(3, 1, 4, left_waiting=False) == 0, "three places are free"
    assert admission.expected_wait(6, 2, 4, left_waiting=False) == 4 * 2 / 4
    assert admission.expected_wait(6, 2, 4, left_waiting=True) == 6 * 2 / 2, "the cache is full before the places are"
    admission.check(1, 9, 3.0)
    with pytest.raises(Saturated, match="too long"):
        admission.check(1, 0, 3.1)
    with pytest.raises(Saturated, match="full"):
        admission.check(2, 9, 0)
    with pytest.raises(InvalidInput, match="fewer prompts"):
        admission.check(11, 0, 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": MODEL, "prompt": ["a", "b", "c"], "max_tokens": 2}),
        ("/v1/completions", {"model": MODEL, "prompt": "a", "n": 3, "max_tokens": 2}),
    ],
)
def test_a_request_that_could_never_wait_is_told_what_to_send(path: str, body: dict[str, Any]) -> None:
    with serving(language.gated(), {"maxQueue": 2}) as server:
        refused = post(server, body, path)
        assert refused.status == 400
        assert "asks for 3 answers (prompts times n), at most 2 may wait" in refused.json()["error"]["message"]
        bearable = {**body, "prompt": "a", "n": 2, "temperature": 0}  # at 1 chance says POISON, now and then
        assert post(server, bearable, path).status == 200


def test_the_times_of_a_request_are_told_in_vllms_words() -> None:
    with serving(language.gated()) as server:
        assert post(server, {**LONG, "max_tokens": 3}).status == 200
        text = server.call("GET", "/metrics").body.decode()
    for name in ("queue", "prefill", "decode", "inference"):
        assert f"vllm:request_{name}_time_seconds_count" in text, name
    assert 'vllm:lora_requests_info{max_lora="0",running_lora_adapters="",waiting_lora_adapters=""} 1.0' in text


def test_time_that_is_over_ends_a_request_and_its_computation() -> None:
    decoder = language.gated()
    with serving(decoder, {"timeoutSeconds": 0.3}) as server:
        assert post(server, {**LONG, "max_tokens": 2}).status == 200
        decoder.gate.clear()
        whole = post(server, LONG)
        assert whole.status == 504
        assert whole.json()["error"]["code"] == "timeout"
        streamed = post(server, {**LONG, "stream": True})
        assert streamed.status == 200  # it had begun
        events = [line.removeprefix("data: ") for line in streamed.body.decode().split("\n\n") if line]
        assert json.loads(events[-1])["error"]["code"] == "timeout"
        decoder.gate.set()
        eventually(lambda: metric(server, "vllm:num_requests_running") == 0)


def test_a_step_that_fails_fails_only_those_that_fail_alone() -> None:
    decoder = language.gated()
    engine = language.engine(decoder)
    plain = language.model()
    sequences = [
        language.greedy(1, [1, 2, 3], 8),
        language.greedy(2, [4, language.POISON, 5], 8),
        language.greedy(3, [6, 7], 8),
    ]
    pieces = engine.run(sequences)
    assert pieces[2] == [Piece(2, finish="error")]
    for key, prompt in ((1, [1, 2, 3]), (3, [6, 7])):
        assert [piece.token for piece in pieces[key]] == language.plain(plain, prompt, 8)
    engine.pool.check([])


def test_a_poisoned_request_is_a_server_error_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    decoder = language.gated()
    with serving(decoder) as server:
        refused = post(server, {**LONG, "prompt": [1, language.POISON]})
        assert refused.status == 500
        assert "poison" not in refused.body.decode()
        assert "poison in tensor" not in caplog.text, "the place is told, and not what was there"
        assert "language.py" in caplog.text
        assert post(server, {**LONG, "max_tokens": 3, "prompt": [1, 2]}).status == 200


def test_before_the_model_is_loaded_clients_are_told_to_wait() -> None:
    with running(None) as server:
        reply = post(server, {**LONG, "model": MODEL})
        assert (reply.status, reply.json()["error"]["code"]) == (503, "model_not_ready")
        assert reply.headers["retry-after"] == "1"


def test_models_of_other_tasks_say_where_to_ask() -> None:
    from servers.rows import RowModel

    with running(RowModel()) as server:
        reply = post(server, LONG)
        assert reply.status == 400
        assert f"/v2/models/{MODEL}/infer" in reply.json()["error"]["message"]
        assert post(server, {"text_input": "x"}, f"/v2/models/{MODEL}/generate").status == 400
        embedded = post(server, {"model": MODEL, "input": "x"}, "/v1/embeddings")
        assert embedded.status == 400
        assert "no embeddings" in embedded.json()["error"]["message"]
