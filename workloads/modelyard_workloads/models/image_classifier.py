"""An image network by name, and the preprocessing that belongs to it.

Shapes: B batch, C channels, H x W size of the images as they come, S size the network sees, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelyard_workloads.models.resnet import BLOCKS, ResNet


@dataclass(frozen=True, kw_only=True)
class ImageArchitecture:
    """Everything that is needed to build the network again."""

    name: str
    channels: int
    classes: int
    image_size: int
    small_input_stem: bool = False
    dropout: float = 0.0
    group_norm: bool = False  # in place of batch normalisation, which mixes the samples of a batch


class UnknownArchitecture(ValueError):
    """No network has this name, or it cannot be built for these images."""


def build_network(architecture: ImageArchitecture) -> nn.Module:
    """(B, C, S, S) -> logits (B, K). ResNets are ours (they start fast), all others timm's. Raises
    UnknownArchitecture.
    """
    network = _build_network(architecture)
    return with_group_norm(network) if architecture.group_norm else network


def with_group_norm(network: nn.Module) -> nn.Module:
    """Batch normalisation replaced by group normalisation (Wu and He 2018, arXiv:1803.08494) of at most 32 groups, in
    place; scales and shifts keep their initial values.
    """
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            groups = math.gcd(32, child.num_features)
            norm = nn.GroupNorm(groups, child.num_features, eps=child.eps)
            norm.load_state_dict({"weight": child.weight.detach(), "bias": child.bias.detach()})
            setattr(network, name, norm)
        else:
            with_group_norm(child)
    return network


def _build_network(architecture: ImageArchitecture) -> nn.Module:
    if architecture.name in BLOCKS:
        return ResNet(
            architecture.name,
            channels=architecture.channels,
            classes=architecture.classes,
            small_stem=architecture.small_input_stem,
            dropout=architecture.dropout,
        )
    if architecture.small_input_stem:
        raise UnknownArchitecture(f"smallInputStem is for {', '.join(BLOCKS)} only, not for {architecture.name}")
    return _timm_network(architecture)


def _timm_network(architecture: ImageArchitecture) -> nn.Module:
    import timm  # half of a second; only where it is needed

    if not timm.is_model(architecture.name):
        near = get_close_matches(architecture.name, [*BLOCKS, *timm.list_models()])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnknownArchitecture(f"{architecture.name!r} is no known architecture{hint}")
    arguments: dict[str, Any] = {
        "pretrained": False,
        "in_chans": architecture.channels,
        "num_classes": architecture.classes,
        "drop_rate": architecture.dropout,
    }
    try:
        try:
            # Transformers need to know the size; convolutional networks do not take it.
            network: nn.Module = timm.create_model(architecture.name, img_size=architecture.image_size, **arguments)
        except TypeError:
            network = timm.create_model(architecture.name, **arguments)
    except (AssertionError, RuntimeError, ValueError) as error:
        size = architecture.image_size
        raise UnknownArchitecture(f"{architecture.name} cannot be built for {size} x {size}: {error}") from None
    return network


class ImageClassifier(nn.Module):
    """Pixels 0..1 as they come -> resize -> normalise -> network -> logits; the same in training and in serving."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int,
        mean: list[float],
        std: list[float],
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size
        self.memory_format = memory_format
        self.to(memory_format=memory_format)
        # They are in the artifact's `preprocess`, not among the weights.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in 0..1 -> logits (B, K)"""
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        images = (images - self.mean) / self.std
        logits: Tensor = self.network(images.contiguous(memory_format=self.memory_format))
        return logits
