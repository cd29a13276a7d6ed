"""What is compiled, and how often: blocks that are alike once, batches of any lengths twice at most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from modelyard_workloads.backward import Regional
from modelyard_workloads.models.bert import BertConfig, BertPretraining, _rounded, pack_rows, round_up
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.models.next_token import NextTokenLoss
from modelyard_workloads.models.recommender import Layers
from modelyard_workloads.randomness import strictly_deterministic
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


def test_layers_of_torch_alone_are_compiled_too(graphs: Graphs) -> None:
    layers = Layers(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    layers.compile(backend=graphs)
    layers(torch.ones(2, 4))
    assert graphs.count == 1
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_tokens_become_a_round_number_by_a_row_of_zeros() -> None:
    rows = pack_rows([np.arange(70), np.arange(50)], [np.zeros(n, np.int64) for n in (70, 50)])
    padded, with_it = _rounded(torch.ones(120, 3), rows)
    assert with_it.starts.tolist() == [0, 70, 120, 128]
    assert with_it.longest == 70
    assert padded[:120].eq(1).all()
    assert padded[120:].eq(0).all()


def test_batches_of_thousands_of_tokens_have_few_sizes() -> None:
    sizes = {round_up(count) for count in range(8193, 16385)}
    assert len(sizes) == 16
    assert all(0 <= round_up(count) - count <= max(63, count // 16) for count in range(1, 20_000))


def test_strictness_ends_with_its_block() -> None:
    before = torch.get_deterministic_debug_mode()
    with strictly_deterministic():
        assert torch.get_deterministic_debug_mode() == 2
    assert torch.get_deterministic_debug_mode() == before
