"""The kernels of the decoding step, run by Triton's interpreter on a CPU, and the engine with them.

test_decode.py starts these tests, in a process that has TRITON_INTERPRET=1.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from modelyard_workloads.serve.generation.decode import GraphRunner
from modelyard_workloads.serve.generation.kernels import attend
from modelyard_workloads.serve.generation.sequences import Sampling, Sequence
from servers import language

BLOCK = 16


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "lengths"),
    [(4, 2, 32, [1, 16, 65, 130]), (3, 3, 24, [100]), (8, 1, 16, [63, 64])],
)
def test_attention_reads_the_cache_through_the_table(heads: int, kv_heads: int, width: int, lengths: list[int]) -> None:
    torch.manual_seed(heads)
    blocks = 48
    cache = torch.randn(2, blocks * BLOCK, kv_heads, width)
    table = torch.randperm(blocks)[: len(lengths) * 10].view(10, -1).to(torch.int32)
    query = torch.randn(len(lengths), heads, width)
    positions = torch.tensor(lengths, dtype=torch.int32) - 1
    got = attend(query, (cache[0], cache[1]), table, positions, block_tokens=BLOCK)
    for row, length in enumerate(lengths):
        slots = [int(table[p // BLOCK, row]) * BLOCK + p % BLOCK for p in range(length)]
        keys, values = (half[slots].transpose(0, 1)[None] for half in cache)
        want = F.scaled_dot_product_attention(query[row, :, None][None], keys, values, enable_gqa=True)
        torch.testing.assert_close(got[row], want[0, :, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_any_mix_of_sequences_gives_the_tokens_of_the_plain_loop(
    family: Literal["gpt2", "llama"],
) -> None:
    decoder = language.model(family)
    engine = language.engine(
        decoder, blocks=10, max_sequences=3, together=True, runner_of=partial(GraphRunner, record=False)
    )
    chance = random.Random(7)
    prompts = [[chance.randrange(256) for _ in range(chance.randint(1, 60))] for _ in range(3)]
    results = engine.run([language.greedy(key, prompt, 6) for key, prompt in enumerate(prompts)])
    for key, prompt in enumerate(prompts):
        assert [piece.token for piece in results[key]] == language.plain(decoder, prompt, 6)
    engine.pool.check([])


def test_tokens_by_chance_and_log_probabilities_are_those_without_the_runner() -> None:
    decoder = language.model()
    sampling = Sampling(max_tokens=8, seed=11, temperature=0.9, top_p=0.9, frequency_penalty=0.5, logprobs=2)

    def asked() -> list[Sequence]:
        return [Sequence(1, [1, 2, 3], sampling), language.greedy(2, [5] * 10, 8)]

    with_runner = language.engine(decoder, runner_of=partial(GraphRunner, record=False)).run(asked())
    without = language.engine(decoder).run(asked())
    for key in (1, 2):
        assert [piece.token for piece in with_runner[key]] == [piece.token for piece in without[key]]
    for got, want in zip(with_runner[1], without[1], strict=True):
        assert got.logprobs is not None
        assert want.logprobs is not None
        assert got.logprobs.logprob == pytest.approx(want.logprobs.logprob, abs=1e-4)
