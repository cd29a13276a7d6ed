"""Whether one more sequence may wait: by how many wait, and by how long it would be until its first step."""

from __future__ import annotations

from collections import deque
from statistics import fmean

from modelyard_workloads.serve.errors import InvalidInput, Saturated

_REMEMBERED = 32  # sequences that ended: how long the latest were in the steps


class Admission:
    """At most `max_queue` sequences wait, and none where the expected wait is longer than `max_wait` seconds.

    Where places in the steps are taken, the next one comes free after a sequence's time in them, divided by their
    number (Little's law); the time is that of the sequences that ended last.
    """

    def __init__(self, max_queue: int, max_wait: float) -> None:
        self._max_queue = max_queue
        self._max_wait = max_wait
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def ended(self, seconds: float) -> None:
        """A sequence was in the steps for so long, to its end or until its client left."""
        self._seconds.append(seconds)

    def check(self, count: int, depth: int, expected_wait: float) -> None:
        """Raise unless `count` sequences more may wait behind `depth` others.

        Raises Saturated, and InvalidInput where they never could.
        """
        if count > self._max_queue:
            raise InvalidInput(
                f"the request asks for {count} answers (prompts times n), at most {self._max_queue} may wait:"
                " send fewer prompts or a smaller n"
            )
        if depth + count > self._max_queue:
            raise Saturated("the model's queue is full; try again later")
        if expected_wait > self._max_wait:
            raise Saturated("the model's queue is too long to be answered soon; try again later")

    def expected_wait(self, depth: int, running: int, places: int, *, left_waiting: bool) -> float:
        """Seconds until the first step of one that comes behind `depth` others.

        `running` sequences are in the steps, which have at most `places`. `left_waiting`: the latest step left some
        waiting, so no place is free, whatever the reason (the cache may be full before the places are).
        """
        if not self._seconds:
            return 0.0
        ahead = depth if left_waiting else max(depth - (places - running), 0)
        return ahead * fmean(self._seconds) / max(running if left_waiting else places, 1)
