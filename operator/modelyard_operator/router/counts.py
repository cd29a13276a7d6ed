"""What a router has counted since it started, for the operator (`/status`) and for Prometheus (`/metrics`)."""

from __future__ import annotations

import math
from collections import defaultdict
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from modelyard_operator.load import LATENCY_BASE

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_LOG_BASE = math.log(LATENCY_BASE)


class Counts:
    """Requests by revision, held and in flight, and mirrored answers."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._began = monotonic()
        self._last_request = self._began
        self.held = 0
        self.in_flight = 0
        self._requests: defaultdict[str, int] = defaultdict(int)
        self._errors: defaultdict[str, int] = defaultdict(int)
        self._latencies: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        self.compared = 0
        self.agreed = 0
        self.registry = CollectorRegistry()
        self._total = Counter("modelyard_router_requests", "Requests.", ("revision", "code"), registry=self.registry)
        self._seconds = Histogram(
            "modelyard_router_request_seconds",
            "From a request's head to the end of its answer.",
            ("revision",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        gauges = {"held": "Requests that wait for a server.", "in_flight": "Requests that are not answered yet."}
        for name, text in gauges.items():
            gauge = Gauge(f"modelyard_router_requests_{name}", text, registry=self.registry)
            gauge.set_function(lambda name=name: float(getattr(self, name)))  # type: ignore[misc]
        self._compared = Counter(
            "modelyard_router_compared_answers", "Mirrored requests.", ("alike",), registry=self.registry
        )

    def arrived(self) -> None:
        """A request's head is there."""
        self.in_flight += 1
        self._last_request = monotonic()

    def touch(self) -> None:
        """Something goes on that is no request of its own."""
        self._last_request = monotonic()

    def left(self) -> None:
        """Its answer was sent, or its client is gone."""
        self.in_flight -= 1
        self._last_request = monotonic()

    def answered(self, revision: str, code: int, seconds: float, *, judged: bool = True) -> None:
        """A revision answered; code 0 where it did not. Only what is `judged` counts in the verdict on a revision."""
        if judged:
            self._requests[revision] += 1
            self._errors[revision] += code == 0 or code >= 500
            self._latencies[revision][_bucket(seconds)] += 1
        children = self._children.get((revision, code))
        if children is None:  # finding them by their labels costs as much as counting
            children = self._total.labels(revision, str(code)), self._seconds.labels(revision)
            self._children[revision, code] = children
        children[0].inc()
        children[1].observe(seconds)

    def compare(self, alike: bool) -> None:
        """A mirrored request's answers were compared."""
        self.compared += 1
        self.agreed += alike
        self._compared.labels(str(alike).lower()).inc()

    def status(self) -> dict[str, Any]:
        """What `modelyard_operator.measuring` reads."""
        now = monotonic()
        return {
            "table": self._table,
            "seconds": round(now - self._began, 3),
            "held": self.held,
            "inFlight": self.in_flight,
            "idleSeconds": 0.0 if self.in_flight else round(now - self._last_request, 3),
            "compared": self.compared,
            "agreed": self.agreed,
            "revisions": {
                revision: {
                    "requests": count,
                    "errors": self._errors[revision],
                    "latencies": {str(index): n for index, n in self._latencies[revision].items()},
                }
                for revision, count in self._requests.items()
            },
        }


def _bucket(seconds: float) -> int:
    """See `load.LATENCY_BASE`."""
    return max(0, math.ceil(math.log(max(seconds * 1000, 1e-3)) / _LOG_BASE))
