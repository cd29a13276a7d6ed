"""Whatever the company, the order, the pieces, the preemptions and the cancellations: greedy tokens are those of a
plain loop, and every block comes back.
"""

from __future__ import annotations

import random
from typing import Literal

import pytest
from modelyard_workloads.models.decoder import Decoder
from modelyard_workloads.serve.errors import LoadFailure
from modelyard_workloads.serve.generation.engine import Engine
from modelyard_workloads.serve.generation.sequences import Piece, Sampling, Sequence
from servers import language

Family = Literal["gpt2", "llama"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    family: Family = request.param
    return language.model(family)


@pytest.fixture(scope="module")
def gpt2() -> Decoder:
    return language.model()


def tokens_of(pieces: list[Piece]) -> list[int]:
    return [piece.token for piece in pieces if piece.token is not None]


def tables(engine: Engine) -> list[object]:
    return [sequence.table for sequence in (*engine.scheduler.running, *engine.scheduler.waiting)]


def random_prompts(chance: random.Random, count: int) -> list[list[int]]:
    """Some of them begin alike, some have more tokens than a step takes."""
    common = [chance.randrange(256) for _ in range(40)]
    prompts = []
    for _ in range(count):
        own = [chance.randrange(256) for _ in range(chance.randint(1, 60))]
        prompts.append((common[: chance.choice([0, 0, 16, 33, 40])] + own)[:90])
    return prompts


def test_one_sequence_gives_the_tokens_of_the_plain_loop(decoder: Decoder) -> None:
    prompt = list(b"Once upon a time")
    pieces = language.engine(decoder).run([language.greedy(1, prompt, 60)])[1]
    assert tokens_of(pieces) == language.plain(decoder, prompt, 60)
    assert len(set(tokens_of(pieces))) > 10  # a model that repeats itself would agree by chance
    assert [piece.finish for piece in pieces] == [None] * 59 + ["length"]


@pytest.mark.parametrize("seed", range(12))
def test_any_mix_and_interleaving_gives_the_tokens_of_the_plain_loop(decoder: Decoder, seed: int) -> None:
    chance = random.Random(seed)
    engine = language.engine(
        decoder,
        blocks=chance.choice([8, 10, 14, 64]),  # the small ones force preemptions
        max_sequences=chance.randint(1, 6),
        max_step_tokens=chance.choice([1, 7, 16, 64]),
        prefix_caching=chance.random() < 0.7,
        together=seed % 2 == 1,
    )
    prompts = random_prompts(chance, 9)
    counts = [chance.randint(1, 30) for _ in prompts]
    waiting = [language.greedy(key, prompt, counts[key]) for key, prompt in enumerate(prompts)]
    got: dict[int, list[int]] = {key: [] for key in range(len(prompts))}
    dropped: set[int] = set()
    while waiting or not engine.idle:
        if waiting and (engine.idle or chance.random() < 0.3):
            engine.add(waiting.pop(0))
        if chance.random() < 0.03:
            victim = chance.randrange(len(prompts))
            dropped.add(victim)
            engine.drop([victim])
            waiting = [sequence for sequence in waiting if sequence.key != victim]
        for piece in engine.step():
            got[piece.key] += tokens_of([piece])
        engine.pool.check(tables(engine))  # type: ignore[arg-type]
    for key, prompt in enumerate(prompts):
        expected = language.plain(decoder, prompt, len(got[key]) if key in dropped else counts[key])
        assert got[key] == expected, f"sequence {key}"
    engine.pool.check([])
    assert engine.pool.available == engine.pool.count
    assert not engine._readers


def test_the_small_caches_really_preempt(gpt2: Decoder) -> None:
    engine = language.engine(gpt2, blocks=8, max_sequences=4, max_step_tokens=64)
    prompts = [[key] * 20 for key in range(4)]
    results = engine.run([language.greedy(key, prompt, 60) for key, prompt in enumerate(prompts)])
    assert engine.scheduler.counts.preemptions > 0
    for key, prompt in enumerate(prompts):
        assert tokens_of(results[key]) == language.plain(gpt2, prompt, 60)


def test_a_known_prefix_is_not_computed_again_and_changes_nothing(gpt2: Decoder) -> None:
    prompt = list(range(100))
    engine, without = language.engine(gpt2), language.engine(gpt2, prefix_caching=False)
    first = tokens_of(engine.run([language.greedy(1, prompt, 8)])[1])
    again = tokens_of(engine.run([language.greedy(2, prompt, 8)])[2])
    assert first == again == tokens_of(without.run([language.greedy(1, prompt, 8)])[1])
    assert engine.scheduler.counts.prefix_queries == 200
    assert engine.scheduler.counts.prefix_hits == 96  # of the second: whole blocks, and one token must be computed
    assert without.scheduler.counts.prefix_hits == 0


def test_the_answer_is_known_too_when_the_conversation_goes_on(gpt2: Decoder) -> None:
    engine = language.engine(gpt2)
    answer = tokens_of(engine.run([language.greedy(1, list(range(30)), 30)])[1])
    engine.run([language.greedy(2, [*range(30), *answer, 7, 7, 7], 1)])
    assert engine.scheduler.counts.prefix_hits == 48


def test_generating_sequences_go_on_while_a_long_prompt_is_read_in_pieces(gpt2: Decoder) -> None:
    engine = language.engine(gpt2, max_step_tokens=16)
    engine.add(language.greedy(1, [1, 2, 3], 30))
    engine.step()
    engine.add(language.greedy(2, list(range(90)), 2))
    steps = [{piece.key for piece in engine.step()} for _ in range(6)]
    assert steps == [{1}] * 5 + [{1} | {2}] or steps == [{1}] * 6  # 90 tokens at 15 a step
    assert all(1 in keys for keys in steps)


def test_a_cache_that_is_too_small_for_one_sequence_is_refused_with_what_to_write(gpt2: Decoder) -> None:
    with pytest.raises(LoadFailure, match=r"kvCacheMemory.*at least 65536 bytes.*maxModelLen of at most 32"):
        language.engine(gpt2, blocks=2)


def test_a_sequence_ends_with_a_stop_token_that_is_not_shown(gpt2: Decoder) -> None:
    prompt = list(b"abc")
    expected = language.plain(gpt2, prompt, 20)
    stop = expected[7]
    place = expected.index(stop)
    sampling = Sampling(max_tokens=20, temperature=0, stop_tokens=frozenset({stop}))
    pieces = language.engine(gpt2).run([Sequence(1, prompt, sampling)])[1]
    assert tokens_of(pieces) == expected[: place + 1]
    assert pieces[-1].finish == "stop"
    assert "".join(piece.text for piece in pieces) == language.codec().decode(expected[:place])


def test_min_tokens_forbids_the_stop_token_until_then(gpt2: Decoder) -> None:
    prompt = list(b"abc")
    stop = language.plain(gpt2, prompt, 1)[0]
    sampling = Sampling(max_tokens=20, temperature=0, stop_tokens=frozenset({stop}), min_tokens=5)
    tokens = tokens_of(language.engine(gpt2).run([Sequence(1, prompt, sampling)])[1])
    assert len(tokens) >= 5
    assert stop not in tokens[:5]


def test_stop_strings_end_the_text_before_them(gpt2: Decoder) -> None:
    prompt = list(b"abc")
    text = language.codec().decode(language.plain(gpt2, prompt, 30))
    stop = text[9:12]
    for include in (False, True):
        sampling = Sampling(max_tokens=30, temperature=0, stop_strings=("nowhere", stop), include_stop=include)
        pieces = language.engine(gpt2).run([Sequence(1, prompt, sampling)])[1]
        shown = "".join(piece.text for piece in pieces)
        assert shown == text[: text.index(stop)] + (stop if include else "")
        assert pieces[-1].finish == "stop"


def test_the_prompt_alone_can_be_asked_for(gpt2: Decoder) -> None:
    sequence = Sequence(1, list(b"abcdef"), Sampling(max_tokens=0, prompt_logprobs=2))
    assert language.engine(gpt2).run([sequence])[1] == [Piece(1, finish="length")]
    assert [entry.token for entry in sequence.prompt_logprobs] == list(b"bcdef")
