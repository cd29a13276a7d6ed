"""Muon: the update of a matrix is its momentum made orthogonal; everything else takes AdamW.

Sources: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), for the quintic
Newton-Schulz iteration and its coefficients; J. Liu et al., "Muon is Scalable for LLM Training" (arXiv 2502.16982),
for decoupled weight decay and the factor 0.2 sqrt(max(rows, columns)) that gives its updates the size of AdamW's, so
that one learning rate and one weight decay serve both.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SIZE_OF_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal: True` hold matrices (convolutions count as matrices, one row a filter) and are updated
    by Muon; the others by AdamW with `betas` and `eps`.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["orthogonal"]:
                self._orthogonal(parameters, group)
            elif parameters:
                self._adamw(parameters, group)

    def _orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            gradient, momentum = parameter.grad, state["momentum"]
            momentum.lerp_(gradient, 1 - group["momentum"])
            ahead = gradient.lerp(momentum, group["momentum"])  # Nesterov
            by_shape[parameter.shape].append((parameter, ahead.flatten(1)))
        for pairs in by_shape.values():
            updates = orthogonalised(torch.stack([update for _, update in pairs]))
            size = _SIZE_OF_ADAMW * math.sqrt(max(updates.shape[1:]))
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter).to(parameter.dtype), alpha=-group["lr"] * size)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalised(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> the same shape, singular values pushed to about 1 (0.7 to 1.2) by a few products."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    working: Tensor = matrices.mT if tall else matrices
    if matrices.device.type == "cuda":
        working = working.bfloat16()  # the iteration forgives the rounding
    working = working / (working.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = working @ working.mT
        working = a * working + (b * gram + c * gram @ gram) @ working
    return working.mT if tall else working
