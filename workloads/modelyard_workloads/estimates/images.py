"""Estimates of image networks, measured: two images go through the network, and what is kept of them is added up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modelyard_workloads.estimates.demand import NUMBER, Demand, trained
from modelyard_workloads.models.image_classifier import ImageClassifier
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters

_IMAGES = 2  # batch normalisation takes no less
_FORWARD_AND_BACKWARD = 3


def image_demand(
    model: ImageClassifier,
    image: tuple[int, int, int],
    parameters: ImageClassificationParameters,
    *,
    number: int,
    compiled: bool = False,
    private: bool = False,
) -> Demand:
    """Of a model on the CPU that is given images (C, H, W); changes its running averages. `number`: bytes of what
    matrix products read. `compiled`: what is cheap is computed again rather than kept, which leaves half at least.
    """
    sizes = [p.numel() for p in model.parameters()]
    count = sum(sizes)
    kept, flops = _measure(model, image)
    kept = kept * number // NUMBER // (2 if compiled else 1)
    return Demand(
        parameters=count,
        # A convolution lays its weights, and their gradient, out anew.
        state=trained(count, parameters, beside=2 * max(sizes)),
        row_bytes=kept + (NUMBER * count if private else 0),
        flops=flops,
        smaller="smaller architecture, or a smaller imageSize",
    )


def _measure(model: ImageClassifier, image: tuple[int, int, int]) -> tuple[int, float]:
    """(bytes kept for the backward pass, operations of the convolutions and linear layers) of one image, float32."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}
    products = 0

    def keep(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # so that its memory is not used again

    def count(module: nn.Module, _given: Any, made: Tensor) -> None:
        nonlocal products
        products += made.numel() * module.weight[0].numel()  # type: ignore[index]

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    watched = [layer.register_forward_hook(count) for layer in layers]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        model.train()(torch.zeros(_IMAGES, *image))
    for hook in watched:
        hook.remove()
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return size // _IMAGES, 2.0 * _FORWARD_AND_BACKWARD * products / _IMAGES
