"""Where the seconds of an attempt go: every one has exactly one cause, and the causes sum to the elapsed time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

STARTED_VARIABLE = "MODELYARD_STARTED_AT"  # seconds of CLOCK_MONOTONIC, which all processes of a pod share

Cause = Literal["startup", "productive", "replayed", "checkpoint", "evaluation", "dataWait"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


class Stopwatch:
    """Attributes time to one cause at a time; it runs since the launcher started, at first for `startup`."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        now = time.monotonic()
        try:
            started = float(environment.get(STARTED_VARIABLE, ""))
        except ValueError:  # a bare process, without a launcher
            started = now
        self._seconds: dict[Cause, float] = dict.fromkeys(CAUSES, 0.0)
        self._cause: Cause = "startup"
        self._since = self._lap_began = min(started, now)
        self.laps: dict[str, float] = {}  # seconds of the parts of the start

    def switch(self, cause: Cause) -> Cause:
        """From now on time has another cause; returns the one before."""
        now = time.monotonic()
        self._seconds[self._cause] += now - self._since
        before, self._cause, self._since = self._cause, cause, now
        return before

    def lap(self, name: str) -> None:
        """A part of the start is done; a rank's first step is not reached before all are."""
        now = time.monotonic()
        self.laps[name] = round(now - self._lap_began, 3)
        self._lap_began = now

    @contextmanager
    def during(self, cause: Cause) -> Iterator[None]:
        """Inside, time has this cause."""
        before = self.switch(cause)
        try:
            yield
        finally:
            self.switch(before)

    def read(self) -> dict[str, float]:
        """Seconds by cause until now; may be called from another thread."""
        cause, running = self._cause, time.monotonic() - self._since
        return {
            name: round(seconds + (running if name == cause else 0.0), 3) for name, seconds in self._seconds.items()
        }
