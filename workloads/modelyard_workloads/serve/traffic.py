"""Requests in flight over all protocols: what a drain waits for and what the metrics show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Used on the event loop's thread only; probes and scrapes are not counted."""

    in_flight: int = 0
    last_request: float = 0.0  # monotonic time at which the latest one ended

    def begin(self) -> None:
        """A request has arrived."""
        self.in_flight += 1

    def end(self, now: float) -> None:
        """It was answered, or its client has gone."""
        self.in_flight -= 1
        self.last_request = now
