"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_WSD_DECAY = 0.2  # share of the steps after the warm-up in which the rate falls


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up to `peak` over `warmup_steps`, then `shape` down to zero at `total_steps`."""

    peak: float
    total_steps: int
    warmup_steps: int
    shape: Literal["cosine", "linear", "constant", "wsd"]

    def learning_rate(self, step: int) -> float:
        """The rate for the optimizer step with index `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        if self.shape == "linear":
            return self.peak * (1.0 - done)
        if self.shape == "wsd":  # warm-up, stable, decay (Hu et al. 2024, MiniCPM)
            return self.peak * min(1.0, (1.0 - done) / _WSD_DECAY)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * done))

    def phase(self, step: int) -> Literal["warmup", "train"]:
        """The word for the step in progress reports."""
        return "warmup" if step < self.warmup_steps else "train"
