"""What servers and routers tell of their load, from their words to numbers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard_operator.load import RouterLoad, Traffic, sum_traffic
from modelyard_operator.service.runtime import LoadMetrics

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """One server's load; all but `in_flight` count from its start."""

    in_flight: float
    in_flight_seconds: float | None = None
    """The integral of the requests in flight; None where a server tells only how many there are now."""
    requests: float = 0.0
    tokens: float = 0.0


def read_counters(told: Mapping[str, Any]) -> Counters:
    """From a bundled server's `/v2/health/load`. Raises KeyError, TypeError and ValueError."""
    return Counters(
        in_flight=float(told["inFlight"]),
        in_flight_seconds=float(told["inFlightSeconds"]),
        requests=float(told["requests"]),
        tokens=float(told["tokens"]),
    )


def read_exposition(text: str, metrics: LoadMetrics) -> Counters:
    """From a Prometheus exposition, by the names of a runtime profile. Raises ValueError."""
    sums: dict[str, float] = {}
    wanted = {*metrics.in_flight, *metrics.requests, *metrics.tokens}
    for name, value in _SAMPLE.findall(text):
        if name in wanted:
            sums[name] = sums.get(name, 0.0) + float(value)
    return Counters(
        in_flight=sum(sums.get(name, 0.0) for name in metrics.in_flight),
        requests=sum(sums.get(name, 0.0) for name in metrics.requests),
        tokens=sum(sums.get(name, 0.0) for name in metrics.tokens),
    )


@dataclass(frozen=True, kw_only=True)
class RouterStatus:
    """One router's `/status`."""

    table: str
    seconds: float
    held: int
    in_flight: int
    idle_seconds: float
    compared: int
    agreed: int
    traffic: Mapping[str, Traffic]

    @staticmethod
    def together(staying: Sequence[RouterStatus], ending: Sequence[RouterStatus], silent: int) -> RouterLoad:
        """All routers of a service; `silent` is the number of those that should have answered and did not."""
        revisions = {revision for status in staying for revision in status.traffic}
        both = (*staying, *ending)
        return RouterLoad(
            tables=frozenset({status.table for status in staying} | ({"unknown"} if silent else set())),
            seconds=min(status.seconds for status in staying),
            held=sum(status.held for status in both),
            in_flight=sum(status.in_flight for status in both),
            idle_seconds=0.0 if silent else min(status.idle_seconds for status in both),
            traffic={r: sum_traffic(s.traffic[r] for s in staying if r in s.traffic) for r in revisions},
            compared=sum(status.compared for status in staying),
            agreed=sum(status.agreed for status in staying),
        )


def read_router(told: Mapping[str, Any]) -> RouterStatus:
    """Raises KeyError, TypeError and ValueError for what no router of ours would say."""
    traffic = {
        str(revision): Traffic(
            requests=int(counts["requests"]),
            errors=int(counts["errors"]),
            latencies={int(index): int(count) for index, count in counts["latencies"].items()},
        )
        for revision, counts in told["revisions"].items()
    }
    return RouterStatus(
        table=str(told["table"]),
        seconds=float(told["seconds"]),
        held=int(told["held"]),
        in_flight=int(told["inFlight"]),
        idle_seconds=float(told["idleSeconds"]),
        compared=int(told["compared"]),
        agreed=int(told["agreed"]),
        traffic=traffic,
    )
