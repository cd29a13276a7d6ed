"""What was measured of a ModelService's pods and routers, as `sync` gets it: frozen data, and sums over it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

LATENCY_BASE = 1.1
"""Latencies are counted in buckets: the one of index i ends at LATENCY_BASE**i milliseconds, so p99 is off by 10 %."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The requests of one revision, since the counting began."""

    requests: int = 0
    errors: int = 0
    """Answers of 500 and above, and requests that got none."""
    latencies: Mapping[int, int] = field(default_factory=dict)
    """Bucket index -> requests."""

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    @property
    def p99_milliseconds(self) -> float | None:
        """The upper end of the bucket in which the slowest hundredth begins; None where nothing was counted."""
        total = sum(self.latencies.values())
        rest = math.ceil(total * 0.99)
        for index in sorted(self.latencies):
            rest -= self.latencies[index]
            if rest <= 0:
                return round(LATENCY_BASE**index, 3)
        return None


@dataclass(frozen=True, kw_only=True)
class RouterLoad:
    """All routers of a service together."""

    tables: frozenset[str]
    """The routing tables that they have; one when all have taken up the newest."""
    seconds: float = 0.0
    """How long the youngest of them has been counting."""
    held: int = 0
    """Requests that wait for a server."""
    in_flight: int = 0
    idle_seconds: float = 0.0
    """Time since the last request to any of them."""
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    compared: int = 0
    agreed: int = 0
    """Mirrored requests whose answers were compared, and those that were alike."""

    @property
    def agreement(self) -> float | None:
        return self.agreed / self.compared if self.compared else None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The load of all servers at one time, the mean since the sample before."""

    time: datetime
    concurrency: float = 0.0
    rps: float = 0.0
    tokens: float = 0.0
    """Tokens a second, read and written."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """How far the servers that load their model from elsewhere are, bytes of the slowest."""

    done_bytes: int
    total_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Load:
    """Everything measured of one service."""

    samples: tuple[Sample, ...] = ()
    """Oldest first."""
    router: RouterLoad | None = None
    """None where there is none, or none answered."""
    download: Download | None = None


def sum_traffic(parts: Iterable[Traffic]) -> Traffic:
    """The same counts of several pods as one."""
    requests = errors = 0
    latencies: dict[int, int] = {}
    for part in parts:
        requests += part.requests
        errors += part.errors
        for index, count in part.latencies.items():
            latencies[index] = latencies.get(index, 0) + count
    return Traffic(requests=requests, errors=errors, latencies=latencies)
