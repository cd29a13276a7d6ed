"""Requests in flight over all protocols: what a drain waits for and what the metrics show."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic


@dataclass
class Traffic:
    """Used on the event loop's thread only; probes and scrapes are not counted."""

    in_flight: int = 0
    last_request: float = 0.0  # monotonic time at which the latest one ended
    requests: int = 0
    _area: float = 0.0
    _changed: float = field(default_factory=monotonic)

    def begin(self) -> None:
        """A request has arrived."""
        self._account(monotonic())
        self.in_flight += 1
        self.requests += 1

    def end(self, now: float) -> None:
        """It was answered, or its client has gone."""
        self._account(now)
        self.in_flight -= 1
        self.last_request = now

    def in_flight_seconds(self) -> float:
        """The integral of the requests in flight over time: its slope is the mean concurrency, exactly."""
        self._account(monotonic())
        return self._area

    def _account(self, now: float) -> None:
        self._area += self.in_flight * (now - self._changed)
        self._changed = now
