"""What is compiled, and how often: blocks that are alike once, batches of any lengths twice at most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from modelyard_workloads.backward import Regional
from modelyard_workloads.models.bert import BertConfig, BertPretraining, pack_rows
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.models.next_token import NextTokenLoss
from torch import nn


class Graphs:
    """A compiler that compiles nothing and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        self.count += 1
        return graph


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    torch.compiler.reset()
    yield Graphs()
    torch.compiler.reset()


def compile_regions(model: nn.Module, graphs: Graphs) -> None:
    assert isinstance(model, Regional)
    for region in model.regions():
        region.compile(backend=graphs)


def test_the_blocks_of_a_decoder_are_compiled_once_for_all(graphs: Graphs) -> None:
    model = NextTokenLoss(Decoder(DecoderConfig.gpt2(vocabulary=64, context=16, layers=10, width=16, heads=2)))
    tokens = torch.randint(64, (2, 16))
    plain = model(tokens, tokens)
    compile_regions(model, graphs)
    for _ in range(2):
        loss = model(tokens, tokens)
        loss.backward()
    assert graphs.count == 2  # a block, and the loss
    torch.testing.assert_close(loss, plain)


def test_rows_of_other_lengths_are_not_compiled_anew(graphs: Graphs) -> None:
    config = BertConfig(vocabulary=64, context=64, layers=3, width=16, heads=2, inner=32, dropout=0.0)
    model = BertPretraining(config, next_sentence=True)
    compile_regions(model, graphs)
    draw = np.random.default_rng(0)
    for _ in range(6):
        lengths = draw.integers(8, 64, size=5)
        rows = pack_rows([draw.integers(64, size=n) for n in lengths], [np.zeros(n, np.int64) for n in lengths])
        model(rows, torch.arange(0, len(rows.tokens), int(draw.integers(5, 9)))).masked.sum().backward()
    assert graphs.count <= 4  # a block and the head: as they are first, and for any number of tokens
