"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up to `peak` over `warmup_steps`, then `shape` down to zero at `total_steps`."""

    peak: float
    total_steps: int
    warmup_steps: int
    shape: Literal["cosine", "linear", "constant"]

    def learning_rate(self, step: int) -> float:
        """The rate for the optimizer step with index `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        if self.shape == "linear":
            return self.peak * (1.0 - done)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * done))

    def phase(self, step: int) -> Literal["warmup", "train"]:
        """The word for the step in progress reports."""
        return "warmup" if step < self.warmup_steps else "train"
