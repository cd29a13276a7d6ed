"""Is anything moving? Counted where work is done, told to the launcher once a second.

Whoever does work of unknown length (an evaluation, writing a checkpoint, reading a large data set) calls `moved` for
every piece of it. A rank that hangs calls nothing, and the launcher and the operator see the count stand still: it is
never driven by time alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

INTERVAL_SECONDS = 1.0


class Heartbeat:
    """A count of pieces of work, and a thread that says the count whenever it has changed."""

    def __init__(self) -> None:
        self.count = 0

    def moved(self) -> None:
        """One more piece of work is done. Cheap: it may be called thousands of times a second, from any thread."""
        self.count += 1

    def start(self, say: Callable[[int], None]) -> None:
        """Say the count now and then at most once a second, until the process ends."""
        threading.Thread(target=self._work, args=(say,), name="heartbeat", daemon=True).start()

    def _work(self, say: Callable[[int], None]) -> None:
        said, pause = -1, threading.Event()
        while True:
            if self.count != said:
                said = self.count
                say(said)
            pause.wait(INTERVAL_SECONDS)


PROCESS = Heartbeat()  # of this process: readers of data need not be handed one
moved = PROCESS.moved
