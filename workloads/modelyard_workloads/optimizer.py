"""Optimizers and the moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from modelyard_workloads.parameters import Parameters


def build_optimizer(model: nn.Module, parameters: Parameters) -> torch.optim.Optimizer:
    """SGD or AdamW. Vectors (biases, scales of normalisation) are exempt from weight decay: it would only fight the
    normalisation.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": parameters.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, momentum = parameters.learning_rate, parameters.momentum
    if parameters.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Load a saved state and give its tensors the memory layout of their parameters, as they had before they were
    saved.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class MovingAverage:
    """An exponential moving average of weights and floating-point buffers, in a model of its own that is never
    trained.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model. The first steps count more, so that the random start is forgotten soon."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
