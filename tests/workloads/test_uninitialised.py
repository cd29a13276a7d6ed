"""Networks around weights that were read: the same answers, no random number drawn, nothing copied."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from modelyard_workloads.models.image_classifier import ImageArchitecture, build_network
from modelyard_workloads.models.uninitialised import with_weights
from torch import Tensor, nn


class Unusual(nn.Module):
    """Draws its weights in all the ways that PyTorch's layers and ours do, and computes a buffer."""

    computed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.convolution = nn.Linear(3, 4), nn.Conv2d(1, 2, 3)
        self.embedding, self.attention = nn.Embedding(5, 3), nn.MultiheadAttention(4, 2)
        for draw in (nn.init.trunc_normal_, nn.init.xavier_uniform_, nn.init.kaiming_normal_, nn.init.normal_):
            draw(self.linear.weight)
        nn.init.kaiming_uniform_(self.linear.weight, a=math.sqrt(5))
        self.register_buffer("computed", torch.arange(3.0), persistent=False)


def test_no_random_number_is_drawn_and_what_is_computed_is_there() -> None:
    weights = Unusual().state_dict()
    before = torch.get_rng_state()
    network = with_weights(Unusual, weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.computed.tolist() == [0, 1, 2]
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_weights_are_those_of_the_file_where_they_lie(tmp_path: Path) -> None:
    safetensors.torch.save_file(Unusual().state_dict(), tmp_path / "w.safetensors")
    read = safetensors.torch.load_file(tmp_path / "w.safetensors")
    network = with_weights(Unusual, read)
    assert all(value.data_ptr() == read[name].data_ptr() for name, value in network.state_dict().items())


def test_another_datatype_is_converted_and_what_does_not_fit_is_refused() -> None:
    weights = Unusual().state_dict()
    network = with_weights(Unusual, {name: value.half() for name, value in weights.items()})
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    with pytest.raises(RuntimeError, match=r"linear\.weight"):
        with_weights(Unusual, {**weights, "linear.weight": torch.zeros(3, 3)})
    with pytest.raises(RuntimeError, match=r"linear\.bias"):
        with_weights(Unusual, {name: value for name, value in weights.items() if name != "linear.bias"})


def test_a_network_answers_as_the_one_whose_weights_it_got() -> None:
    architecture = ImageArchitecture(name="resnet18", channels=1, classes=3, image_size=8, small_input_stem=True)
    network = build_network(architecture).eval()
    again = with_weights(lambda: build_network(architecture), network.state_dict()).eval()
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(images), network(images))
