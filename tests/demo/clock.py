"""The time budget: how many seconds each step took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

COLD_SECONDS = 15 * 60
WARM_SECONDS = 2 * 60


@dataclass
class Clock:
    """Seconds by step, in the order in which the steps ran; `began` is wall-clock time as time.time() gives it."""

    began: float = field(default_factory=time.time)
    steps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the time of the body; a step that runs in several parts adds up."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = self.steps.get(name, 0.0) + time.monotonic() - started

    @property
    def total(self) -> float:
        return time.time() - self.began


def seconds_text(seconds: float) -> str:
    """As in 0.4 s, 24 s, 3 min 5 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
