"""Integrated gradients (Sundararajan, Taly and Yan 2017, arXiv:1703.01365), by Captum.

The path from a baseline to the input is straight; the gradients along it, averaged and multiplied by the way, share out
the difference between both scores among the numbers of the input. A sum over `steps` points stands for the integral:
where it misses the difference by more than 1 %, the points are doubled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from modelyard_workloads.serve.explain.explanation import is_complete

MOST_STEPS = 1600
"""Beyond it the points themselves cost more than they bring."""


@dataclass(frozen=True)
class Effort:
    """How hard to try: points of the first round, and the time of time.monotonic at which an answer must be there."""

    steps: int
    deadline: float


@dataclass(frozen=True, kw_only=True)
class Integral:
    """Attributions, in the shapes of the inputs without their first dimension; scores; see `Explanation`."""

    attributions: tuple[Tensor, ...]
    output: float
    baseline: float
    delta: float
    steps: int


def integrate(
    score: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor, ...],
    effort: Effort,
    *,
    together: int,
) -> Integral:
    """`score` maps tensors (S, …), one for each input, to (S,); inputs and baselines are (1, …).

    `together`: points that are computed at once, which bounds the memory.
    """
    with torch.no_grad():
        output, baseline = float(score(*inputs)), float(score(*baselines))
    method, steps = IntegratedGradients(score), effort.steps
    while True:
        began = monotonic()
        found = method.attribute(inputs, baselines=baselines, n_steps=steps, internal_batch_size=together)
        delta = sum(float(part.double().sum()) for part in found) - (output - baseline)
        ended = monotonic()
        in_time = ended + 3 * (ended - began) < effort.deadline  # the next round takes twice as long as this one
        if is_complete(delta, output - baseline) or 2 * steps > MOST_STEPS or not in_time:
            parts = tuple(part.detach()[0].float() for part in found)
            return Integral(attributions=parts, output=output, baseline=baseline, delta=delta, steps=steps)
        steps *= 2
