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

logger = logging.getLogger(__name__)

_WAITING = 1000
"""Points that wait for a slow tracker; what comes on top is left out."""
CLOSING_SECONDS = 15.0
"""How long a training that is complete waits for its tracker to be told."""
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
        self._points: queue.Queue[Point | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name=self.tracker, daemon=True)
        self._thread.start()

    @abstractmethod
    def begin(self) -> None:
        """Find the run of an earlier attempt, or make one."""

    @abstractmethod
    def tell(self, points: Sequence[Point]) -> None:
        """Some points, in order; all figures are finite."""

    @abstractmethod
    def finish(self) -> None:
        """The training is complete."""

    def described(self, error: Exception) -> str:
        """An error without addresses, keys and passwords that its text may hold."""
        return type(error).__name__

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        with suppress(queue.Full):
            self._points.put_nowait((step, {name: value for name, value in values.items() if math.isfinite(value)}))

    def close(self) -> None:
        """Say that the training is complete, and wait for what is still to be told, but not for ever."""
        try:
            self._points.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(CLOSING_SECONDS)

    def _work(self) -> None:
        try:
            self.begin()
            while (point := self._points.get()) is not None:
                self.tell([point, *self._more()])
            self.finish()
        except Exception as error:
            logger.warning("%s is told no more of this attempt: %s", self.tracker, self.described(error))

    def _more(self) -> list[Point]:
        """What else waits already, but for the end."""
        points: list[Point] = []
        while len(points) + 1 < _TOGETHER and not self._points.empty() and self._points.queue[0] is not None:
            points.append(self._points.get())  # type: ignore[arg-type]
        return points
