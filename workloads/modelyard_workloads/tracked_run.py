"""A training as a run of somebody's experiment tracker: told by a thread of rank 0's, so that no step waits for it.

A tracker that is away costs points, never the training. All attempts of a training are one run.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress

from modelyard_workloads.exits import Ending

logger = logging.getLogger(__name__)

_WAITING = 1000
"""Points that wait for a slow tracker; what comes on top is left out."""
CLOSING_SECONDS: dict[Ending, float] = {"complete": 15.0, "stopped": 5.0, "failed": 2.0}
"""How long an attempt waits for its tracker to be told: one that failed is to be started again soon."""
_TOGETHER = 50
"""Points that are told at once."""

Point = tuple[int, dict[str, float]]
"""A step, and its figures by name."""


class TrackedRun(ABC):
    """One attempt's part of the run. `draw` and `close` never raise and hardly wait.

    What `begin`, `tell` and `finish` raise ends the telling; `described` makes a line of the log of it.
    """

    tracker: str
    """Its name, for the log."""

    def __init__(self) -> None:
        self._points: queue.Queue[Point | Ending] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name=self.tracker, daemon=True)
        self._thread.start()

    @abstractmethod
    def begin(self) -> None:
        """Find the run of an earlier attempt, or make one."""

    @abstractmethod
    def tell(self, points: Sequence[Point]) -> None:
        """Some points, in order; all figures are finite."""

    @abstractmethod
    def finish(self, ending: Ending) -> None:
        """There will be no more of this attempt."""

    def described(self, error: Exception) -> str:
        """An error without addresses, keys and passwords that its text may hold."""
        return type(error).__name__

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        with suppress(queue.Full):
            self._points.put_nowait((step, {name: value for name, value in values.items() if math.isfinite(value)}))

    def close(self, ending: Ending) -> None:
        """Say how the attempt ended, and wait for what is still to be told, but not for ever."""
        try:
            self._points.put(ending, timeout=1)
        except queue.Full:
            return
        self._thread.join(CLOSING_SECONDS[ending])

    def _work(self) -> None:
        try:
            self.begin()
            while not isinstance(point := self._points.get(), str):
                self.tell([point, *self._more()])
            self.finish(point)
        except Exception as error:
            logger.warning("%s is told no more of this attempt: %s", self.tracker, self.described(error))

    def _more(self) -> list[Point]:
        """What else waits already, but for the end."""
        points: list[Point] = []
        while len(points) + 1 < _TOGETHER and not self._points.empty() and isinstance(self._points.queue[0], tuple):
            points.append(self._points.get())  # type: ignore[arg-type]
        return points
