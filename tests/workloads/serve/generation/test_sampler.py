"""Tokens by chance: the right odds, the right sets, and a request's tokens whoever else is in the batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from modelyard_workloads.serve.generation.sampler import choose, log_probabilities, uniform
from modelyard_workloads.serve.generation.sequences import Piece, Sampling, Sequence
from servers import language

LOGITS = torch.log(torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]))


def sequence(prompt: list[int] | None = None, generated: list[int] | None = None, **sampling: Any) -> Sequence:
    made = Sequence(1, prompt or [0], Sampling(**{"max_tokens": 100, **sampling}))
    made.tokens += generated or []
    return made


def draws(count: int = 4000, **sampling: Any) -> Counter[int]:
    """How often each token is chosen, over seeds."""
    return Counter(choose(LOGITS.repeat(count, 1), [sequence(seed=seed, **sampling) for seed in range(count)]))


def shares(counts: Counter[int]) -> list[float]:
    return [counts[token] / counts.total() for token in range(5)]


def test_tokens_come_with_their_probabilities() -> None:
    assert shares(draws()) == pytest.approx([0.4, 0.3, 0.15, 0.1, 0.05], abs=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    squared = torch.softmax(LOGITS * 2, 0).tolist()
    assert shares(draws(temperature=0.5)) == pytest.approx(squared, abs=0.03)
    assert draws(100, temperature=0) == {0: 100}
    assert draws(100, temperature=1e-6) == {0: 100}


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"top_p": 1e-9}, {0}),
        ({"min_p": 0.3}, {0, 1, 2}),
        ({"top_k": 3, "top_p": 0.5}, {0, 1}),
        ({"min_p": 0.5, "top_p": 0.99}, {0, 1}),
        ({"logit_bias": {0: -100.0, 4: -100.0}}, {1, 2, 3}),
        ({"logit_bias": {3: 100.0}}, {3}),
        ({"stop_tokens": frozenset({0, 1}), "min_tokens": 1}, {2, 3, 4}),
    ],
)
def test_only_the_allowed_tokens_are_chosen(sampling: dict[str, Any], allowed: set[int]) -> None:
    counts = draws(2000, **sampling)
    assert counts.keys() == allowed
    kept = torch.zeros(5)
    kept[list(allowed)] = LOGITS.exp()[list(allowed)]
    if "logit_bias" not in sampling or 3 not in sampling["logit_bias"]:
        assert shares(counts) == pytest.approx((kept / kept.sum()).tolist(), abs=0.05)


def test_penalties_are_those_of_their_sources() -> None:
    def logits_of(**sampling: Any) -> torch.Tensor:
        logits = torch.tensor([[2.0, 1.0, -1.0, 0.5]])
        choose(logits, [sequence([0, 2], [1, 1, 0], temperature=0, **sampling)])
        return logits[0]

    assert logits_of(presence_penalty=0.5).tolist() == pytest.approx([1.5, 0.5, -1, 0.5])
    assert logits_of(frequency_penalty=0.5).tolist() == pytest.approx([1.5, 0, -1, 0.5])
    assert logits_of(repetition_penalty=2.0).tolist() == pytest.approx([1, 0.5, -2, 0.5])


def test_random_numbers_are_uniform_and_differ_by_seed_and_place() -> None:
    numbers = [uniform(seed, place) for seed in range(100) for place in range(100)]
    assert len(set(numbers)) == 10_000
    assert all(0 <= number < 1 for number in numbers)
    tenths = Counter(int(number * 10) for number in numbers)
    assert all(abs(count - 1000) < 150 for count in tenths.values())
    neighbours = [(uniform(s, 5) - 0.5) * (uniform(s + 1, 5) - 0.5) for s in range(5000)]
    assert abs(sum(neighbours) / 5000) < 0.01


def test_log_probabilities_name_the_token_and_the_best() -> None:
    entry = log_probabilities(LOGITS.unsqueeze(0), [4], [2])[0]
    assert entry.token == 4
    assert entry.logprob == pytest.approx(LOGITS[4].item())
    assert [token for token, _ in entry.top] == [0, 1]
    assert [value for _, value in entry.top] == pytest.approx(LOGITS[:2].tolist())
    assert log_probabilities(LOGITS.unsqueeze(0), [4], [0])[0].top == ()


def test_a_seeded_request_gives_the_same_tokens_in_any_company() -> None:
    decoder = language.model()
    sampling = Sampling(max_tokens=30, seed=11, temperature=0.9, top_p=0.9)

    def tokens(pieces: list[Piece]) -> list[int | None]:
        return [piece.token for piece in pieces]

    alone = tokens(language.engine(decoder).run([Sequence(1, [1, 2, 3], sampling)])[1])
    company = [
        Sequence(2, [9] * 40, Sampling(max_tokens=40, seed=3)),
        Sequence(1, [1, 2, 3], sampling),
        language.greedy(3, [5] * 10, 30),
        Sequence(4, [1, 2, 3], Sampling(max_tokens=30, seed=12, temperature=0.9, top_p=0.9)),
    ]
    engine = language.engine(decoder, blocks=8)
    results = engine.run(company)
    assert engine.scheduler.counts.preemptions
    assert tokens(results[1]) == alone
    assert tokens(results[4]) != alone


def test_a_prompts_log_probabilities_are_those_of_the_plain_model() -> None:
    decoder = language.model()
    prompt = list(range(7, 90))
    with torch.inference_mode():
        expected = torch.log_softmax(decoder(torch.tensor([prompt]))[0], dim=-1)
    engine = language.engine(decoder, max_step_tokens=10)
    engine.run([language.greedy(0, prompt, 1)])  # known now: it must be computed again all the same
    scored = Sequence(1, prompt, Sampling(max_tokens=0, prompt_logprobs=1))
    engine.run([scored])
    assert len(scored.prompt_logprobs) == len(prompt) - 1
    for place, entry in enumerate(scored.prompt_logprobs):
        assert entry.token == prompt[place + 1]
        assert entry.logprob == pytest.approx(expected[place, prompt[place + 1]].item(), abs=1e-4)
        assert entry.top[0][0] == int(expected[place].argmax())
