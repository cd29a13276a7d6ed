"""Optimizers and the moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from modelyard_workloads.muon import Muon
from modelyard_workloads.parameters import Parameters


def build_optimizer(model: nn.Module, parameters: Parameters) -> torch.optim.Optimizer:
    """SGD, AdamW or Muon, in their fused forms. Vectors (biases, scales of normalisation) are exempt from weight decay:
    it would only fight the normalisation.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in trainable if p.ndim > 1], "weight_decay": parameters.weight_decay},
        {"params": [p for _, p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, momentum = parameters.learning_rate, parameters.momentum
    betas, epsilon = (momentum, parameters.beta2), parameters.epsilon
    if parameters.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon, fused=True)
    if parameters.optimizer == "muon":
        hidden = _hidden_matrices(model)
        orthogonal = {**groups[0], "params": [p for _, p in trainable if p in hidden], "orthogonal": True}
        groups[0]["params"] = [p for _, p in trainable if p.ndim > 1 and p not in hidden]
        muon = [group for group in (orthogonal, *groups) if group["params"]]
        return Muon(muon, lr=rate, momentum=0.95, betas=betas, eps=epsilon)
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)


def _hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The matrices that Muon is for: weights of linear layers and convolutions, but neither embeddings nor the last
    layer, whose rows stand for a token or a class each.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    return {layer.weight for layer in layers[:-1]} - tables


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
