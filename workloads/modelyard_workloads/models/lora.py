"""LoRA: a linear layer stays as it is, and a product of two small matrices beside it learns (Hu et al. 2021, arXiv
2106.09685). `merge` adds the products to the weights: what is published is a plain model.

The state of a model with adapters is the adapters alone: that is what a checkpoint holds. A GPT-2 of 124 M parameters
is 498 MB; its adapters of rank 8 beside all projections are 1.2 M parameters, 4.7 MB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelyard_workloads.models.decoder import Block, Decoder

_DOWN, _UP = "down", "up"


class LoraLinear(nn.Module):
    """x -> base(x) + strength * up(down(x)); nothing at the beginning, since `up` is zero."""

    def __init__(self, base: nn.Linear, *, rank: int, strength: float, dropout: float) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.strength = strength
        self._dropout = dropout
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, values: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        small = F.linear(F.dropout(values, self._dropout, self.training), self.down)
        return F.linear(values, self.weight, self.bias) + self.strength * F.linear(small, self.up)


def add_adapters(
    decoder: Decoder, *, rank: int, alpha: float, dropout: float, layers: Literal["attention", "all"]
) -> None:
    """Put adapters beside the decoder's projections, freeze all else, and let its state be the adapters'."""
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    for block in decoder.blocks:
        assert isinstance(block, Block)
        parts: list[nn.Module] = [block.attention]
        if layers == "all":
            parts.append(block.feed_forward)
        for part in parts:
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    adapted = LoraLinear(layer, rank=rank, strength=alpha / rank, dropout=dropout)
                    setattr(part, name, adapted)
    decoder.register_state_dict_post_hook(_only_adapters)  # type: ignore[no-untyped-call]
    decoder.register_load_state_dict_post_hook(_allow_the_rest)  # type: ignore[no-untyped-call]


def merge(decoder: Decoder, adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a plain decoder: those of one with adapters, with these adapters' products added. On the CPU."""
    merged = {name: value.detach().cpu() for name, value in decoder.named_parameters()}  # a tied head but once
    for name, module in decoder.named_modules():
        if isinstance(module, LoraLinear):
            merged.pop(f"{name}.{_DOWN}"), merged.pop(f"{name}.{_UP}")
            down, up = (adapters[f"{name}.{part}"].cpu().float() for part in (_DOWN, _UP))
            merged[f"{name}.weight"] = merged[f"{name}.weight"] + module.strength * (up @ down)
    return merged


def _only_adapters(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in list(state):
        if name.startswith(prefix) and not name.endswith((f".{_DOWN}", f".{_UP}")):
            del state[name]


def _allow_the_rest(_module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [n for n in incompatible.missing_keys if n.endswith((f".{_DOWN}", f".{_UP}"))]
